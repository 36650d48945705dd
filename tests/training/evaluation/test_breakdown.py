"""Groups of users, against tables worked out by hand."""

import numpy as np
import pytest

from training.evaluation.breakdown import by_history, by_popularity, popularity_quintile


def test_each_quintile_of_items_makes_a_fifth_of_the_events():
    popularity = np.array([1, 1, 1, 1, 4, 4, 4, 4, 0, 20])  # of 40 events a fifth is 8

    assert popularity_quintile(popularity).tolist() == [4, 4, 4, 4, 2, 2, 2, 2, 4, 0]


def test_a_best_seller_of_everything_leaves_the_middle_empty():
    assert popularity_quintile(np.array([97, 1, 1, 1])).tolist() == [0, 4, 4, 4]


def test_popularity_groups_equal_the_table_worked_out_by_hand():
    popularity = np.array([8, 8, 8, 8, 4, 4])
    ranks, target = np.array([1, 11, 2, 3, 7]), np.array([0, 1, 4, 5, -1])

    rows = by_popularity(ranks, target, popularity)

    assert [row["users"] for row in rows] == [2, 0, 0, 0, 2], "a target outside the catalogue is in no group"
    assert [row["items"] for row in rows] == [4, 0, 0, 0, 2], "equals stay together"
    assert (rows[0]["from"], rows[0]["to"], rows[0]["recall@10"], rows[0]["ndcg@10"]) == (8, 8, 0.5, 0.5)
    assert rows[4]["ndcg@10"] == pytest.approx((0.63092975 + 0.5) / 2)
    assert rows[1]["recall@10"] is None


def test_history_groups_equal_the_table_worked_out_by_hand():
    ranks, length = np.array([1, 11, 1, 1, 20, 1]), np.array([1, 4, 5, 9, 10, 500])

    rows = by_history(ranks, length)

    assert [(row["from"], row["to"], row["users"], row["recall@10"]) for row in rows] == [
        (1, 4, 2, 0.5),
        (5, 9, 2, 1.0),
        (10, 19, 1, 0.0),
        (20, 49, 0, None),
        (50, None, 1, 1.0),
    ]
