"""The catalogue of one version: it turns item ids into rows of the item table and back, and ranks rows.

Whole catalogues are ranked by a search (service.search), the few candidates of a request by their scores alone, and
popular items without a model: by the trend where the score has one, else by the popularity in training. An answer is
shorter than asked for only if no more items are allowed.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.bundle import (
    Bundle,
    Float32,
    Int64,
    Item,
    Parts,
    Relations,
    parse_similar,
    popularity_order,
    usual_rule,
)
from service.catalogue.attributes import Attributes
from service.catalogue.field import pick_fields
from service.catalogue.live_item import LiveItem
from service.catalogue.title_index import TitleIndex
from service.errors import NonFiniteError
from service.model.live import LiveRows
from service.search.addend import Addend, Addends, Boosted, Standing, pick_highest, stand, weigh
from service.search.exact import Exact
from service.search.protocol import Ranked, Search, rank
from service.search.scan import scan_scores

_MAX_READY = 200_000
"""The largest catalogue of which the start of each item's JSON is kept: tests/bench/README.md, "Ready-made JSON"."""
_POPULAR_AT_ONCE = 256
_FREED_AT_ONCE = 10_000


class Catalogue:
    """The items of one version, and the search over them.

    search: the search. score, best: its methods. item_ids: the id of each row. parts: what the score has beside taste,
    None where it is taste alone. heard_at: the Unix time up to which events are in the trend. attributes: of the items,
    which filters ask for. titles: their words. live: what live items change. live_serial: the last change that is in
    it. made_at: the Unix time when the bundle was made.
    """

    def __init__(self, bundle: Bundle, search: Search[Any] | None = None) -> None:
        """search: the exact one if none is given."""
        self.search = Exact(bundle.table) if search is None else search
        self.score, self.best = self.search.score, self.search.best
        self.item_ids, self._items = bundle.items.ids, bundle.items
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self._openings = [_opening(item_id) for item_id in self.item_ids] if len(self.item_ids) <= _MAX_READY else None
        self._table, self._biases = bundle.table, bundle.table.biases
        self._popular = popularity_order(bundle.items)
        self._places = np.argsort(self._popular)
        self.attributes = Attributes.of(bundle.items)
        self.n_made = len(bundle.items)
        self.titles = TitleIndex(self._popular.tolist, lambda rows: (self._items[row].title for row in rows))
        self.live = LiveRows(self.attributes, self._made, len(bundle.items), self.titles)
        self.live_serial = 0
        self.made_at, self.version = _seconds(bundle.manifest.created_at), bundle.manifest.version
        self._popularity = bundle.items.popularity
        self.parts: Parts | None = bundle.table.parts
        similar = bundle.manifest.similar
        self._relations = Relations(bundle.table, parse_similar(similar) if similar else usual_rule(self.parts))
        self._standing: Standing | None = None
        self.heard_at = math.inf
        if self.has_trend:
            assert self.parts is not None and self.parts.rule.trend is not None  # noqa: S101  # it has one
            self.set_counts(self.parts.counts_at(time.time()), self.parts.rule.trend.as_of)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def has_trend(self) -> bool:
        """Whether scores depend on what is counted now."""
        return self.parts is not None and self.parts.rule.trend is not None

    def find_row(self, item_id: str) -> int | None:
        """Return the row of an id; None where it is not known."""
        return self._rows.get(item_id)

    def item(self, row: int) -> Item:
        """Return the item of a row as it is now."""
        return self.live.items.get(row) or self._items[row]

    def take_live(self, changes: Mapping[str, LiveItem | None], now: float) -> None:
        """Take what has changed of live items, None for a record that is gone, and withdraw what has expired.

        now: Unix seconds.
        """
        self.live.expire(now)
        for item_id, record in changes.items():
            row = self._rows.get(item_id)
            if row is None:
                continue
            is_known = row < self.n_made
            if record is not None and record.applies_to(is_known=is_known, bundle_at=self.made_at):
                self.live.put(row, item_id, record, now)
            else:
                self.live.drop(row)

    def origin(self, row: int) -> list[str]:
        """Return what a row's vector is made of, the weightiest first."""
        return ["bundle"] if row < self.n_made else []

    def by_popularity(self) -> Iterator[int]:
        """Yield all rows, the most popular first."""
        return self._each_popular()

    def _made(self, row: int) -> Item | None:
        """Return what the bundle says of a row, if it has it."""
        return self._items[row] if row < self.n_made else None

    def set_counts(self, counts: Float32 | None, heard_at: float) -> None:
        """Let the trend be that of counts, float32 [n_items], in one step; any thread may call. None: it stays.

        heard_at: the Unix time up to which events are in the counts.
        """
        assert self.parts is not None  # noqa: S101  # asked of a trend only
        if counts is not None:
            self._standing = stand(self.parts, counts, self._places)
        self.heard_at = heard_at

    def weigh(
        self,
        users: Float32,
        histories: Sequence[Sequence[int] | NDArray[np.integer]],
        last_at: Sequence[float],
        now: float,
    ) -> tuple[Float32, Sequence[Addend] | None]:
        """Return users as score() and best_of() take them, float32 [batch, dim], and what is added to their scores.

        users: as the encoder gives them. histories: rows, the oldest first. last_at: Unix times of each user's last
        event, NaN where it is not known. now: the Unix time of the request.
        """
        if self.parts is None:
            return users, None
        gaps = np.log1p(np.maximum(0.0, now - np.asarray(last_at, dtype=np.float64)))
        return weigh(self.parts, users, histories, gaps, self._standing)

    def relate(self, anchors: Sequence[int], encoded: Float32) -> tuple[Float32, Addend]:
        """Return what scores items as those that go with anchors, as score() and best_of() take it.

        anchors: rows. encoded: by the encoder, of the anchors alone, float32 [dim].
        """
        weight = 0.0 if self._standing is None else self._relations.rule.trend
        addend = Addend(np.float32(weight), self._standing, *self._relations.speak(anchors))
        return self._relations.direction(anchors, encoded), addend

    def describe_parts(
        self, ranked: Ranked, addend: Addend | None, boost: Float32 | None = None, *, is_popular: bool = False
    ) -> list[dict[str, float]]:
        """Return the parts of the score of each ranked item, which add up to the score as it is shown.

        boost: what the request added to each item's score, float32 [n_items], if anything. is_popular: whether they are
        popular items, whose scores are of the trend alone, or of the popularity in training where there is none.
        """
        rows = np.asarray(ranked[0], dtype=np.int64)
        nothing, scores = [0.0] * len(rows), _shown(ranked[1])
        boosts = nothing if boost is None else _shown(boost[rows])
        rest = [score - boosted for score, boosted in zip(scores, boosts, strict=True)]
        parts = {"taste": nothing, "neighbours": nothing, "trend": nothing}
        if is_popular:
            parts["trend" if self.has_trend else "popularity"] = rest
        else:
            if addend is not None:
                parts |= {"neighbours": _shown(addend.neighbours_at(rows)), "trend": _shown(addend.trend_at(rows))}
            others = zip(rest, parts["neighbours"], parts["trend"], strict=True)
            parts["taste"] = [whole - near - trending for whole, near, trending in others]
        if boost is not None:
            parts["boost"] = boosts
        return [dict(zip(parts, each, strict=True)) for each in zip(*parts.values(), strict=True)]

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

    def render(self, ranked: Ranked, fields: Sequence[str] = (), more: Sequence[bytes] = ()) -> bytes:
        """Return the items as JSON objects joined by commas; scores are written as briefly as float32 allows.

        fields: what is written of each item beside its id and score, see check_fields(). more: what is written after
        each score, JSON fields with a comma before each; empty for nothing.
        """
        rows, scores = ranked
        if not len(rows):
            return b""
        listed = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        if more:
            listed = [score + each for score, each in zip(listed, more, strict=True)]
        openings = self._openings or {row: _opening(self.item_ids[row]) for row in rows}
        if fields:
            more = [b"," + pick_fields(self.item(row), fields) for row in rows]
            return b",".join(
                [openings[row] + score + rest for row, score, rest in zip(rows, listed, more, strict=True)]
            )
        return b",".join([openings[row] + score + b"}" for row, score in zip(rows, listed, strict=True)])

    def vectors(self, rows: Sequence[int]) -> Float32:
        """Return the vectors of rows, float32 [len(rows), dim]."""
        return self._table.pick(np.asarray(rows, dtype=np.int64))

    def exact_scores(self, users: Float32, addends: Addends | None = None) -> Float32:
        """Return user · item (+ bias, + addend) of every item, float32 [batch, n_items], for checks at load.

        users: float32 [batch, dim].
        """
        scores = scan_scores(self._table, users)
        for own, addend in zip(scores, addends or (), strict=False):
            addend.add_to(own)
        return scores

    def best_of(
        self,
        user: Float32,
        k: int,
        masked: Iterable[int],
        candidates: Sequence[int],
        addend: Addend | Boosted | None = None,
    ) -> Ranked:
        """Return the k best of the candidate rows that are not masked. user: float32 [dim].

        Raises NonFiniteError if one of their scores is not finite.
        """
        hidden = set(masked)
        rows: Int64 = np.array([row for row in candidates if row not in hidden], dtype=np.int64)
        with np.errstate(all="ignore"):
            scores: Float32 = self._table.pick(rows) @ user
        if self._biases is not None:
            scores += self._biases[rows]
        if addend is not None:
            scores += addend.at(rows)
        if not np.isfinite(scores).all():
            raise NonFiniteError("a score is NaN or infinity")
        return rank(rows, scores, k)

    def most_popular(
        self,
        k: int,
        masked: Iterable[int],
        candidates: Sequence[int] | None = None,
        allowed: NDArray[np.bool_] | None = None,
        boost: Float32 | None = None,
    ) -> Ranked:
        """Return the k most popular rows that are not masked, and why as scores. It needs no user.

        By the trend where there is one, with log(count + e) as scores; else, and where the trend says the same of two,
        by the popularity in training. candidates: only these rows, if they are given. allowed: bool [n_items], the rows
        that may be in the answer, without candidates; None for all. boost: what is added to each item's score, float32
        [n_items], if anything.
        """
        hidden = set(masked)
        if allowed is not None or boost is not None:
            left = np.ones(len(self), dtype=np.bool_) if allowed is None else allowed.copy()
            left[list(hidden)] = False
            chosen: Int64 = np.flatnonzero(left)
            if candidates is not None:
                chosen = np.array(sorted({row for row in candidates if left[row]}), dtype=np.int64)
            return self._most_popular_of(chosen, k, boost)
        if (standing := self._standing) is not None:
            return self._trending(standing, k, hidden, candidates)
        rows = self._each_popular() if candidates is None else sorted(set(candidates), key=self._places.__getitem__)
        best = list(itertools.islice((row for row in rows if row not in hidden), k))
        return best, self._popularity[best]

    def _most_popular_of(self, rows: Int64, k: int, boost: Float32 | None) -> Ranked:
        """Return the k most popular of rows."""
        standing = self._standing
        popularity: NDArray[Any] = self._popularity if standing is None else standing.logs
        if boost is not None:
            popularity = popularity + boost
        rows = pick_highest(rows, popularity, self._places, k)
        rows = rows[np.lexsort((self._places[rows], -popularity[rows]))]
        return rows.tolist(), popularity[rows]

    def _trending(self, standing: Standing, k: int, hidden: set[int], candidates: Sequence[int] | None) -> Ranked:
        rows = standing.top if candidates is None else np.array(sorted(set(candidates)), dtype=np.int64)
        left = rows[[row not in hidden for row in rows.tolist()]] if hidden else rows
        if len(left) < k and candidates is None:
            left = np.delete(np.arange(len(self)), sorted(hidden))
        order = np.lexsort((self._places[left], -standing.logs[left]))[:k]
        return left[order].tolist(), standing.logs[left[order]]

    def _each_popular(self) -> Iterator[int]:
        """Yield all rows, the most popular first. They are converted 256 at a time, because few are asked for."""
        for first in range(0, len(self._popular), _POPULAR_AT_ONCE):
            yield from self._popular[first : first + _POPULAR_AT_ONCE].tolist()


def _shown(scores: NDArray[Any]) -> list[float]:
    """Return scores as they are written in answers."""
    return [float(str(score)) for score in scores]


def _seconds(created_at: str) -> float:
    """Return the Unix time of a manifest; 0 where it names none."""
    try:
        return datetime.fromisoformat(created_at).timestamp()
    except ValueError:
        return 0.0


def _opening(item_id: str) -> bytes:
    """Return the JSON of an item up to its score."""
    return b'{"item_id":' + orjson.dumps(item_id) + b',"score":'
