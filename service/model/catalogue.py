"""The catalogue of one version: it turns item ids into rows of the item table and back, and ranks rows.

Whole catalogues are ranked by a search (service.search), the few candidates of a request by their scores alone, and
popular items without a model. An answer is shorter than asked for only if no more items are allowed.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from service.bundle import Bundle, Float32, Int64, popularity_order
from service.errors import NonFiniteError
from service.search.exact import Exact
from service.search.protocol import Ranked, Search, rank
from service.search.scan import scan_scores

_MAX_READY = 200_000
"""The largest catalogue of which the start of each item's JSON is kept: tests/bench/README.md, "Ready-made JSON"."""
_POPULAR_AT_ONCE = 256
_FREED_AT_ONCE = 10_000


class Catalogue:
    """The items of one version, and the search over them.

    search: the search. score, best: its methods. item_ids: the id of each row.
    """

    def __init__(self, bundle: Bundle, search: Search[Any] | None = None) -> None:
        """search: the exact one if none is given."""
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
        """Delete the ids, 10,000 at each step, so that other threads run in between. The catalogue is then of no use.

        A million at once hold up the process: tests/bench/README.md, "A replaced catalogue is deleted in steps".
        """
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
        """Return the items as JSON objects joined by commas; scores are written as briefly as float32 allows."""
        rows, scores = ranked
        if not len(rows):
            return b""
        listed = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        openings = self._openings or {row: _opening(self.item_ids[row]) for row in rows}
        return b",".join([openings[row] + score + b"}" for row, score in zip(rows, listed, strict=True)])

    def exact_scores(self, users: Float32) -> Float32:
        """Return user · item (+ bias) of every item, float32 [batch, n_items], for checks at load.

        users: float32 [batch, dim].
        """
        return scan_scores(self._table, users)

    def best_of(self, user: Float32, k: int, masked: Iterable[int], candidates: Sequence[int]) -> Ranked:
        """Return the k best of the candidate rows that are not masked. user: float32 [dim].

        Raises NonFiniteError if one of their scores is not finite.
        """
        hidden = set(masked)
        rows: Int64 = np.array([row for row in candidates if row not in hidden], dtype=np.int64)
        with np.errstate(all="ignore"):
            scores: Float32 = self._table.pick(rows) @ user
        if self._biases is not None:
            scores += self._biases[rows]
        if not np.isfinite(scores).all():
            raise NonFiniteError("a score is NaN or infinity")
        return rank(rows, scores, k)

    def most_popular(self, k: int, masked: Iterable[int], candidates: Sequence[int] | None = None) -> Ranked:
        """Return the k most popular rows that are not masked, with their popularity as scores. It needs no model.

        candidates: only these rows, if they are given.
        """
        hidden = set(masked)
        rows = self._each_popular() if candidates is None else sorted(set(candidates), key=self._places.__getitem__)
        best = list(itertools.islice((row for row in rows if row not in hidden), k))
        return best, self._popularity[best]

    def _each_popular(self) -> Iterator[int]:
        """Yield all rows, the most popular first. They are converted 256 at a time, because few are asked for."""
        for first in range(0, len(self._popular), _POPULAR_AT_ONCE):
            yield from self._popular[first : first + _POPULAR_AT_ONCE].tolist()


def _opening(item_id: str) -> bytes:
    """Return the JSON of an item up to its score."""
    return b'{"item_id":' + orjson.dumps(item_id) + b',"score":'
