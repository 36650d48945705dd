"""Questions and rankings on a shop of six items, worked out by hand."""

import numpy as np
import pytest

from service.bundle import Item
from training.data.prepared import Prepared
from training.data.split import TEST
from training.evaluation.judge import Ranking, rank, rank_asked
from training.evaluation.quality import measure_baskets, measure_repeats, overlaps
from training.evaluation.question import ask

N_ITEMS = 6


@pytest.fixture
def shop():
    """Two users; user 0 takes items 4 and 0 in the held-out instant, user 1 item 1 again, which it had before."""
    rows = [
        (0, 0, 10, 0), (0, 1, 20, 0), (0, 2, 30, 1), (0, 4, 40, 2), (0, 0, 40, 2), (0, 5, 50, 2),
        (1, 1, 10, 0), (1, 3, 15, 0), (1, 5, 30, 1), (1, 1, 45, 2),
    ]  # fmt: skip
    user, item, time, part = (np.array(column) for column in zip(*rows, strict=True))
    return Prepared(
        users=["a", "b"],
        items=[Item(str(n), 1.0, None, {}) for n in range(N_ITEMS)],
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp_ms=time.astype(np.int64),
        part=part.astype(np.uint8),
        report={"repeat_consumption": True},
    )


def falling(rows):
    """Item 0 is best, item 5 worst, for everybody."""
    return np.repeat(-np.arange(N_ITEMS, dtype=np.float32)[None], len(rows), axis=0)


def test_a_question_holds_the_first_event_of_the_part_its_time_and_its_basket(shop):
    question = ask(shop, TEST)

    assert question.target.tolist() == [4, 1]
    assert question.asked_ms.tolist() == [40, 45]
    assert list(zip(question.baskets.owner.tolist(), question.baskets.rows.tolist(), strict=True)) == [
        (0, 0),
        (0, 4),
        (1, 1),
    ]
    assert question.is_repeat().tolist() == [False, True]


def test_both_rules_rank_seen_items_and_leave_them_out(shop):
    ranking = rank(ask(shop, TEST), falling, 10, both_rules=True)

    assert ranking.ranks.tolist() == [5, 2], "seen items are ranked here"
    assert ranking.other.ranks.tolist() == [2, 21], "0, 1, 2 are left out for user 0; user 1's target is"
    assert ranking.other.top[0, :3].tolist() == [3, 4, 5]


def test_the_rule_of_the_question_comes_first_whichever_it_is(shop):
    opposite = rank(ask(shop, TEST, exclude_seen=True), falling, 10, both_rules=True)
    alone = rank(ask(shop, TEST, exclude_seen=True), falling, 10)

    assert opposite.ranks.tolist() == alone.ranks.tolist() == [2, 21]
    assert opposite.other.ranks.tolist() == [5, 2]
    assert alone.other is None


def test_repeats_reports_both_rules_and_the_users_with_a_new_target(shop):
    question = ask(shop, TEST)

    both = measure_repeats(rank(question, falling, 10, both_rules=True), question)

    assert both["seen_ranked"]["hr@10"] == 1 and both["seen_left_out"]["hr@10"] == 0.5
    assert both["new_targets"] == {"users": 1, "hr@10": 1.0, "ndcg@10": pytest.approx(0.63092975)}
    assert measure_repeats(rank(question, falling, 10), question) is None


def test_next_basket_recall_counts_all_that_was_held_out_in_that_instant(shop):
    question = ask(shop, TEST)

    found = measure_baskets(rank(question, falling, 10), question)

    assert found["users"] == 2 and found["of_several_items"] == 1
    assert found["recall@5"] == 1, "0 and 4 of user 0, 1 of user 1"
    cut = Ranking(np.array([5, 2]), np.array([[0, 1, 2, 3, 5], [0, 2, 3, 4, 5]], dtype=np.int32))
    assert measure_baskets(cut, question)["recall@5"] == (0.5 + 0) / 2


def test_next_basket_is_none_where_each_user_has_one_held_out_item(shop):
    shop.part[4:6] = 1

    question = ask(shop, TEST)

    assert measure_baskets(rank(question, falling, 10), question) is None


def test_a_ranking_is_saved_with_its_other_rule(shop, tmp_path):
    question = ask(shop, TEST)
    for both in (True, False):
        ranking = rank(question, falling, 10, both_rules=both)
        ranking.save(tmp_path / "ranking.npz")
        loaded = Ranking.load(tmp_path / "ranking.npz")

        assert loaded.ranks.tolist() == ranking.ranks.tolist()
        assert (loaded.other is None) is not both
        assert not both or loaded.other.top.tolist() == ranking.other.top.tolist()


def test_a_scorer_may_know_who_is_asked(shop):
    wanted = ask(shop, TEST).target

    def score(places, rows):
        return np.eye(N_ITEMS, dtype=np.float32)[wanted[places]]

    assert rank_asked(ask(shop, TEST), score, 10).ranks.tolist() == [1, 1]


def test_overlaps_are_of_the_pairs_that_are_there():
    top = np.tile(np.arange(20, dtype=np.int32), (2, 1))
    rankings = {"student": Ranking(np.ones(2), top), "teacher": Ranking(np.ones(2), top[:, ::-1])}

    assert overlaps(rankings) == {"student / teacher": {"overlap@5": 0.0, "overlap@10": 0.0, "overlap@20": 1.0}}
