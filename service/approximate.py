"""Approximate search: the best of all by their codes, scored exactly from the true table, and of those the K best.

Scores are exact, and so are exclusions: two more rows are looked at for each that is masked, in all lists where many
are, and should fewer than K be left, that user is answered by a scan of the whole table. How many rows and lists are
looked at was measured when the codes were made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, ItemTable
from service.codes import Codes
from service.scan import scan_scores, with_ones
from service.search import Masked, Ranked, rank

FEW_AND_MANY = (10, 100)
RECALL_AT = FEW_AND_MANY[1]


@dataclass(slots=True)
class Shortlist:
    """For each user of a batch: rows int64 [depth] and their exact scores float32 [depth]."""

    users: Float32
    rows: list[Int64]
    scores: list[Float32]


class Approximate:
    """Search through codes. depths: how many of the best by code are scored exactly for 10 and for 100 items."""

    def __init__(self, table: ItemTable, codes: Codes, *, depths: tuple[int, int], recall: float) -> None:
        self.depths, self.recall = depths, recall
        self._table, self._codes = table, codes
        self._embeddings = np.asarray(table.embeddings)
        self._is_masked = np.zeros(len(codes), dtype=np.bool_)

    def describe(self) -> dict[str, Any]:
        """Return what GET /model says of it."""
        return {"kind": "approximate", "recall_at_100": self.recall, "depths": self.depths, "lists": self._codes.share}

    def score(self, users: Float32, k: int, n_masked: int) -> Shortlist:
        """Return the shortlist of users, float32 [batch, dim]. n_masked: of the user who has most."""
        depth, is_thorough = self._depth(k, n_masked), k + n_masked > 2 * RECALL_AT
        with np.errstate(all="ignore"):
            nearest = self._codes.nearest(with_ones(users, self._table), depth, is_thorough=is_thorough)
            rows = [line[line >= 0] for line in nearest]
            return Shortlist(users, rows, [self._score(line, user) for line, user in zip(rows, users, strict=True)])

    def _depth(self, k: int, n_masked: int) -> int:
        """Return how deep to look: the k best of the rest are among the k + n_masked best of all."""
        if k + n_masked <= RECALL_AT:
            return int(np.interp(k + n_masked, FEW_AND_MANY, self.depths))
        return self.depths[1] * max(RECALL_AT, k) // RECALL_AT + 2 * n_masked

    def best(self, scores: Shortlist, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user the k best, without the masked rows; None where a score is not finite."""
        lines = zip(scores.users, scores.rows, scores.scores, masked, strict=True)
        return [self._choose(user, rows, line, k, hidden) for user, rows, line, hidden in lines]

    def _choose(
        self, user: Float32, rows: Int64, scores: Float32, k: int, hidden: "Sequence[int] | NDArray[Any]"
    ) -> Ranked | None:
        if not np.isfinite(scores).all():
            return None
        if len(hidden):
            self._is_masked[hidden] = True
            left = ~self._is_masked[rows]
            rows, scores = rows[left], scores[left]
        if len(rows) < k:
            rows, scores = self._scan(user)
        if len(hidden):
            self._is_masked[hidden] = False
        if not np.isfinite(scores).all():
            return None
        return rank(rows, scores, k)

    def _scan(self, user: Float32) -> tuple[Int64, Float32]:
        """Return every row that is not masked, and its score."""
        rows = np.flatnonzero(~self._is_masked)
        return rows, scan_scores(self._table, user[None])[0][rows]

    def _score(self, rows: Int64, user: Float32) -> Float32:
        scores: Float32 = self._embeddings.take(rows, axis=0).astype(np.float32, copy=False) @ user
        if self._table.scales is not None:
            scores *= self._table.scales[rows]
        if self._table.biases is not None:
            scores += self._table.biases[rows]
        return scores
