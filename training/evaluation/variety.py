"""What recommended lists are made of, whatever was held out: coverage, concentration, novelty, diversity, agreement.

Two models may be right equally often and recommend very differently, one its hundred best sellers and the other the
whole catalogue.

Letters: U users, K places in a list, N items, F features, P pairs of items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from service.bundle import Item

Rows = NDArray[Any]
"""Recommended lists: item rows, best first, int [U, K]."""

ATTRIBUTED = 0.5  # share of the items that must have attributes for diversity to go by them
LISTS_COMPARED = 2000  # lists that diversity looks at: its standard error is then below .003
PAIRS_AT_ONCE = 4096  # pairs of items whose features are compared together


def coverage(top: Rows, n_items: int) -> float:
    """Return the share of the catalogue that appears in anybody's list."""
    return len(np.unique(top)) / n_items


def gini(top: Rows, n_items: int) -> float:
    """Return the Gini coefficient of how often items are recommended: 0 all equally often, near 1 always the same."""
    counts = np.sort(np.bincount(top.ravel(), minlength=n_items))
    place = np.arange(1, n_items + 1)
    return float(((2 * place - n_items - 1) * counts).sum() / (n_items * counts.sum()))


def novelty(top: Rows, popularity: NDArray[Any]) -> float:
    """Return the mean self-information of the recommended items, in bits (Zhou et al. 2010).

    That of an item is -log2 of its share of the training events. popularity: training events of each item [N]; an item
    without any counts as having one.
    """
    bits = -np.log2(np.maximum(popularity, 1.0) / popularity.sum())
    return float(bits[top].mean())


def overlap(ours: Rows, theirs: Rows) -> float:
    """Return the share of a user's K places that two models fill with the same items, in any order: mean over users."""
    same = [len(np.intersect1d(a, b)) for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean(same) / ours.shape[1])


@dataclass(frozen=True)
class Features:
    """What makes two items alike."""

    by: str  # what a feature is, for the reader of a report
    has: csc_array  # 0/1 [F, N], which item has which feature


def item_features(items: Sequence[Item], user: NDArray[Any], item: NDArray[Any]) -> Features:
    """Return the features of items: their attribute values, or the users who took them where few have attributes.

    Attributes are used where at least half of the items have any. user, item: user number and item row of each training
    event.
    """
    values = [{f"{name}={value}" for name, of in item.attributes.items() for value in of} for item in items]
    if items and sum(map(bool, values)) >= ATTRIBUTED * len(items):
        number = {value: place for place, value in enumerate(sorted(set().union(*values)))}
        feature = np.array([number[value] for of in values for value in sorted(of)])
        row = np.repeat(np.arange(len(items)), [len(of) for of in values])
        return Features("attributes", _binary(feature, row, (len(number), len(items))))
    return Features("users in common", _binary(user, item, (int(user.max()) + 1, len(items))))


def diversity(top: Rows, features: Features) -> float:
    """Return how unlike the items of a list are, 0 all alike to 1: the mean over users (Ziegler et al. 2005).

    That of a list is the mean of 1 - Jaccard similarity over its pairs of items; two items without any feature have
    nothing in common. Of more than LISTS_COMPARED lists, so many are drawn with a fixed seed.
    """
    if len(top) > LISTS_COMPARED:
        top = top[np.random.default_rng(0).choice(len(top), LISTS_COMPARED, replace=False)]
    first, second = np.triu_indices(top.shape[1], k=1)
    if not len(first):
        return 0.0
    pairs, place = np.unique(np.stack([top[:, first].ravel(), top[:, second].ravel()]), axis=1, return_inverse=True)
    return float(1 - jaccard(features.has, pairs[0], pairs[1])[place].mean())


def jaccard(has: csc_array, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Jaccard similarity of pairs of items [P]: shared features over all features, 0 where there are none.

    has: 0/1 [F, N]. first, second: the item rows of each pair [P].
    """
    size = np.asarray(has.sum(axis=0)).ravel()
    shared = np.zeros(len(first))
    for start in range(0, len(first), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        shared[some] = np.asarray(has[:, first[some]].multiply(has[:, second[some]]).sum(axis=0)).ravel()
    return shared / np.maximum(size[first] + size[second] - shared, 1)


def _binary(row: NDArray[Any], column: NDArray[Any], shape: tuple[int, int]) -> csc_array:
    """Return a matrix of ones at the given places and zeros elsewhere, however often a place is given."""
    place = np.unique(column.astype(np.int64) * shape[0] + row)
    return csc_array((np.ones(len(place), dtype=np.float32), (place % shape[0], place // shape[0])), shape=shape)
