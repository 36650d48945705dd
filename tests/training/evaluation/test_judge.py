"""Rankings of a shop of six items, worked out by hand."""

import numpy as np

from tests.training.evaluation.shop import N_ITEMS, falling, make_busy_shop, make_shop
from training.data.split import TEST, VAL
from training.evaluation.judge import (
    Ranking,
    best_rows,
    model_scorer,
    popularity_scorer,
    rank,
    rank_asked,
    score_all,
    validation_score,
)
from training.evaluation.metric import ndcg
from training.evaluation.question import ask
from training.model.encoder import Size, make_model


def test_both_rules_rank_seen_items_and_leave_them_out():
    ranking = rank(ask(make_shop(), TEST), falling, 10, both_rules=True)

    assert ranking.ranks.tolist() == [5, 2], "seen items are ranked here"
    assert ranking.other.ranks.tolist() == [2, 21], "0, 1, 2 are left out for user 0; user 1's target is"
    assert ranking.other.top[0, :3].tolist() == [3, 4, 5]


def test_the_rule_of_the_question_comes_first_whichever_it_is():
    opposite = rank(ask(make_shop(), TEST, exclude_seen=True), falling, 10, both_rules=True)
    alone = rank(ask(make_shop(), TEST, exclude_seen=True), falling, 10)

    assert opposite.ranks.tolist() == alone.ranks.tolist() == [2, 21]
    assert opposite.other.ranks.tolist() == [5, 2]
    assert alone.other is None


def test_a_ranking_is_saved_with_its_other_rule_and_its_users(tmp_path):
    for both, shop in ((True, make_busy_shop()), (False, make_shop())):
        question = ask(shop, TEST)
        ranking = rank(question, falling, 10, both_rules=both)
        ranking.save(tmp_path / "ranking.npz")
        loaded = Ranking.load(tmp_path / "ranking.npz")

        assert loaded.ranks.tolist() == ranking.ranks.tolist()
        assert (loaded.other is None) is not both
        assert not both or loaded.other.top.tolist() == ranking.other.top.tolist()
        assert (loaded.start is None) == (loaded.users is None) == (not both)
        assert not both or (loaded.start.tolist(), loaded.users.tolist()) == (ranking.start.tolist(), [0, 0, 0, 1, 2])


def test_a_request_is_ranked_at_the_start_of_its_basket_too():
    question = ask(make_busy_shop(), TEST)

    def newest(rows):
        return np.where(np.arange(N_ITEMS) == rows.numpy()[:, -1:], 1, 0).astype(np.float32)

    ranking = rank(question, newest, 10, both_rules=True)

    assert ranking.ranks.tolist() == [6, 6, 6, 6, 1], "after 2, 4, 0 and 5; popularity for the new user"
    assert question.at_start().stops().tolist() == [3, 3, 5, 9, 10]
    assert ranking.start.tolist() == [6, 6, 6, 6, 1]
    assert ranking.users.tolist() == [0, 0, 0, 1, 2]
    assert rank(question, newest, 10).start is None
    assert rank(ask(make_shop(), TEST), newest, 10, both_rules=True).start is None, "no event ties"


def test_at_the_start_of_the_basket_nothing_of_the_instant_is_known():
    question = ask(make_busy_shop(), TEST, exclude_seen=True)
    shown = []

    def score(places, rows):
        shown.append((places.tolist(), rows.tolist()))
        return np.zeros((len(places), N_ITEMS), dtype=np.float32)

    rank_asked(question, score, 10, both_rules=True)

    assert shown[-1] == ([1], [[0, 1, 2]]), "the second event of the basket, without the first"


def test_users_without_a_history_are_given_the_popular_items_by_a_scorer_of_histories_alone():
    question = ask(make_busy_shop(), TEST)

    def broken(rows):
        return np.where((rows.numpy() < 0).all(axis=1)[:, None], np.nan, falling(rows))

    best = rank(question, broken, 10).top[4, :3].tolist()
    assert best[0] == 1 and set(best) == {1, 0, 3}
    assert score_all(question, broken, 10)[4].argmax() == 1


def test_a_scorer_may_know_who_is_asked():
    wanted = ask(make_shop(), TEST).target

    def score(places, rows):
        return np.eye(N_ITEMS, dtype=np.float32)[wanted[places]]

    assert rank_asked(ask(make_shop(), TEST), score, 10).ranks.tolist() == [1, 1]


def test_scores_of_all_stand_in_the_order_of_the_users_asked():
    question = ask(make_shop(), TEST)

    scores = score_all(question, lambda rows: np.repeat(rows.numpy()[:, -1:], N_ITEMS, axis=1), 10)

    assert scores[:, 0].tolist() == [2, 5], "the newest item of each history"


def test_popularity_scores_everybody_with_the_items_training_events():
    shop = make_shop()

    assert popularity_scorer(shop)(np.zeros((2, 3))).tolist() == [[1, 2, 0, 1, 0, 0]] * 2


def test_best_rows_are_ordered_by_score():
    assert best_rows(np.array([[0.1, 0.3, 0.2], [3.0, 1.0, 2.0]]), 2).tolist() == [[1, 2], [0, 2]]


def test_a_models_validation_score_is_the_ndcg_of_its_ranking_of_the_validation_part():
    shop = make_shop()
    model = make_model(N_ITEMS, Size(dim=8, blocks=("pool",), heads=1, dropout=0.0, max_history=4), seed=1).eval()

    score = validation_score(shop)(model)

    ranking = rank(ask(shop, VAL), model_scorer(model), 4)
    assert score == ndcg(ranking.ranks, 10).mean()
