"""The item table, block by block: exact and without a copy of it, tens of milliseconds a million items.

For checks at load, and for the rare request that the approximate search cannot fill.
"""

from collections.abc import Iterator

import numpy as np

from service.bundle import Float32, Int64, ItemTable

BLOCK_ROWS = 1 << 13
"""12 MB of 384 dimensions. Blocks of 100 MB left holes in the heap: 100 hot swaps took a worker from 359 to 455 MB."""


def read_blocks(table: ItemTable) -> Iterator[tuple[int, Float32]]:
    """Yield (first row, float32 [rows, dim]) of the whole table, in order."""
    for first in range(0, len(table.embeddings), BLOCK_ROWS):
        yield first, table.pick(np.arange(first, min(first + BLOCK_ROWS, len(table.embeddings))))


def with_ones(users: Float32, table: ItemTable) -> Float32:
    """Return users, with a column of ones where items have biases: what with_biases() is multiplied with."""
    return users if table.biases is None else np.pad(users, ((0, 0), (0, 1)), constant_values=1)


def with_biases(block: Float32, first: int, table: ItemTable) -> Float32:
    """Return a block of the table, with its biases as one more column where there are any."""
    if table.biases is None:
        return block
    return np.concatenate([block, table.biases[first : first + len(block), None]], axis=1)


def scan_scores(table: ItemTable, users: Float32) -> Float32:
    """Return user · item (+ bias) of every item, float32 [batch, n_items], for users float32 [batch, dim]."""
    scores = np.empty((len(users), len(table.embeddings)), dtype=np.float32)
    with np.errstate(all="ignore"):
        for first, block in read_blocks(table):
            scores[:, first : first + len(block)] = users @ block.T
        if table.biases is not None:
            scores += table.biases
    return scores


def scan_best(table: ItemTable, users: Float32, k: int) -> Int64:
    """Return each user's k best rows, the best first: int64 [batch, min(k, n_items)]."""
    k = min(k, len(table.embeddings))
    best_rows = np.zeros((len(users), 0), dtype=np.int64)
    best_scores = np.zeros((len(users), 0), dtype=np.float32)
    for first, block in read_blocks(table):
        scores = users @ block.T
        if table.biases is not None:
            scores += table.biases[first : first + len(block)]
        rows = np.broadcast_to(np.arange(first, first + len(block)), scores.shape)
        best_scores = np.concatenate([best_scores, scores], axis=1)
        best_rows = np.concatenate([best_rows, rows], axis=1)
        if best_scores.shape[1] > k:
            kept = np.argpartition(-best_scores, k - 1, axis=1)[:, :k]
            best_scores = np.take_along_axis(best_scores, kept, axis=1)
            best_rows = np.take_along_axis(best_rows, kept, axis=1)
    return np.take_along_axis(best_rows, np.argsort(-best_scores, axis=1), axis=1)
