"""What is said of rankings beyond their metrics, on a shop of six items, worked out by hand."""

import numpy as np
import pytest

from tests.training.evaluation.shop import falling, make_busy_shop, make_shop
from training.data.split import TEST
from training.evaluation.judge import Ranking, rank
from training.evaluation.quality import (
    beside_baselines,
    measure_baskets,
    measure_repeats,
    overlaps,
    summarise_quality,
    verdict,
)
from training.evaluation.question import ask


def test_repeats_reports_both_rules_and_the_users_with_a_new_target():
    question = ask(make_shop(), TEST)

    both = measure_repeats(rank(question, falling, 10, both_rules=True), question)

    assert both["seen_ranked"]["hr@10"] == 1 and both["seen_left_out"]["hr@10"] == 0.5
    assert both["new_targets"] == {"users": 1, "hr@10": 1.0, "ndcg@10": pytest.approx(0.63092975)}
    assert measure_repeats(rank(question, falling, 10), question) is None


def test_next_basket_recall_counts_all_that_was_held_out_in_that_instant():
    question = ask(make_busy_shop(), TEST)

    found = measure_baskets(rank(question, falling, 10), question)

    assert found["baskets"] == 4 and found["of_several_items"] == 1, "4 and 0; 5; 1; 1"
    assert found["recall@5"] == (1 + 0 + 1 + 1) / 4
    lists = [[0, 1, 2, 3, 5], [9] * 5, [0, 1, 2, 3, 4], [0, 2, 3, 4, 5], [1, 2, 3, 4, 5]]
    cut = Ranking(np.ones(5), np.array(lists, dtype=np.int32))
    assert measure_baskets(cut, question)["recall@5"] == (0.5 + 0 + 0 + 1) / 4


def test_next_basket_is_none_where_each_user_has_one_held_out_item():
    question = ask(make_shop(), TEST)

    assert measure_baskets(rank(question, falling, 10), question) is None


def test_overlaps_are_of_the_pairs_that_are_there():
    top = np.tile(np.arange(20, dtype=np.int32), (2, 1))
    rankings = {"student": Ranking(np.ones(2), top), "teacher": Ranking(np.ones(2), top[:, ::-1])}

    assert overlaps(rankings) == {"student / teacher": {"overlap@5": 0.0, "overlap@10": 0.0, "overlap@20": 1.0}}


def ranked(*ranks):
    return Ranking(np.array(ranks), np.tile(np.arange(20, dtype=np.int32), (len(ranks), 1)))


def test_the_student_is_compared_with_peers_and_baselines_the_strongest_first():
    rankings = {"student": ranked(1, 2), "teacher": ranked(1, 1), "weak": ranked(9, 9), "strong": ranked(1, 1)}

    beside = beside_baselines(rankings, ["weak", "strong"])

    assert list(beside) == ["strong", "weak"]
    assert beside["strong"]["difference"] < 0 < beside["weak"]["difference"]


@pytest.mark.parametrize(
    ("alone", "paid", "words"),
    [
        ([9] * 50, True, "Distillation pays"),
        ([1] * 25 + [3] * 25, True, "within noise"),
        ([1] * 50, False, "Failed"),
    ],
)
def test_the_verdict_follows_from_the_gain_over_the_student_alone(alone, paid, words):
    student = [2, 1] * 25
    rankings = {"student": ranked(*student), "student_alone": ranked(*alone), "teacher": ranked(*[1] * 50)}

    found, sentence = verdict(summarise_quality(rankings, 20))

    assert found is paid and words in sentence
    assert "of the teacher's" in sentence
