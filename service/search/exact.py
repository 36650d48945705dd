"""Exact search: score every item, then choose the k best.

Masked rows, and those that are not allowed, are given a score of -inf before the choice, so an exclusion never shortens
the answer while items are left.

The choice has two steps, because sorting out 20,000 scores takes longer than computing them. The items are divided into
groups, and the k-th greatest of the groups' maxima is a score that at least k items reach. Only those that reach it are
sorted.

An int8 table is multiplied as it is. Users are first rounded to 7 bits, which halves the work; somewhat more than k
items are kept and scored again in float32. If rounding might have hidden a better item from a user, that user alone is
multiplied again with 14 bits. Then only items whose scores differ by about 1e-5 may change places at the end of the
list.

What both choices bring: tests/bench/README.md, "The best k are chosen by groups" and "Users are rounded to 7 bits".
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, ItemTable
from service.search.addend import Addends
from service.search.matmul import Int8MatMul, MatMul
from service.search.protocol import Allowed, Masked, Ranked

_GROUP = 32
_SPARE = 12
_SIGMAS = 6.0
"""How many standard deviations a score may be off through rounding before it is thought possible."""
_LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of all items for a batch of users.

    users: float32 [batch, dim]. scores: float32 [batch, n_columns >= n_items], each in a unit of its user's own.
    units: float32 [batch], what a score of 1 is worth. max_error: float32 [batch], how far off a score may be. addends:
    what is in the scores beside the product, if anything. allowed: which rows may be in the answers, None for all.
    """

    users: Float32
    scores: Float32
    units: Float32
    max_error: Float32
    addends: Addends | None = None
    allowed: Allowed | None = None


class Exact:
    """Scores the whole catalogue, from a copy of its table."""

    recall = 1.0

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self._n_items, dim = table.embeddings.shape
        self._n_groups = -(-self._n_items // _GROUP)
        # Item j is column j, and a member of group j % n_groups; columns past the last item are never in an answer.
        n_columns = self._n_groups * _GROUP
        self._embeddings = np.asarray(table.embeddings)
        self._product: MatMul | Int8MatMul
        if table.scales is None:
            columns = np.zeros((dim, n_columns), dtype=np.float32)
            columns[:, : self._n_items] = table.dense().T
            self._product = MatMul(columns)
        else:
            integers = np.zeros((dim, n_columns), dtype=np.int8)
            integers[:, : self._n_items] = table.embeddings.T
            self._product = Int8MatMul(integers, np.resize(table.scales, n_columns))
            self._error_per_loss = _SIGMAS * _longest(self._embeddings, table.scales) / dim**0.5

    def describe(self) -> dict[str, Any]:
        """Return the field `index` of GET /model."""
        return {"kind": "exact", "recall_at_100": self.recall}

    def score(
        self,
        users: Float32,
        k: int,
        n_masked: int,
        addends: Addends | None = None,
        allowed: Allowed | None = None,
    ) -> Scored:
        """Return user · item (+ bias, + addend) of every item, for users float32 [batch, dim]. Raises ModelError."""
        if isinstance(self._product, MatMul):
            return self._score_finely(users, addends, allowed)
        scores, units, lost = self._product.multiply_roughly(users)
        if self._table.biases is not None:
            scores[:, : self._n_items] += self._table.biases / units[:, None]
        self._add(addends, scores, units)
        scores[:, self._n_items :] = -np.inf
        return Scored(users, scores, units, self._error_per_loss * lost, addends, allowed)

    def best(self, scores: Scored, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user the k best rows that are not masked, or None if one of its scores is not finite.

        scores: what score() returned; it is overwritten. Raises ModelError.
        """
        found, doubtful = self._find(scores, k, masked)
        if doubtful:
            addends, allowed = (
                None if each is None else [each[user] for user in doubtful] for each in (scores.addends, scores.allowed)
            )
            finer = self._score_finely(scores.users[doubtful], addends, allowed)
            again, _ = self._find(finer, k, [masked[user] for user in doubtful])
            for user, ranked in zip(doubtful, again, strict=True):
                found[user] = ranked
        return found

    def _score_finely(self, users: Float32, addends: Any, allowed: Any) -> Scored:
        scores = self._product.multiply(users)
        ones = np.ones(len(users), dtype=np.float32)
        if self._table.biases is not None:
            scores[:, : self._n_items] += self._table.biases
        self._add(addends, scores, ones)
        scores[:, self._n_items :] = -np.inf
        return Scored(users, scores, ones, ones * 0, addends, allowed)

    def _add(self, addends: Addends | None, scores: Float32, units: Float32) -> None:
        """Add each user's addend to its scores, in place."""
        if addends is not None:
            for own, addend, unit in zip(scores, addends, units, strict=True):
                addend.add_to(own[: self._n_items], unit)

    def _find(self, scored: Scored, k: int, masked: Masked) -> tuple[list[Ranked | None], list[int]]:
        """Return the k best of each user, and which users need finer scores because an item left out may be better."""
        scores, n_users = scored.scores, len(scored.scores)
        n_wanted = k if self._table.scales is None else k + k // 2 + _SPARE
        _mask(scores, masked)
        for own_scores, rows_allowed in zip(scores, scored.allowed or (), strict=False):
            if rows_allowed is not None:
                np.copyto(own_scores[: self._n_items], -np.inf, where=~rows_allowed)
        with np.errstate(all="ignore"):
            maxima = scores.reshape(n_users, _GROUP, self._n_groups).max(axis=1)
            cuts = _cuts(scores, maxima, n_wanted)
            owners, rows = _reaching(scores, cuts, 4 * n_wanted)
            starts = np.searchsorted(owners, np.arange(n_users + 1))
            if self._table.scales is None:
                values = scores[owners, rows]
            else:
                values = self._score_again(scored, rows, starts.tolist())
            is_broken = ~(maxima.max(axis=1) < np.inf)  # true of infinity and of NaN
            is_broken[owners[~np.isfinite(values)]] = True
            order = np.lexsort((rows, -values, owners))
            rows, values = rows[order], values[order]
            ends = np.minimum(starts[:-1] + k, starts[1:])
            last = values[ends - 1] if len(values) else scored.max_error
            is_doubtful = (last < cuts * scored.units + scored.max_error) & (ends > starts[:-1]) & ~is_broken
        spans = zip(is_broken.tolist(), starts[:-1].tolist(), ends.tolist(), strict=True)
        found = [None if broken else (rows[start:end].tolist(), values[start:end]) for broken, start, end in spans]
        return found, np.flatnonzero(is_doubtful).tolist()

    def _score_again(self, scored: Scored, rows: Int64, starts: list[int]) -> Float32:
        """Return the float32 scores of rows; those of user i are rows[starts[i]:starts[i + 1]]."""
        items = self._embeddings.take(rows, axis=0).astype(np.float32)
        spans = list(itertools.pairwise(starts))
        values: Float32 = np.concatenate(
            [items[start:end] @ user for user, (start, end) in zip(scored.users, spans, strict=True)]
        )
        if self._table.scales is not None:
            values *= self._table.scales[rows]
        if self._table.biases is not None:
            values += self._table.biases[rows]
        if scored.addends is not None:
            for addend, (start, end) in zip(scored.addends, spans, strict=True):
                values[start:end] += addend.at(rows[start:end])
        return values


def _longest(integers: NDArray[Any], scales: Float32) -> float:
    """Return the greatest length of an item vector, without a float32 copy of the table."""
    squares = np.einsum("ij,ij->i", integers, integers, dtype=np.float32)
    return float((np.sqrt(squares) * scales).max())


def _cuts(scores: Float32, maxima: Float32, n_wanted: int) -> Float32:
    """Return for each user a score that at least n_wanted columns reach, or all if there are fewer; [batch]."""
    candidates = maxima if 2 * n_wanted <= maxima.shape[1] else scores
    place = max(0, candidates.shape[1] - n_wanted)
    cuts: Float32 = np.maximum(np.partition(candidates, place, axis=1)[:, place], _LOWEST)
    return cuts


def _reaching(scores: Float32, cuts: Float32, most: int) -> tuple[Int64, Int64]:
    """Return which user and which column each score that reaches its user's cut belongs to, in the order of users.

    Where very many scores are equal, only `most` are returned of each user.
    """
    flat = np.flatnonzero(scores >= cuts[:, None])
    if len(flat) > most * len(cuts):
        columns = scores.argpartition(max(0, scores.shape[1] - most), axis=1)[:, -most:]
        flat = (columns + np.arange(0, scores.size, scores.shape[1])[:, None]).ravel()
        flat = flat[scores.ravel()[flat] > -np.inf]
    owners, columns = np.divmod(flat, scores.shape[1])
    return owners, columns


def _mask(scores: Float32, masked: Masked) -> None:
    for own_scores, rows in zip(scores, masked, strict=True):
        if len(rows):
            own_scores[rows] = -np.inf
