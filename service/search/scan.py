"""Exact scores from the item table itself, block by block, without a copy of the table.

It takes tens of milliseconds for a million items, so it serves checks at load and the rare request that the approximate
search cannot fill.
"""

from collections.abc import Iterator

import numpy as np

from service.bundle import Float32, Int64, ItemTable
from service.search.addend import Addends

BLOCK_ROWS = 1 << 13
"""12 MB at 384 dimensions. Larger ones leave holes in the heap: tests/bench/README.md, "Tables are read in blocks"."""


def read_blocks(table: ItemTable) -> Iterator[tuple[int, Float32]]:
    """Yield (first row, vectors float32 [n_rows, dim]) of each block of the table, in order."""
    for first in range(0, len(table.embeddings), BLOCK_ROWS):
        yield first, table.pick(np.arange(first, min(first + BLOCK_ROWS, len(table.embeddings))))


def scan_scores(table: ItemTable, users: Float32) -> Float32:
    """Return user · item (+ bias) of every item, float32 [batch, n_items], for users float32 [batch, dim]."""
    scores = np.empty((len(users), len(table.embeddings)), dtype=np.float32)
    with np.errstate(all="ignore"):
        for first, block in read_blocks(table):
            scores[:, first : first + len(block)] = users @ block.T
        if table.biases is not None:
            scores += table.biases
    return scores


def scan_best(table: ItemTable, users: Float32, k: int, addends: Addends | None = None) -> Int64:
    """Return the k best rows of each user, the best first: int64 [batch, min(k, n_items)].

    users: float32 [batch, dim]. addends: what is added to each one's scores.
    """
    k = min(k, len(table.embeddings))
    best_rows = np.zeros((len(users), 0), dtype=np.int64)
    best_scores = np.zeros((len(users), 0), dtype=np.float32)
    for first, block in read_blocks(table):
        scores = users @ block.T
        if table.biases is not None:
            scores += table.biases[first : first + len(block)]
        for own, addend in zip(scores, addends or (), strict=False):
            own += addend.at(np.arange(first, first + len(block)))
        rows = np.broadcast_to(np.arange(first, first + len(block)), scores.shape)
        best_scores = np.concatenate([best_scores, scores], axis=1)
        best_rows = np.concatenate([best_rows, rows], axis=1)
        if best_scores.shape[1] > k:
            kept = np.argpartition(-best_scores, k - 1, axis=1)[:, :k]
            best_scores = np.take_along_axis(best_scores, kept, axis=1)
            best_rows = np.take_along_axis(best_rows, kept, axis=1)
    return np.take_along_axis(best_rows, np.argsort(-best_scores, axis=1), axis=1)
