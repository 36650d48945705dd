"""The item matrix: exact scores of every item, and the K highest. Ids become rows here, and rows become ids.

What must not be shown is masked before the top-K, so that exclusions never shorten the answer while items are left.

Top-K in two steps, because a partition of 20,000 scores costs four times the matrix product: the items are dealt into
groups, the K best groups by their maximum hold the K best items, and only those groups' members are looked at.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.bundle import Bundle, Float32, Int64, popularity_order
from service.errors import NonFiniteError
from service.product import Product

Ranked = tuple[Sequence[int], NDArray[Any]]
"""Rows and their scores, best first."""
_GROUP = 32


class Index:
    """Exact search over one catalogue."""

    def __init__(self, bundle: Bundle) -> None:
        self.item_ids = [item.item_id for item in bundle.items]
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self._openings = [b'{"item_id":' + orjson.dumps(item_id) + b',"score":' for item_id in self.item_ids]
        self._biases = bundle.table.biases
        self._n_groups = -(-len(self.item_ids) // _GROUP)
        # Item j is column j, and a member of group j % n_groups; columns past the last item are never shown.
        columns = np.zeros((bundle.manifest.dim, self._n_groups * _GROUP), dtype=np.float32)
        columns[:, : len(self.item_ids)] = bundle.table.dense().T
        self._product = Product(columns)
        self._table = bundle.table
        self._members = np.arange(_GROUP, dtype=np.int64) * self._n_groups
        self._popular = popularity_order(bundle.items).tolist()
        self._popularity = np.array([item.popularity for item in bundle.items], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.item_ids)

    def find_rows(self, item_ids: Iterable[str]) -> tuple[list[int], list[str]]:
        """Return the rows of the known ids, in order and with repeats, and the unknown ids, each once."""
        rows: list[int] = []
        unknown: dict[str, None] = {}
        for item_id in item_ids:
            row = self._rows.get(item_id)
            if row is None:
                unknown[item_id] = None
            else:
                rows.append(row)
        return rows, list(unknown)

    def render(self, ranked: Ranked) -> bytes:
        """Return the JSON of items, joined by commas: ids were encoded at load, scores are float32's shortest form."""
        rows, scores = ranked
        if not len(rows):
            return b""
        listed = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        openings = self._openings
        return b",".join([openings[row] + score + b"}" for row, score in zip(rows, listed, strict=True)])

    def score(self, users: Float32) -> Float32:
        """Return user · item (+ bias) of every item: float32 [batch, at least n_items]; -inf past the last item.

        users: float32 [batch, dim].
        """
        scores = self._product(users)
        n_items = len(self.item_ids)
        if self._biases is not None:
            scores[:, :n_items] += self._biases
        scores[:, n_items:] = -np.inf
        return scores

    def best(self, scores: Float32, k: int, masked: Sequence["Sequence[int] | NDArray[Any]"]) -> list[Ranked | None]:
        """Return for each line of scores its k best, without its masked rows; None where a score is not finite.

        scores: float32 [batch, columns] of score(); overwritten. masked: one list of rows a line.
        """
        _mask(scores, masked)
        n_lines = len(scores)
        with np.errstate(all="ignore"):
            peaks = scores.reshape(n_lines, _GROUP, self._n_groups).max(axis=1)
        highest = peaks.max(axis=1).tolist()
        columns = self._likely(peaks, k)
        found = scores.ravel()[columns + self._line_starts(n_lines, scores.shape[1])]
        cut = max(0, found.shape[1] - k)
        flat = found.argpartition(cut, axis=1)[:, cut:] + self._line_starts(n_lines, found.shape[1])
        values, rows = found.ravel()[flat], columns.ravel()[flat]
        order = np.lexsort((rows, -values), axis=1) + self._line_starts(n_lines, values.shape[1])
        values, rows = values.ravel()[order], rows.ravel()[order]
        n_left = (values > -np.inf).sum(axis=1).tolist()
        return [
            (line[:n], values[i, :n]) if peak < np.inf else None  # no number is below infinity but a finite one
            for i, (n, peak, line) in enumerate(zip(n_left, highest, rows.tolist(), strict=True))
        ]

    def best_of(self, user: Float32, k: int, masked: Iterable[int], candidates: Sequence[int]) -> Ranked:
        """Return the k best of the candidate rows without the masked ones. Raises NonFiniteError.

        user: float32 [dim].
        """
        hidden = set(masked)
        rows: Int64 = np.array([row for row in candidates if row not in hidden], dtype=np.int64)
        with np.errstate(all="ignore"):
            scores: Float32 = self._table.pick(rows) @ user
        if self._biases is not None:
            scores += self._biases[rows]
        if not np.isfinite(scores).all():
            raise NonFiniteError("a score is NaN or infinity")
        order = np.lexsort((rows, -scores))[:k]
        return rows[order].tolist(), scores[order]

    def most_popular(self, k: int, masked: Iterable[int], candidates: Sequence[int] | None = None) -> Ranked:
        """Return the k most popular rows, and popularities, without the masked rows: the answer that needs no model."""
        hidden = set(masked)
        allowed = None if candidates is None else set(candidates)
        best: list[int] = []
        for row in self._popular:
            if row in hidden or (allowed is not None and row not in allowed):
                continue
            best.append(row)
            if len(best) == k:
                break
        return best, self._popularity[best]

    def _likely(self, peaks: Float32, k: int) -> Int64:
        """Return for each line the columns of its k best groups."""
        cut = max(0, self._n_groups - k)
        groups = peaks.argpartition(cut, axis=1)[:, cut:]
        columns: Int64 = (groups[:, :, None] + self._members).reshape(len(peaks), -1)
        return columns

    def _line_starts(self, n_lines: int, width: int) -> Int64:
        """Return what to add to places in lines of a width to have places in all of them, int64 [n_lines, 1]."""
        return np.arange(0, n_lines * width, width)[:, None]


def _mask(scores: Float32, masked: Sequence["Sequence[int] | NDArray[Any]"]) -> None:
    for line, rows in zip(scores, masked, strict=True):
        if len(rows):
            line[rows] = -np.inf
