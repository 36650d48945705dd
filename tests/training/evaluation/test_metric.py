"""Metrics against tables worked out by hand."""

import numpy as np
import pytest

from training.evaluation.metric import (
    basket_recall,
    bootstrap_interval,
    f1,
    hit,
    ndcg,
    pooled_difference,
    precision,
    rank_targets,
    reciprocal_rank,
    relative_difference,
    summarise_ranks,
)

RANKS = np.array([1, 2, 3, 5, 6, 10, 11, 20, 21, 100])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (hit, [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]),
        (precision, [0.2, 0.2, 0.2, 0.2, 0, 0, 0, 0, 0, 0]),
        (f1, [1 / 3, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0, 0, 0]),
        (reciprocal_rank, [1, 0.5, 1 / 3, 0.2, 0, 0, 0, 0, 0, 0]),
        (ndcg, [1, 0.63092975, 0.5, 0.38685281, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_metrics_at_5_equal_the_table_worked_out_by_hand(metric, expected):
    np.testing.assert_allclose(metric(RANKS, 5), expected, atol=1e-8)


def test_summary_has_every_metric_at_every_cutoff():
    summary = summarise_ranks(RANKS)

    assert summary["hr@5"] == summary["recall@5"] == 0.4
    assert summary["hr@10"] == 0.6
    assert summary["hr@20"] == 0.8
    assert summary["accuracy@1"] == 0.1
    metrics = ("hr", "recall", "ndcg", "mrr", "precision", "f1")
    assert set(summary) == {f"{m}@{k}" for m in metrics for k in (5, 10, 20)} | {"accuracy@1"}


def test_rank_counts_the_better_and_the_equal_items():
    scores = np.array([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])

    ranks = rank_targets(scores, np.array([2, 1]))

    assert ranks.tolist() == [3, 4], "ties count against the model, so a constant one ranks last"


def test_rank_skips_seen_items_and_a_seen_target_is_a_miss():
    scores = np.array([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]])

    ranks = rank_targets(scores, np.array([3, 1]), seen=[np.array([0, 1]), np.array([0, 1])])

    assert ranks.tolist() == [2, 21], "a miss at every cutoff, however small the catalogue"


def test_rank_of_a_target_outside_the_catalogue_is_last():
    assert rank_targets(np.array([[1.0, 2.0]]), np.array([-1])).tolist() == [21]


def test_rank_refuses_nan_which_would_otherwise_look_like_the_first_place():
    with pytest.raises(ValueError, match="NaN"):
        rank_targets(np.array([[np.nan, 1.0]]), np.array([0]))


def test_basket_recall_is_the_share_of_each_basket_among_the_best():
    top = np.array([[3, 1, 2], [5, 4, 0]])
    basket, owner = np.array([1, 2, 9, 0]), np.array([0, 0, 0, 1])

    assert basket_recall(top, basket, owner, 2).tolist() == [pytest.approx(1 / 3), 0]
    assert basket_recall(top, basket, owner, 3).tolist() == [pytest.approx(2 / 3), 1]


def test_bootstrap_interval_holds_the_mean_and_repeats():
    values = np.random.default_rng(3).random(500)

    low, high = bootstrap_interval(values)

    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(500), rel=0.1)


def test_paired_difference_is_narrower_than_the_noise_between_users():
    theirs = np.random.default_rng(4).random(300)
    ours = theirs * 1.1

    gain = relative_difference(ours, theirs)

    assert gain["difference"] == pytest.approx(0.1)
    assert gain["low"] == pytest.approx(0.1) and gain["high"] == pytest.approx(0.1)


def test_pooled_difference_is_of_the_means_over_seeds_and_names_each_seed():
    ours = np.array([[1.0, 0.0, 0.5, 0.5], [1.0, 1.0, 0.5, 0.5]])
    theirs = np.full((2, 4), 0.5)

    pooled = pooled_difference(ours, theirs)

    assert pooled["difference"] == pytest.approx(0.25), "(2 + 3) / (2 + 2) - 1"
    assert pooled["per_seed"] == pytest.approx([0.0, 0.5])
    assert pooled["low"] <= 0.25 <= pooled["high"]


def test_a_difference_that_every_user_shares_has_no_noise_left():
    theirs = np.random.default_rng(0).random((3, 50)) + 0.1

    pooled = pooled_difference(theirs * 1.2, theirs)

    assert pooled["low"] == pytest.approx(0.2) and pooled["high"] == pytest.approx(0.2)
