"""The ranks of targets whose items' scores lie in shards: every process counts among its own, and the counts add up.

What crosses the network is two numbers of each request, however large the catalogue is.
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
