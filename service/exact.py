"""Exact search: every item's score, and the K highest.

What must not be shown is masked before the top-K, so that exclusions never shorten the answer while items are left.

Top-K in two steps, because a partition of 20,000 scores costs four times the matrix product: the items are dealt into
groups, the K best groups by their maximum hold the K best items, and only those groups' members are looked at.
"""

from typing import Any

import numpy as np

from service.bundle import Float32, Int64, ItemTable
from service.product import Product
from service.search import Masked, Ranked

_GROUP = 32


class Exact:
    """Scores of a whole catalogue, from a float32 copy of its table."""

    recall = 1.0

    def __init__(self, table: ItemTable) -> None:
        self._n_items, dim = table.embeddings.shape
        self._biases = table.biases
        self._n_groups = -(-self._n_items // _GROUP)
        # Item j is column j, and a member of group j % n_groups; columns past the last item are never shown.
        columns = np.zeros((dim, self._n_groups * _GROUP), dtype=np.float32)
        columns[:, : self._n_items] = table.dense().T
        self._product = Product(columns)
        self._members = np.arange(_GROUP, dtype=np.int64) * self._n_groups

    def describe(self) -> dict[str, Any]:
        """Return what GET /model says of it."""
        return {"kind": "exact", "recall_at_100": self.recall}

    def score(self, users: Float32, k: int, n_masked: int) -> Float32:
        """Return user · item (+ bias) of every item: float32 [batch, at least n_items]; -inf past the last item.

        users: float32 [batch, dim].
        """
        scores = self._product(users)
        if self._biases is not None:
            scores[:, : self._n_items] += self._biases
        scores[:, self._n_items :] = -np.inf
        return scores

    def best(self, scores: Float32, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each line of scores its k best, without its masked rows; None where a score is not finite.

        scores: float32 [batch, columns] of score(); overwritten. masked: one list of rows a line.
        """
        _mask(scores, masked)
        n_lines = len(scores)
        with np.errstate(all="ignore"):
            peaks = scores.reshape(n_lines, _GROUP, self._n_groups).max(axis=1)
        highest = peaks.max(axis=1).tolist()
        columns = self._likely(peaks, k)
        found = scores.ravel()[columns + _line_starts(n_lines, scores.shape[1])]
        cut = max(0, found.shape[1] - k)
        flat = found.argpartition(cut, axis=1)[:, cut:] + _line_starts(n_lines, found.shape[1])
        values, rows = found.ravel()[flat], columns.ravel()[flat]
        order = np.lexsort((rows, -values), axis=1) + _line_starts(n_lines, values.shape[1])
        values, rows = values.ravel()[order], rows.ravel()[order]
        n_left = (values > -np.inf).sum(axis=1).tolist()
        return [
            (line[:n], values[i, :n]) if peak < np.inf else None  # no number is below infinity but a finite one
            for i, (n, peak, line) in enumerate(zip(n_left, highest, rows.tolist(), strict=True))
        ]

    def _likely(self, peaks: Float32, k: int) -> Int64:
        """Return for each line the columns of its k best groups."""
        cut = max(0, self._n_groups - k)
        groups = peaks.argpartition(cut, axis=1)[:, cut:]
        columns: Int64 = (groups[:, :, None] + self._members).reshape(len(peaks), -1)
        return columns


def _line_starts(n_lines: int, width: int) -> Int64:
    """Return what to add to places in lines of a width to have places in all of them, int64 [n_lines, 1]."""
    return np.arange(0, n_lines * width, width)[:, None]


def _mask(scores: Float32, masked: Masked) -> None:
    for line, rows in zip(scores, masked, strict=True):
        if len(rows):
            line[rows] = -np.inf
