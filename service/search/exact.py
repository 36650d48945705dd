"""Exact search: every item's score, and the K highest.

What must not be shown is masked before the top-K, so that exclusions never shorten the answer while items are left.

Top-K in two steps, because a partition of 20,000 scores costs four times the matrix product: the items are dealt into
groups, and only what reaches the K-th best of the groups' maxima is sorted.

An int8 table is multiplied as it is, with users rounded to 7 bits; half as many again as K, and 12, are then scored in
float32. Where the K-th of these is not 6 standard deviations of what rounding does above all that was left out, the
user is multiplied again, with 14 bits: then only two items whose scores differ by some 1e-5 can change places at the
end of the list. None of 512 users needed that, at any K from 1 to 500, of 20,000 items drawn from a fit to each of four
trained tables (with a fourth of K and 6, 2 to 6 of 100 did). Microseconds a user in batches of 8, product and top-K, 7
bits against 14: 20,000 items of 384 dimensions 64 and 34 against 118 and 34; of 128, 29 and 23 against 49 and 26 (one
core of an AMD EPYC with AVX-512).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, ItemTable
from service.search.matmul import IntegerProduct, Product
from service.search.protocol import Masked, Ranked

_GROUP = 32
_SPARE = 12
_SIGMAS = 6.0
_LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch of users, float32 [batch, dim], and the scores of every column, float32 [batch, at least n_items].

    units: [batch], what one of each user's scores is worth. blur: [batch], how far off the true score it may be.
    """

    users: Float32
    scores: Float32
    units: Float32
    blur: Float32


class Exact:
    """Scores of a whole catalogue, from a copy of its table."""

    recall = 1.0

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self._n_items, dim = table.embeddings.shape
        self._n_groups = -(-self._n_items // _GROUP)
        # Item j is column j, and a member of group j % n_groups; columns past the last item are never shown.
        n_columns = self._n_groups * _GROUP
        self._embeddings = np.asarray(table.embeddings)
        self._product: Product | IntegerProduct
        if table.scales is None:
            columns = np.zeros((dim, n_columns), dtype=np.float32)
            columns[:, : self._n_items] = table.dense().T
            self._product = Product(columns)
        else:
            integers = np.zeros((dim, n_columns), dtype=np.int8)
            integers[:, : self._n_items] = table.embeddings.T
            self._product = IntegerProduct(integers, np.resize(table.scales, n_columns))
            self._blur = _SIGMAS * _longest(self._embeddings, table.scales) / dim**0.5

    def describe(self) -> dict[str, Any]:
        """Return what GET /model says of it."""
        return {"kind": "exact", "recall_at_100": self.recall}

    def score(self, users: Float32, k: int, n_masked: int) -> Scored:
        """Return user · item (+ bias) of every item; -inf past the last item. users: float32 [batch, dim]."""
        if isinstance(self._product, Product):
            return self._score_finely(users)
        scores, units, lost = self._product.rough(users)
        if self._table.biases is not None:
            scores[:, : self._n_items] += self._table.biases / units[:, None]
        scores[:, self._n_items :] = -np.inf
        return Scored(users, scores, units, self._blur * lost)

    def best(self, scores: Scored, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user its k best, without its masked rows; None where a score is not finite.

        scores: of score(); overwritten. masked: one list of rows a user.
        """
        found, doubtful = self._find(scores, k, masked)
        if doubtful:
            again = self._score_finely(scores.users[doubtful])
            surer, _ = self._find(again, k, [masked[line] for line in doubtful])
            for line, ranked in zip(doubtful, surer, strict=True):
                found[line] = ranked
        return found

    def _score_finely(self, users: Float32) -> Scored:
        scores = self._product(users)
        if self._table.biases is not None:
            scores[:, : self._n_items] += self._table.biases
        scores[:, self._n_items :] = -np.inf
        ones = np.ones(len(users), dtype=np.float32)
        return Scored(users, scores, ones, ones * 0)

    def _find(self, scored: Scored, k: int, masked: Masked) -> tuple[list[Ranked | None], list[int]]:
        """Return the k best of each line, and the lines in which an item left out may be better than the last."""
        scores, n_lines = scored.scores, len(scored.scores)
        n_wanted = k if self._table.scales is None else k + k // 2 + _SPARE
        _mask(scores, masked)
        with np.errstate(all="ignore"):
            peaks = scores.reshape(n_lines, _GROUP, self._n_groups).max(axis=1)
            cuts = _cuts(scores, peaks, n_wanted)
            lines, rows = _reaching(scores, cuts, 4 * n_wanted)
            starts = np.searchsorted(lines, np.arange(n_lines + 1))
            if self._table.scales is None:
                values = scores[lines, rows]
            else:
                values = self._score_again(scored.users, rows, starts.tolist())
            is_broken = ~(peaks.max(axis=1) < np.inf)  # no number is below infinity but a finite one
            is_broken[lines[~np.isfinite(values)]] = True
            order = np.lexsort((rows, -values, lines))
            rows, values = rows[order], values[order]
            ends = np.minimum(starts[:-1] + k, starts[1:])
            last = values[ends - 1] if len(values) else scored.blur
            is_doubtful = (last < cuts * scored.units + scored.blur) & (ends > starts[:-1]) & ~is_broken
        spans = zip(is_broken.tolist(), starts[:-1].tolist(), ends.tolist(), strict=True)
        found = [None if broken else (rows[start:end].tolist(), values[start:end]) for broken, start, end in spans]
        return found, np.flatnonzero(is_doubtful).tolist()

    def _score_again(self, users: Float32, rows: Int64, starts: list[int]) -> Float32:
        """Return the float32 scores of rows, those of line i from starts[i] on."""
        items = self._embeddings.take(rows, axis=0).astype(np.float32)
        lines = zip(users, starts, starts[1:], strict=False)
        values: Float32 = np.concatenate([items[start:end] @ user for user, start, end in lines])
        if self._table.scales is not None:
            values *= self._table.scales[rows]
        if self._table.biases is not None:
            values += self._table.biases[rows]
        return values


def _longest(integers: NDArray[Any], scales: Float32) -> float:
    """Return the greatest length of an item, without a float32 copy of the table: a swap's peak would keep it."""
    squares = np.einsum("ij,ij->i", integers, integers, dtype=np.float32)
    return float((np.sqrt(squares) * scales).max())


def _cuts(scores: Float32, peaks: Float32, n_wanted: int) -> Float32:
    """Return for each line a score that at least n_wanted columns reach, as far as there are so many; [batch]."""
    choice = peaks if 2 * n_wanted <= peaks.shape[1] else scores
    place = max(0, choice.shape[1] - n_wanted)
    cuts: Float32 = np.maximum(np.partition(choice, place, axis=1)[:, place], _LOWEST)
    return cuts


def _reaching(scores: Float32, cuts: Float32, most: int) -> tuple[Int64, Int64]:
    """Return lines and columns of the scores that reach their line's cut; only so many a line where many are equal."""
    flat = np.flatnonzero(scores >= cuts[:, None])
    if len(flat) > most * len(cuts):
        columns = scores.argpartition(max(0, scores.shape[1] - most), axis=1)[:, -most:]
        flat = (columns + np.arange(0, scores.size, scores.shape[1])[:, None]).ravel()
        flat = flat[scores.ravel()[flat] > -np.inf]
    lines, columns = np.divmod(flat, scores.shape[1])
    return lines, columns


def _mask(scores: Float32, masked: Masked) -> None:
    for line, rows in zip(scores, masked, strict=True):
        if len(rows):
            line[rows] = -np.inf
