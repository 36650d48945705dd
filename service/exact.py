"""Exact search: every item's score, and the K highest.

What must not be shown is masked before the top-K, so that exclusions never shorten the answer while items are left.

Top-K in two steps, because a partition of 20,000 scores costs four times the matrix product: the items are dealt into
groups, the K best groups by their maximum hold the K best items, and only those groups' members are looked at.

An int8 table is multiplied as it is, and a few more than K are then scored in float32: only two items whose scores
differ by some 1e-5 can change places at the end of the list.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from service.bundle import Float32, Int64, ItemTable
from service.product import IntegerProduct, Product
from service.search import Masked, Ranked

_GROUP = 32
_SPARE = 6
"""Rows beyond K that are scored again."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch of users, float32 [batch, dim], and the scores of every column, float32 [batch, at least n_items]."""

    users: Float32
    scores: Float32


class Exact:
    """Scores of a whole catalogue, from a copy of its table."""

    recall = 1.0

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self._n_items, dim = table.embeddings.shape
        self._n_groups = -(-self._n_items // _GROUP)
        # Item j is column j, and a member of group j % n_groups; columns past the last item are never shown.
        n_columns = self._n_groups * _GROUP
        self._product: Product | IntegerProduct
        if table.scales is None:
            columns = np.zeros((dim, n_columns), dtype=np.float32)
            columns[:, : self._n_items] = table.dense().T
            self._product = Product(columns)
        else:
            integers = np.zeros((dim, n_columns), dtype=np.int8)
            integers[:, : self._n_items] = table.embeddings.T
            self._product = IntegerProduct(integers, np.resize(table.scales, n_columns))
        self._spare = 0 if table.scales is None else _SPARE
        self._members = np.arange(_GROUP, dtype=np.int64) * self._n_groups

    def describe(self) -> dict[str, Any]:
        """Return what GET /model says of it."""
        return {"kind": "exact", "recall_at_100": self.recall}

    def score(self, users: Float32, k: int, n_masked: int) -> Scored:
        """Return user · item (+ bias) of every item; -inf past the last item. users: float32 [batch, dim]."""
        scores = self._product(users)
        if self._table.biases is not None:
            scores[:, : self._n_items] += self._table.biases
        scores[:, self._n_items :] = -np.inf
        return Scored(users, scores)

    def best(self, scores: Scored, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user its k best, without its masked rows; None where a score is not finite.

        scores: of score(); overwritten. masked: one list of rows a user.
        """
        of_all = scores.scores
        _mask(of_all, masked)
        n_lines = len(of_all)
        with np.errstate(all="ignore"):
            peaks = of_all.reshape(n_lines, _GROUP, self._n_groups).max(axis=1)
        highest = peaks.max(axis=1)
        columns = self._likely(peaks, k + self._spare)
        found = of_all.ravel()[columns + _line_starts(n_lines, of_all.shape[1])]
        cut = max(0, found.shape[1] - k - self._spare)
        flat = found.argpartition(cut, axis=1)[:, cut:] + _line_starts(n_lines, found.shape[1])
        values, rows = found.ravel()[flat], columns.ravel()[flat]
        if self._spare:
            values = self._score_again(scores.users, rows, values)
            highest = np.maximum(highest, values.max(axis=1))
        order = np.lexsort((rows, -values), axis=1)[:, :k] + _line_starts(n_lines, values.shape[1])
        values, rows = values.ravel()[order], rows.ravel()[order]
        n_left = (values > -np.inf).sum(axis=1).tolist()
        return [
            (line[:n], values[i, :n]) if peak < np.inf else None  # no number is below infinity but a finite one
            for i, (n, peak, line) in enumerate(zip(n_left, highest.tolist(), rows.tolist(), strict=True))
        ]

    def _score_again(self, users: Float32, rows: Int64, values: Float32) -> Float32:
        """Return the float32 scores of rows, both [batch, n]; those of masked ones stay -inf."""
        few = np.minimum(rows, self._n_items - 1).ravel()
        with np.errstate(all="ignore"):
            exact = (self._table.pick(few).reshape(*rows.shape, -1) @ users[:, :, None])[:, :, 0]
            if self._table.biases is not None:
                exact += self._table.biases[few].reshape(rows.shape)
        return np.where(values == -np.inf, values, exact)

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
