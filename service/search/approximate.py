"""Approximate search: find a shortlist by the items' codes, score it exactly, and take the k best.

The shortlist is as long as k plus the number of masked rows calls for, so that it suffices even if all of these are
among the best. Of what is left of it without the masked rows, only as much is scored as k and the masked rows that were
really in it call for. Where the score is a sum, codes are of taste and of levels of the trend. Because the trend moves,
the items that stand highest in it, those that rose above their level, and the user's neighbours are scored too. If
fewer than k rows are left, the whole table is scanned for that user. So the scores are exact, masked rows are never
returned, and an answer is never too short; only an item of the true best may be missed.

Where a filter allows only some rows, there are two ways. A few rows are all scored. Of many, only those allowed are
looked at while codes are gone through, in all lists, so that the shortlist is as long as without a filter; and those of
them that stand highest in the trend are scored too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, ItemTable
from service.search.addend import Addend, Addends, Boosted, Standing
from service.search.code import extend_users
from service.search.coded_trend import CodedTrend
from service.search.measured_code import FEW, MANY, MeasuredCodes
from service.search.protocol import Allowed, Masked, Ranked, rank
from service.search.scan import scan_scores

_AT_ONCE = 256
"""Rows scored at once, so that their float32 copies stay in the cache.

The times: tests/bench/README.md, "A shortlist is scored 256 rows at a time".
"""

_DEEPER, _TAIL = 4, 16
"""Where boosted rows may be missed, 4 times as many are looked at; the best of the last 1/16 says what is left."""
FEW_ALLOWED = 6000
"""So few allowed rows are all scored: tests/bench/README.md, "Filtered rows are scored, or masked in the scan"."""
AllowedRows = NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class Shortlist:
    """The rows that are best by code, for a batch of users.

    users: float32 [batch, dim]. rows: of each user, int64, the best first, -1 past the last one found. addends: of the
    users, where the score is a sum. allowed: of the users, None where all rows are.
    """

    users: Float32
    rows: Sequence[Int64] | Int64
    addends: Addends | None
    allowed: Allowed | None = None


class Approximate:
    """Searches through codes."""

    def __init__(self, table: ItemTable, measured: MeasuredCodes) -> None:
        """measured: the codes of this table, and how deep to look."""
        self.measured, self.recall = measured, measured.recall
        self._table, self._codes = table, measured.codes
        levels = measured.codes.levels
        self._trend = None if levels is None else CodedTrend(levels, measured.codes.heights)
        self._embeddings = np.asarray(table.embeddings)
        self._scales = None if table.scales is None else np.asarray(table.scales)  # indexing a memory map is slow
        self._is_masked = np.zeros(len(measured.codes), dtype=np.bool_)
        self._place = np.zeros(len(measured.codes), dtype=np.int32)

    def describe(self) -> dict[str, Any]:
        """Return the field `index` of GET /model."""
        depths, share = self.measured.depths, self._codes.share
        return {"kind": "approximate", "recall_at_100": self.recall, "depths": depths, "lists": share}

    def follow(self, standing: Standing) -> None:
        """Work out what the coded levels stand for in a trend. Any thread may call."""
        if self._trend is not None:
            self._trend.follow(standing)

    def score(
        self,
        users: Float32,
        k: int,
        n_masked: int,
        addends: Addends | None = None,
        allowed: Allowed | None = None,
    ) -> Shortlist:
        """Return the shortlists of users, float32 [batch, dim]. n_masked: the most masked rows of one of them."""
        depth, is_thorough = self._depth(k, n_masked), k + n_masked > 2 * MANY
        trend = self._weigh_trend(addends)
        with np.errstate(all="ignore"):
            queries = extend_users(users, self._table)
            if allowed is None:
                found = self._codes.nearest(queries, depth, trend=trend, is_thorough=is_thorough)
                return Shortlist(users, found, addends)
            depth = max(depth, self.measured.depths[1])
            rows = [
                self._search_allowed(queries[at : at + 1], None if trend is None else trend[at : at + 1], depth, mask)
                for at, mask in enumerate(allowed)
            ]
            return Shortlist(users, rows, addends, allowed)

    def best(self, scores: Shortlist, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user the k best rows that are not masked, or None if one of its scores is not finite."""
        with np.errstate(all="ignore"):
            addends: Sequence[Addend | Boosted | None] = scores.addends or [None] * len(scores.users)
            masks = scores.allowed or [None] * len(scores.users)
            each = zip(scores.users, scores.rows, masked, addends, masks, strict=True)
            return [
                self._choose_boosted(user, (mask, rows), hidden, k, addend)
                if isinstance(addend, Boosted)
                else self._choose(user, rows, hidden, k, addend)
                if mask is None
                else self._choose_allowed(user, (mask, rows), hidden, k, addend)
                for user, rows, hidden, addend, mask in each
            ]

    def _weigh_trend(self, addends: Addends | None) -> Float32 | None:
        """Return the weight of the trend for each user, float32 [batch], and let its levels stand for what it is."""
        if self._trend is None or addends is None:
            return None
        standing = next((each.standing for each in reversed(addends) if each.standing is not None), None)
        if standing is None:
            return None
        self._codes.heights[:] = self._trend.follow(standing).heights
        return np.array([each.weight for each in addends], dtype=np.float32)

    def _candidates(self, addend: Addend | Boosted, mask: AllowedRows | None = None) -> Int64:
        """Return the rows, of those that are allowed, that are scored whatever the codes say; some twice."""
        rows = addend.candidates() if mask is None else addend.allowed_candidates(mask)
        if self._trend is None or addend.standing is None:
            return rows
        risen = self._trend.follow(addend.standing).risen
        return np.concatenate([rows, risen if mask is None else risen[mask[risen]]])

    def _each_once(self, rows: Int64) -> Int64:
        """Return the rows, each once, in no order; in a tenth of the time of a sort."""
        places = np.arange(len(rows), dtype=np.int32)
        self._place[rows] = places
        kept: Int64 = rows[self._place[rows] == places]
        return kept

    def _search_allowed(self, query: Float32, trend: Float32 | None, depth: int, mask: AllowedRows | None) -> Int64:
        """Return a shortlist of one user: of all rows, or of those allowed; all of these where they are few."""
        if mask is not None and np.count_nonzero(mask) <= FEW_ALLOWED:
            return np.flatnonzero(mask)
        rows: Int64 = self._codes.nearest(query, depth, trend=trend, is_thorough=True, allowed=mask)[0]
        return rows

    def _choose_allowed(
        self, user: Float32, allowed: tuple[AllowedRows, Int64], masked: Any, k: int, addend: Addend | None
    ) -> Ranked | None:
        """Return the k best of what is allowed and not masked. allowed: the mask, and the shortlist of it."""
        mask, rows = allowed
        hidden = np.asarray(masked, dtype=np.int64)
        left = rows[rows >= 0]
        if addend is not None and np.count_nonzero(mask) > FEW_ALLOWED:
            left = self._each_once(np.concatenate([left, self._candidates(addend, mask)]))
        self._is_masked[hidden] = True
        left = left[~self._is_masked[left]]
        if len(left) < k and len(rows):
            left = np.flatnonzero(mask & ~self._is_masked)
        self._is_masked[hidden] = False
        scores = self._score(left, user)
        if addend is not None:
            scores += addend.at(left)
        return rank(left, scores, k) if np.isfinite(scores).all() else None

    def _depth(self, k: int, n_masked: int) -> int:
        """Return how long a shortlist must be: without n_masked rows, the k best are among the k + n_masked best."""
        for_few, for_many = self.measured.depths
        if k + n_masked <= MANY:
            return for_few + (for_many - for_few) * max(0, k + n_masked - FEW) // (MANY - FEW)
        return for_many * max(MANY, k) // MANY + 2 * n_masked

    def _choose(
        self, user: Float32, rows: Int64, masked: "Sequence[int] | NDArray[Any]", k: int, addend: Addend | None
    ) -> Ranked | None:
        hidden = np.asarray(masked, dtype=np.int64)
        rows = rows if rows[-1] >= 0 else rows[rows >= 0]
        self._is_masked[hidden] = True
        left = rows[~self._is_masked[rows]]
        left = left[: self._depth(k, len(rows) - len(left))]
        if addend is not None:
            more = self._candidates(addend)
            left = self._each_once(np.concatenate([left, more[~self._is_masked[more]]]))
        rows, scores = (left, self._score(left, user)) if len(left) >= k else self._scan(user)
        self._is_masked[hidden] = False
        if addend is not None:
            scores += addend.at(rows)
        return rank(rows, scores, k) if np.isfinite(scores).all() else None

    def _choose_boosted(
        self, user: Float32, allowed: tuple[AllowedRows | None, Int64], masked: Any, k: int, addend: Boosted
    ) -> Ranked | None:
        """As _choose_allowed(), and look deeper until no row that was left out can be among the best for its boost."""
        mask, rows = allowed
        is_left = np.ones(len(self._is_masked), dtype=np.bool_) if mask is None else mask.copy()
        is_left[np.asarray(masked, dtype=np.int64)] = False
        is_whole = mask is not None and np.count_nonzero(mask) <= FEW_ALLOWED
        depth, raised = len(rows), self._candidates(addend, mask)
        while True:
            left = rows[rows >= 0]
            left = left[is_left[left]]
            if is_whole or len(left) < k or depth > len(is_left) // _DEEPER:
                found = np.flatnonzero(is_left)
                scores = self._score(found, user) + addend.at(found) if len(found) else addend.boost[:0]
                break
            found = np.unique(np.concatenate([left, raised[is_left[raised]]]))
            scores = self._score(found, user) + addend.at(found)
            last = np.searchsorted(found, left[-max(1, len(left) // _TAIL) :])
            unseen = (scores[last] - addend.boost[found[last]]).max() + addend.most_unseen
            if not unseen > np.partition(scores, len(scores) - k)[len(scores) - k]:
                break
            depth *= _DEEPER
            rows = self._search_allowed(extend_users(user[None], self._table), self._weigh_trend([addend]), depth, mask)
        return rank(found, scores, k) if np.isfinite(scores).all() else None

    def _scan(self, user: Float32) -> tuple[Int64, Float32]:
        """Return every row that is not masked, and its score."""
        rows = np.flatnonzero(~self._is_masked)
        return rows, scan_scores(self._table, user[None])[0][rows]

    def _score(self, rows: Int64, user: Float32) -> Float32:
        """Return the exact scores of rows, float32 [len(rows)]."""
        if not len(rows):
            return np.zeros(0, dtype=np.float32)
        blocks = [rows[first : first + _AT_ONCE] for first in range(0, len(rows), _AT_ONCE)]
        scores: Float32 = np.concatenate(
            [self._embeddings.take(block, axis=0).astype(np.float32, copy=False) @ user for block in blocks]
        )
        if self._scales is not None:
            scores *= self._scales[rows]
        if self._table.biases is not None:
            scores += self._table.biases[rows]
        return scores
