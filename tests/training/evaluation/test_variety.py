"""What the lists are made of, against tables worked out by hand."""

import numpy as np
import pytest

from service.bundle import Item
from training.evaluation.variety import coverage, diversity, gini, item_features, jaccard, novelty, overlap

NOBODY = np.array([], dtype=np.int32)


def item(name, **attributes):
    return Item(name, 1.0, None, attributes)


FILMS = [
    item("0", genre=["drama"]),
    item("1", genre=["drama", "crime"]),
    item("2", genre=["comedy"]),
    item("3"),
]


def test_coverage_is_the_share_of_the_catalogue_recommended():
    assert coverage(np.array([[0, 1], [1, 2]]), 10) == 0.3


@pytest.mark.parametrize(
    ("top", "n_items", "expected"),
    [
        ([[0, 1], [2, 3]], 4, 0.0),  # each once
        ([[0, 1], [0, 2]], 4, 0.375),  # 0, 1, 1, 2: (-3·0 - 1·1 + 1·1 + 3·2) / (4 · 4)
        ([[0], [0], [0]], 4, 0.75),  # always the same: (n - 1) / n
    ],
)
def test_gini_equals_the_table_worked_out_by_hand(top, n_items, expected):
    assert gini(np.array(top), n_items) == pytest.approx(expected)


def test_novelty_is_the_mean_bits_of_the_items_shares():
    popularity = np.array([4.0, 2.0, 1.0, 1.0, 0.0])  # of 8 events: 1, 2, 3 and 3 bits; no event counts as one

    assert novelty(np.array([[0]]), popularity) == 1
    assert novelty(np.array([[0, 1], [2, 4]]), popularity) == pytest.approx((1 + 2 + 3 + 3) / 4)


def test_overlap_is_the_share_of_places_filled_alike_in_any_order():
    ours = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
    theirs = np.array([[4, 3, 9, 8], [1, 2, 3, 4]])

    assert overlap(ours, theirs) == (0.5 + 1.0) / 2


def test_jaccard_of_attributes_equals_the_table_worked_out_by_hand():
    features = item_features(FILMS, NOBODY, NOBODY)

    similar = jaccard(features.has, np.array([0, 0, 1, 3]), np.array([1, 2, 1, 3]))

    assert features.by == "attributes"
    assert similar.tolist() == [0.5, 0.0, 1.0, 0.0], "nothing to share is not alike"


def test_diversity_is_the_mean_over_users_of_their_pairs():
    features = item_features(FILMS, NOBODY, NOBODY)

    assert diversity(np.array([[0, 1, 2]]), features) == pytest.approx((0.5 + 1 + 1) / 3)
    assert diversity(np.array([[0, 1, 2], [0, 1, 1]]), features) == pytest.approx(((2.5 / 3) + (0.5 + 0.5 + 0) / 3) / 2)
    assert diversity(np.array([[0], [1]]), features) == 0, "a list of one item has no pair"


def test_without_attributes_items_are_alike_that_the_same_users_took():
    user, taken = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 0, 1, 1, 0])

    features = item_features([item(str(n)) for n in range(3)], user, taken)

    assert features.by == "users in common"
    assert jaccard(features.has, np.array([0, 0]), np.array([1, 2])).tolist() == [pytest.approx(2 / 3), 0.0]
