"""Kinds of requests and the ratio to the bar, on a shop of six items and on tables worked out by hand."""

import numpy as np
import pytest

from tests.training.evaluation.shop import make_busy_shop, make_shop
from training.data.split import TEST
from training.evaluation.judge import Ranking
from training.evaluation.metric import bootstrap_interval, mean_over_seeds, relative_difference, resampled_by_user
from training.evaluation.question import ask
from training.evaluation.request_kind import (
    BAR,
    START,
    by_kind,
    compare_values,
    describe_bar,
    judge_bar,
    kinds_of,
    pooled_by_kind,
)

TOP = np.zeros((5, 6), dtype=np.int32)


def test_requests_stand_apart_by_what_is_known_of_user_and_item():
    kinds = kinds_of(np.array([True, True, False, False]), np.array([True, False, True, False]))

    assert {name: np.flatnonzero(mask).tolist() for name, mask in kinds.items()} == {
        "all": [0, 1, 2, 3],
        "warm": [0, 1],
        "cold": [2, 3],
        "known_item": [0, 2],
        "new_item": [1, 3],
        "warm_known_item": [0],
    }


def test_a_kind_that_says_nothing_new_is_left_out():
    everybody = np.ones(2, dtype=bool)

    assert list(kinds_of(everybody, np.array([True, False]))) == ["all", "known_item", "new_item"]
    assert list(kinds_of(everybody, everybody)) == ["all"]


def test_each_model_has_its_ratio_to_the_bar_on_every_kind():
    question = ask(make_busy_shop(), TEST)
    bar = Ranking(np.array([1, 1, 3, 1, 1]), TOP, start=np.array([1, 1, 1, 1, 1]))
    model = Ranking(np.array([1, 3, 3, 3, 30]), TOP, start=np.array([3, 3, 3, 3, 3]))
    old = Ranking(np.array([1, 1, 1, 1, 1]), TOP)

    table = by_kind({"model": model, BAR: bar, "old": old}, question)

    counted = {name: (kind["requests"], kind["users"]) for name, kind in table.items()}
    assert counted == {
        "all": (5, 3),
        "warm": (4, 2),
        "cold": (1, 1),
        "known_item": (3, 3),  # items 0, 1 and 1: the others have no training event
        "new_item": (2, 1),
        "warm_known_item": (2, 2),
        START: (5, 3),
    }
    assert table["cold"]["models"]["model"]["of_bar"] == {"ratio": 0, "low": 0, "high": 0}
    assert table["all"]["models"]["model"]["ndcg@10"] == pytest.approx((1 + 0.5 + 0.5 + 0.5) / 5)
    assert table["known_item"]["models"]["model"]["of_bar"]["ratio"] == pytest.approx(1 / 3)
    assert table["known_item"]["models"]["model"]["hr@10"] == pytest.approx(2 / 3)
    assert table[START]["models"]["model"]["of_bar"] == {"ratio": 0.5, "low": 0.5, "high": 0.5}
    assert "old" not in table[START]["models"] and table[START]["models"][BAR]["ndcg@10"] == 1


def test_runs_of_several_seeds_are_pooled_request_by_request_and_folds_one_after_the_other():
    questions = [ask(make_shop(), TEST)] * 2
    rankings = {
        BAR: [Ranking(np.array([1, 1]), TOP[:2])] * 2,
        "m": [Ranking(np.array(r), TOP[:2]) for r in ([1, 30], [1, 1])],
    }

    seeds = pooled_by_kind(questions, rankings, mean_over_seeds)["all"]
    folds = pooled_by_kind(questions, rankings, np.concatenate)["all"]

    assert (seeds["requests"], folds["requests"]) == (2, 4)
    assert seeds["models"]["m"]["of_bar"]["ratio"] == folds["models"]["m"]["of_bar"]["ratio"] == 0.75
    assert START not in pooled_by_kind(questions, rankings, np.concatenate), "no event ties"


@pytest.mark.parametrize(
    ("of_bar", "standing", "words"),
    [
        ({"ratio": 0.7, "low": 0.6, "high": 0.8}, "below", "Below the bar"),
        ({"ratio": 1.0, "low": 0.9, "high": 1.1}, "within", "within noise"),
        ({"ratio": 1.1, "low": 1.05, "high": 1.2}, "above", "Above the bar"),
    ],
)
def test_the_bar_is_said_in_a_sentence(of_bar, standing, words):
    found, sentence = judge_bar(of_bar, {"half_life_hours": 24})

    assert found == standing and words in sentence and "half-life of 24 hours" in sentence
    assert judge_bar(None, {}) is None


def test_a_setting_of_the_bar_is_described():
    assert describe_bar({"window_days": 3}) == "window of 3 days"
    assert describe_bar({"days": 1}) == "window of 1 day", "as older runs name it"


def test_without_a_bar_there_are_no_ratios():
    table = by_kind({"model": Ranking(np.array([1, 2]), TOP[:2])}, ask(make_shop(), TEST))

    assert table["all"]["models"]["model"]["of_bar"] is None
    assert START not in table


def test_a_bar_that_finds_nothing_has_no_ratio():
    rows = compare_values(["a", BAR], np.array([[1.0, 0.0], [0.5, 0.0]]), np.array([0, 1]), BAR)

    assert rows["a"]["of_bar"] is None and rows["a"]["ndcg@10"] == 0.75


def test_the_requests_of_one_user_are_resampled_together():
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(50), 20)
    values = np.repeat(rng.random(50), 20)

    low, high = bootstrap_interval(values, users)

    alone_low, alone_high = bootstrap_interval(values)
    assert high - low > 3 * (alone_high - alone_low), "20 copies of a user are no more knowledge than one"
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(50), rel=0.15)
    gain = relative_difference(1.1 * values, values, users)
    assert gain["low"] == pytest.approx(0.1) == gain["high"]


def test_resampling_by_user_equals_its_definition():
    values, users = np.array([[1.0], [3.0], [5.0]]), np.array([7, 7, 2])

    means = resampled_by_user(values, users)[:, 0]

    possible = {2.0, 5.0, 3.0}  # twice the one user, twice the other, both
    assert {round(mean, 9) for mean in means} == possible
    assert np.mean(means == 3.0) == pytest.approx(0.5, abs=0.05)
