"""Approximate search: the best of all by their codes, scored exactly from the true table, and of those the K best.

Scores are exact, and so are exclusions: the search looks as deep as if every masked row were among the best, in all
lists where many are, only as much as those found call for is scored, and should fewer than K be left, that user is
answered by a scan of the whole table. How many rows and lists are looked at was measured when the codes were made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, ItemTable
from service.search.code import Codes
from service.search.protocol import Masked, Ranked, rank
from service.search.scan import scan_scores, with_ones

FEW_AND_MANY = (10, 100)
RECALL_AT = FEW_AND_MANY[1]
_AT_ONCE = 256
"""Rows scored at once: what they are turned into stays in the cache. 1,500 of 384 dimensions: .66 ms, at once .81."""


@dataclass(slots=True)
class Shortlist:
    """A batch of users, float32 [batch, dim], and their rows best by code, best first: int64 [batch, depth], or -1."""

    users: Float32
    rows: Int64


class Approximate:
    """Search through codes. depths: how many of the best by code are scored exactly for 10 and for 100 items."""

    def __init__(self, table: ItemTable, codes: Codes, *, depths: tuple[int, int], recall: float) -> None:
        self.depths, self.recall = depths, recall
        self._table, self._codes = table, codes
        self._embeddings = np.asarray(table.embeddings)
        self._scales = None if table.scales is None else np.asarray(table.scales)  # of a memory map each [] is slow
        self._is_masked = np.zeros(len(codes), dtype=np.bool_)

    def describe(self) -> dict[str, Any]:
        """Return what GET /model says of it."""
        return {"kind": "approximate", "recall_at_100": self.recall, "depths": self.depths, "lists": self._codes.share}

    def score(self, users: Float32, k: int, n_masked: int) -> Shortlist:
        """Return the shortlist of users, float32 [batch, dim]. n_masked: of the user who has most."""
        depth, is_thorough = self._depth(k, n_masked), k + n_masked > 2 * RECALL_AT
        with np.errstate(all="ignore"):
            queries = with_ones(users, self._table)
            return Shortlist(users, self._codes.nearest(queries, depth, is_thorough=is_thorough))

    def _depth(self, k: int, n_masked: int) -> int:
        """Return how deep to look: the k best of the rest are among the k + n_masked best of all."""
        few, many = self.depths
        if k + n_masked <= RECALL_AT:
            return few + (many - few) * max(0, k + n_masked - FEW_AND_MANY[0]) // (RECALL_AT - FEW_AND_MANY[0])
        return many * max(RECALL_AT, k) // RECALL_AT + 2 * n_masked

    def best(self, scores: Shortlist, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user the k best, without the masked rows; None where a score is not finite."""
        with np.errstate(all="ignore"):
            return [self._choose(*line, k) for line in zip(scores.users, scores.rows, masked, strict=True)]

    def _choose(self, user: Float32, rows: Int64, masked: "Sequence[int] | NDArray[Any]", k: int) -> Ranked | None:
        hidden = np.asarray(masked, dtype=np.int64)
        rows = rows if rows[-1] >= 0 else rows[rows >= 0]
        self._is_masked[hidden] = True
        left = rows[~self._is_masked[rows]]
        left = left[: self._depth(k, len(rows) - len(left))]
        rows, scores = (left, self._score(left, user)) if len(left) >= k else self._scan(user)
        self._is_masked[hidden] = False
        return rank(rows, scores, k) if np.isfinite(scores).all() else None

    def _scan(self, user: Float32) -> tuple[Int64, Float32]:
        """Return every row that is not masked, and its score."""
        rows = np.flatnonzero(~self._is_masked)
        return rows, scan_scores(self._table, user[None])[0][rows]

    def _score(self, rows: Int64, user: Float32) -> Float32:
        parts = [rows[first : first + _AT_ONCE] for first in range(0, len(rows), _AT_ONCE)]
        scores: Float32 = np.concatenate(
            [self._embeddings.take(p, axis=0).astype(np.float32, copy=False) @ user for p in parts]
        )
        if self._scales is not None:
            scores *= self._scales[rows]
        if self._table.biases is not None:
            scores += self._table.biases[rows]
        return scores
