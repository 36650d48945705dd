"""How alike two ranked lists of items are."""

from collections.abc import Sequence

import numpy as np


def overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the share of the longer list that is in the other one too; 1 where both are empty."""
    return len(set(one) & set(other)) / max(len(one), len(other)) if one or other else 1.0


def rank_correlation(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Return Kendall's tau (Kendall 1938) of the items that both lists have, -1 to 1; None for fewer than 2 of them.

    It is how many pairs both have in the same order, less how many they have in the opposite one, of all pairs.
    """
    places = {item_id: place for place, item_id in enumerate(other)}
    ranks = np.array([places[item_id] for item_id in one if item_id in places])
    n_pairs = len(ranks) * (len(ranks) - 1) // 2
    if not n_pairs:
        return None
    n_same = int(np.count_nonzero(np.triu(ranks[:, None] < ranks, 1)))
    return (2 * n_same - n_pairs) / n_pairs
