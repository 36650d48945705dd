"""What the lists are made of, whatever was held out: coverage, concentration, novelty, diversity, agreement.

Two models may hit equally often and recommend very different shops: one its hundred best sellers, the other all of it.
Letters: U users, K places in a list, N items, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from service.bundle import Item

Rows = NDArray[Any]  # int [U, K]: item rows, best first

ATTRIBUTED = 0.5  # share of the items that must have attributes for diversity to go by them
SAMPLED_USERS = 2000  # lists that diversity looks at: its standard error is then below .003
PAIRS_AT_ONCE = 4096


def coverage(top: Rows, n_items: int) -> float:
    """Share of the catalogue that appears in anybody's list."""
    return len(np.unique(top)) / n_items


def gini(top: Rows, n_items: int) -> float:
    """Gini coefficient of how often each item is recommended: 0 all equally often, near 1 always the same."""
    counts = np.sort(np.bincount(top.ravel(), minlength=n_items))
    place = np.arange(1, n_items + 1)
    return float(((2 * place - n_items - 1) * counts).sum() / (n_items * counts.sum()))


def novelty(top: Rows, popularity: NDArray[Any]) -> float:
    """Mean self-information of the recommended items, in bits (Zhou et al. 2010): -log2 of an item's share of events.

    popularity: training events of each item [N]; an item without any counts as having one.
    """
    bits = -np.log2(np.maximum(popularity, 1.0) / popularity.sum())
    return float(bits[top].mean())


def overlap(ours: Rows, theirs: Rows) -> float:
    """Mean share of a user's K places that the two models fill with the same items, in whatever order."""
    same = [len(np.intersect1d(a, b)) for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean(same) / ours.shape[1])


@dataclass(frozen=True)
class Features:
    """What makes two items alike. has: 0/1 [F, N]; by: what a feature is, for the reader."""

    by: str
    has: csc_array


def item_features(items: Sequence[Item], user: NDArray[Any], item: NDArray[Any]) -> Features:
    """Return the items' attribute values where at least half of them have any, else the users who took them.

    user, item: the training events.
    """
    values = [{f"{name}={value}" for name, of in item.attributes.items() for value in of} for item in items]
    if items and sum(map(bool, values)) >= ATTRIBUTED * len(items):
        number = {value: place for place, value in enumerate(sorted(set().union(*values)))}
        feature = np.array([number[value] for of in values for value in sorted(of)])
        row = np.repeat(np.arange(len(items)), [len(of) for of in values])
        return Features("attributes", _binary(feature, row, (len(number), len(items))))
    return Features("users in common", _binary(user, item, (int(user.max()) + 1, len(items))))


def diversity(top: Rows, features: Features) -> float:
    """Mean over users of 1 - Jaccard similarity of each pair of their list (Ziegler et al. 2005); 0 all alike.

    Two items without any feature have nothing in common. At most SAMPLED_USERS lists, drawn with a fixed seed.
    """
    if len(top) > SAMPLED_USERS:
        top = top[np.random.default_rng(0).choice(len(top), SAMPLED_USERS, replace=False)]
    first, second = np.triu_indices(top.shape[1], k=1)
    if not len(first):
        return 0.0
    pairs, place = np.unique(np.stack([top[:, first].ravel(), top[:, second].ravel()]), axis=1, return_inverse=True)
    return float(1 - jaccard(features.has, pairs[0], pairs[1])[place].mean())


def jaccard(has: csc_array, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Shared features over all features of each pair of items [P]; 0 where neither has any."""
    size = np.asarray(has.sum(axis=0)).ravel()
    shared = np.zeros(len(first))
    for start in range(0, len(first), PAIRS_AT_ONCE):
        piece = slice(start, start + PAIRS_AT_ONCE)
        shared[piece] = np.asarray(has[:, first[piece]].multiply(has[:, second[piece]]).sum(axis=0)).ravel()
    return shared / np.maximum(size[first] + size[second] - shared, 1)


def _binary(row: NDArray[Any], column: NDArray[Any], shape: tuple[int, int]) -> csc_array:
    """Ones at the given places, however often each is given."""
    place = np.unique(column.astype(np.int64) * shape[0] + row)
    return csc_array((np.ones(len(place), dtype=np.float32), (place % shape[0], place // shape[0])), shape=shape)
