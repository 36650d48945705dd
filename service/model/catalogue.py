"""The catalogue: ids become rows here, rows become ids, and a search ranks them.

What must not be shown never shortens the answer while items are left: the search sees to it.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from service.bundle import Bundle, Float32, Int64, popularity_order
from service.errors import NonFiniteError
from service.search.exact import Exact
from service.search.protocol import Ranked, Search
from service.search.scan import scan_scores

_MAX_READY = 200_000
"""Items whose JSON is kept ready; it would be 90 MB of a million, and saves 2 µs of an answer."""
_POPULAR_AT_ONCE = 256
_FREED_AT_ONCE = 10_000


class Catalogue:
    """One catalogue and the search over it."""

    def __init__(self, bundle: Bundle, search: Search[Any] | None = None) -> None:
        """search: exact where none is given."""
        self.search = Exact(bundle.table) if search is None else search
        self.score, self.best = self.search.score, self.search.best
        self.item_ids = bundle.items.ids
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self._openings = [_opening(item_id) for item_id in self.item_ids] if len(self.item_ids) <= _MAX_READY else None
        self._table, self._biases = bundle.table, bundle.table.biases
        self._popular = popularity_order(bundle.items)
        self._places = np.argsort(self._popular)
        self._popularity = bundle.items.popularity

    def __len__(self) -> int:
        return len(self.item_ids)

    def dissolve(self) -> Iterator[None]:
        """Let go of the ids, a few at each step: a million at once would hold the interpreter for 70 ms."""
        while self._rows:
            del self.item_ids[-_FREED_AT_ONCE:]
            for _ in range(min(_FREED_AT_ONCE, len(self._rows))):
                self._rows.popitem()
            yield

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
        openings = self._openings or {row: _opening(self.item_ids[row]) for row in rows}
        return b",".join([openings[row] + score + b"}" for row, score in zip(rows, listed, strict=True)])

    def exact_scores(self, users: Float32) -> Float32:
        """Return user · item (+ bias) of every item, float32 [batch, n_items]: for checks at load."""
        return scan_scores(self._table, users)

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
        rows = self._each_popular() if candidates is None else sorted(set(candidates), key=self._places.__getitem__)
        best = list(itertools.islice((row for row in rows if row not in hidden), k))
        return best, self._popularity[best]

    def _each_popular(self) -> Iterator[int]:
        """Yield rows, the most popular first: a few at a time, for few are asked for."""
        for first in range(0, len(self._popular), _POPULAR_AT_ONCE):
            yield from self._popular[first : first + _POPULAR_AT_ONCE].tolist()


def _opening(item_id: str) -> bytes:
    return b'{"item_id":' + orjson.dumps(item_id) + b',"score":'
