"""Questions about a shop of six items, worked out by hand, and the laws that every split keeps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import Item
from tests.training.evaluation.shop import make_busy_shop, make_shop
from training.data.prepared import Prepared
from training.data.split import TEST, VAL, SplitRule, assign_parts
from training.evaluation import question as question_module
from training.evaluation.question import ask, judged_part, most_asked


def known(question):
    return [rows.tolist() for rows in question.histories(np.arange(len(question.users)))]


def test_each_event_of_the_part_is_a_request_at_its_own_time_and_the_state_moves_on_within_the_part():
    question = ask(make_busy_shop(), TEST)

    assert question.users.tolist() == [0, 0, 0, 1, 2]
    assert question.target.tolist() == [4, 0, 5, 1, 1]
    assert question.asked_ms.tolist() == [40, 40, 50, 45, 60]
    assert known(question) == [[0, 1, 2], [0, 1, 2, 4], [0, 1, 2, 4, 0], [1, 3, 5], []]
    assert question.is_repeat().tolist() == [False, True, False, True, False]
    assert question.lengths().tolist() == [3, 4, 5, 3, 0]


def test_the_start_of_the_basket_knows_only_what_lies_strictly_before_the_instant():
    start = ask(make_busy_shop(), TEST).at_start()

    assert known(start) == [[0, 1, 2], [0, 1, 2], [0, 1, 2, 4, 0], [1, 3, 5], []]
    assert start.at_start() is start
    assert ask(make_shop(), TEST).opening is None, "no event ties"


def test_a_basket_is_what_one_instant_held_out_and_belongs_to_its_first_request():
    baskets = ask(make_busy_shop(), TEST).baskets

    assert list(zip(baskets.owner.tolist(), baskets.rows.tolist(), strict=True)) == [
        (0, 0),
        (0, 4),
        (2, 5),
        (3, 1),
        (4, 1),
    ]


def test_gaps_go_back_to_the_last_event_strictly_before():
    gap = ask(make_busy_shop(), TEST).gap

    assert gap[:4].tolist() == pytest.approx(np.log1p(np.array([10, 10, 10, 15]) / 1000))
    assert np.isnan(gap[4])


def test_batches_give_the_newest_items_of_the_places_that_are_wanted():
    question = ask(make_busy_shop(), TEST)

    ((places, rows),) = question.batches(2, np.array([2, 4]))

    assert places.tolist() == [4, 2], "the shortest first"
    assert rows.tolist() == [[-1, -1], [4, 0]]


def test_fewer_requests_of_a_large_catalogue_are_scored_at_once(monkeypatch):
    asked, wanted = ask(make_busy_shop(), TEST), np.repeat(np.arange(5), 4)
    ((whole, _),) = asked.batches(5, wanted)

    monkeypatch.setattr(question_module, "SCORES_AT_ONCE", 8 * asked.n_items)
    batches = list(asked.batches(5, wanted))

    assert [len(places) for places, _ in batches] == [8, 8, 4]
    assert np.array_equal(np.concatenate([places for places, _ in batches]), whole)


def test_the_rule_about_seen_items_is_the_datas_unless_it_is_given():
    shop = make_shop()

    assert ask(shop, TEST).exclude_seen is False, "the shop's users take items again"
    assert ask(shop, TEST, exclude_seen=True).exclude_seen is True


def test_of_more_requests_than_the_limit_some_are_drawn(monkeypatch):
    assert len(ask(make_busy_shop(), TEST, limit=2).users) == 2
    monkeypatch.setattr(question_module, "MOST_REQUESTS", 4)

    assert len(ask(make_busy_shop(), TEST).users) == 4
    assert len(ask(make_shop(), TEST, limit=9).users) == 2


def test_a_large_catalogue_is_asked_by_fewer_users(monkeypatch):
    assert most_asked(12_609) > 50_000
    assert most_asked(100_000) == 20_000
    assert most_asked(10_000_000) == 1_000, "an interval needs so many"
    monkeypatch.setattr(question_module, "most_asked", lambda n_items: 3)

    drawn = ask(make_busy_shop(), TEST)

    assert len(drawn.users) == 3
    assert len(ask(make_busy_shop(), TEST, limit=2).users) == 2


def test_users_who_are_held_out_are_no_validation_users():
    shop = make_shop()
    shop.part[:3] = VAL
    shop.part[7] = VAL  # user 1 is trained on and validates, user 0 is held out

    asked = ask(replace(shop, report=shop.report | {"split": {"test": "users"}}), VAL)

    assert asked.users.tolist() == [1, 1]


def test_validation_is_judged_where_nothing_was_held_out_for_testing():
    shop = make_shop()
    assert judged_part(shop) == TEST

    shop.part[shop.part == TEST] = VAL

    assert judged_part(shop) == VAL


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), min_size=4, max_size=30),
    test=st.sampled_from(["last", "time", "none"]),
    val=st.sampled_from(["last", "time"]),
)
def test_a_request_knows_all_that_its_user_did_before_it_and_nothing_later(rows, test, val):
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    part = assign_parts(user.astype(np.int32), time.astype(np.int64), SplitRule(test, val, 0.3))
    items = [Item(str(n), 1.0, None, {}) for n in range(6)]
    prepared = Prepared(
        ["a", "b", "c", "d"], items, user.astype(np.int32), item.astype(np.int32), time, part,
        {"repeat_consumption": True, "split": {"test": test}},
    )  # fmt: skip

    for which in (VAL, TEST):
        question = ask(prepared, which)
        asked = [(u, t, i) for (u, i, t), p in zip(rows, part, strict=True) if p == which]
        told = zip(question.users.tolist(), question.asked_ms.tolist(), question.target.tolist(), strict=True)
        assert list(told) == asked, "every event of the part, once"
        for place, (whose, at, taken) in enumerate(asked):
            of_user = [(t, i) for u, i, t in rows if u == whose]
            history = question.histories(np.array([place]))[0].tolist()
            assert [i for _, i in of_user[: len(history)]] == history
            assert of_user[len(history)] == (at, taken)
            strictly = [i for t, i in of_user if t < at]
            assert question.at_start().histories(np.array([place]))[0].tolist() == strictly
