"""Ranks and lists of requests whose items' scores lie in shards: every process looks at its own items.

Each counts the items before a target, and the counts add up; the best of all are among the best of each. What crosses
the network is two numbers of each request and the lists, however large the catalogue is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training import ranks
from training.parallel.shard import Shard


def rank_in_shards(
    scores: NDArray[Any],
    target: NDArray[np.int64],
    shard: Shard,
    worst: int,
    seen: Sequence[NDArray[Any]] | None = None,
) -> NDArray[np.int64]:
    """Return the rank of each target [B] among all items: rank_targets of training/evaluation/metric.py, by shard.

    scores: of this shard's items [B, M]. target: rows of all items. worst: the rank of a target that cannot be
    recommended. All processes must call it with the same requests, and each gets all ranks; all raise ValueError where
    a score of one is not finite.
    """
    is_own, place = (found.numpy() for found in shard.place(torch.from_numpy(target)))
    is_finite = np.isfinite(scores).all()
    for row, items in zip(scores, seen or (), strict=False):
        inside = (items >= shard.first) & (items < shard.stop)
        row[items[inside] - shard.first] = -np.inf
    said = np.zeros(len(target) + 1)  # of the targets that are its own; at last, whether a score is not finite
    owner = np.flatnonzero(is_own)
    said[owner] = scores[owner, place[owner]]
    said[-1] = not is_finite
    own = ranks.total(torch.from_numpy(said)).numpy()
    if own[-1]:
        raise ValueError("scores contain NaN or infinity")
    at_least = torch.from_numpy((scores >= own[:-1, None]).sum(axis=1, dtype=np.int64))
    possible = (target >= 0) & np.isfinite(own[:-1])
    return np.where(possible, ranks.total(at_least).numpy(), worst)


def best_in_shards(scores: NDArray[Any], k: int, shard: Shard) -> NDArray[np.int64]:
    """Return the rows [B, k] of highest score among all items, best first: those of best_of, by shard.

    scores: of this shard's items [B, M]. All processes must call it with the same requests, and each gets all lists.
    """
    values, places = best_of(scores, min(k, scores.shape[1]))
    if k == 0:
        return places
    value = np.full((ranks.count(), len(scores), k), 0.0, dtype=scores.dtype)
    row = np.zeros(value.shape, dtype=np.int64)
    value[ranks.number()], row[ranks.number()] = -np.inf, shard.n_items  # where a shard has fewer items
    own = ranks.number(), slice(None), slice(values.shape[1])
    value[own], row[own] = values, places + shard.first
    all_values, all_rows = (ranks.total(torch.from_numpy(each)).numpy() for each in (value, row))
    whole = np.concatenate(list(all_values), axis=1), np.concatenate(list(all_rows), axis=1)
    return _ordered(*whole)[1][:, :k]


def best_of(scores: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the k highest of scores [B, N] and their rows, best first; of equal ones those of the lowest rows."""
    if k == 0:
        return scores[:, :0], np.zeros((len(scores), 0), dtype=np.int64)
    values, rows = (each.numpy() for each in torch.from_numpy(scores).topk(k, dim=1))
    for place in np.flatnonzero((scores >= values[:, -1:]).sum(axis=1) > k):  # topk takes any of equal ones
        above = np.flatnonzero(scores[place] > values[place, -1])
        rows[place] = np.append(above, np.flatnonzero(scores[place] == values[place, -1])[: k - len(above)])
        values[place] = scores[place, rows[place]]
    return _ordered(values, rows)


def _ordered(values: NDArray[Any], rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return both in the order of falling values, and of rising rows where these are equal."""
    order = np.lexsort((rows, -values))
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(rows, order, axis=1)
