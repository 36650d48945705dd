"""The catalogue of one version: it turns item ids into rows of the item table and back, and ranks rows.

Whole catalogues are ranked by a search (service.search), the few candidates of a request by their scores alone, and
popular items without a model: by the trend where the score has one, else by the popularity in training. An answer is
shorter than asked for only if no more items are allowed.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.bundle import Bundle, Float32, Int64, Item, Parts, Relations, parse_similar, usual_rule
from service.catalogue.attributes import Attributes
from service.catalogue.field import pick_fields
from service.catalogue.live_item import LiveItem
from service.catalogue.shown import Shown
from service.catalogue.title_index import TitleIndex
from service.errors import NonFiniteError
from service.model.item_encoder import ItemEncoder
from service.model.live import LiveRows
from service.model.newcomer import Newcomers
from service.model.popular import Popular
from service.search.addend import Addend, Addends, Boosted, stand, weigh
from service.search.exact import Exact
from service.search.protocol import Ranked, Search, rank
from service.search.scan import scan_scores
from service.search.segment import Extended, GrownTable

_MAX_READY = 200_000
"""The largest catalogue of which the start of each item's JSON is kept: tests/bench/README.md, "Ready-made JSON"."""
_FREED_AT_ONCE = 10_000


class Catalogue:
    """The items of one version, and the search over them.

    search: the search. score, best: its methods. item_ids: of each row. parts: what the score has beside taste, None
    where it has nothing. heard_at: the Unix time up to which events are in the trend. attributes: what filters ask for.
    titles: their words. live: what live items change. live_serial: the last change in it. shown: how often items were.
    made_at: the Unix time when the bundle was made. n_made: how many rows it has; those after them are live items.
    table: the vectors. popular: the order without a model. item_encoder: of live items, where the bundle has one.
    """

    def __init__(self, bundle: Bundle, search: Search[Any] | None = None) -> None:
        """search: the exact one if none is given."""
        self.search = Exact(bundle.table) if search is None else search
        self.score, self.best = self.search.score, self.search.best
        self.item_ids, self._items = bundle.items.ids, bundle.items
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self._openings = [_opening(item_id) for item_id in self.item_ids] if len(self.item_ids) <= _MAX_READY else None
        self.table, self.popular = GrownTable(bundle.table), Popular(bundle.items)
        self.attributes = Attributes.of(bundle.items)
        self.n_made = len(bundle.items)
        self.titles = TitleIndex(self.popular.order.tolist, lambda rows: (self._items[row].title for row in rows))
        self.live = LiveRows(self.attributes, self._made, len(bundle.items), self.titles)
        self.live_serial, self.shown = 0, Shown(self.n_made)
        self.made_at = _seconds(bundle.manifest.created_at)
        self.item_encoder: ItemEncoder | None = None
        self._newcomers: Newcomers | None = None
        self._origins: list[list[str]] = []
        self.parts: Parts | None = bundle.table.parts
        self._version = bundle.manifest.version
        similar = bundle.manifest.similar
        self._relations = Relations(self.table, parse_similar(similar) if similar else usual_rule(self.parts))
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
        new: list[tuple[int, LiveItem]] = []
        for item_id, record in changes.items():
            row = self._rows.get(item_id)
            is_known = row is not None and row < self.n_made
            if record is None or not record.applies_to(is_known=is_known, bundle_at=self.made_at):
                if row is not None:
                    self.live.drop(row)
                continue
            if row is None:
                row = len(self)
                self._append(item_id)
            self.live.put(row, item_id, record, now)
            if not is_known:
                new.append((row, record))
        if new:
            self._place(new)

    def use_encoder(self, encoder: ItemEncoder) -> None:
        """Let an encoder make vectors of live items. Called before there are any."""
        self.item_encoder = encoder
        if self.has_trend:
            assert self.parts is not None  # noqa: S101  # it has a trend
            self.set_counts(self.parts.counts_at(time.time()), self.heard_at)

    def origin(self, row: int) -> list[str]:
        """Return what a row's vector is made of, the weightiest first."""
        return ["bundle"] if row < self.n_made else self._origins[row - self.n_made]

    def by_popularity(self) -> Iterator[int]:
        """Yield all rows, the most popular first."""
        return self.popular.each()

    def is_made(self, item_id: str) -> bool:
        """Whether the bundle has an item."""
        return self._rows.get(item_id, self.n_made) < self.n_made

    @property
    def has_live_rows(self) -> bool:
        """Whether there are, or were, items that the bundle does not have."""
        return self.table.n_live > 0

    def _append(self, item_id: str) -> None:
        """Take an item that the bundle does not have: it gets the next row."""
        if not self._origins:
            self.item_ids = list(self.item_ids)  # the bundle's own list stays as it is
            extended = Extended(self.search, self.table)
            self.score, self.best = extended.score, extended.best
            self._newcomers = Newcomers(self.table, self.attributes, self.find_row, self._version, self.item_encoder)
        row = len(self)
        self.item_ids.append(item_id)
        if self._openings is not None:
            self._openings.append(_opening(item_id))
        self._rows[item_id] = row
        self._origins.append([])
        self.popular.grow(row + 1)
        self.attributes.grow(row + 1)
        self.live.grow(row + 1)

    def _place(self, new: Sequence[tuple[int, LiveItem]]) -> None:
        """Give live rows their vectors."""
        assert self._newcomers is not None  # noqa: S101  # there is one since the first live row
        origins = self._newcomers.add([(row, self.item(row), record) for row, record in new])
        for (row, _), origin in zip(new, origins, strict=True):
            self._origins[row - self.n_made] = origin

    def _made(self, row: int) -> Item | None:
        """Return what the bundle says of a row, if it has it."""
        return self._items[row] if row < self.n_made else None

    def set_counts(self, counts: Float32 | None, heard_at: float) -> None:
        """Let the trend be that of counts, float32 [n_items], in one step; any thread may call. None: it stays.

        heard_at: the Unix time up to which events are in the counts.
        """
        assert self.parts is not None  # noqa: S101  # asked of a trend only
        if counts is not None:
            prior = 0.0 if self.item_encoder is None else self.item_encoder.prior_count
            self.search.follow(standing := stand(self.parts, counts, self.popular.places, self.n_made, prior))
            self.popular.standing = standing
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
        n_made = self.n_made if self.has_live_rows else None
        return weigh(self.parts, users, histories, gaps, self.popular.standing, n_made)

    def relate(self, anchors: Sequence[int], encoded: Float32) -> tuple[Float32, Addend]:
        """Return what scores items as those that go with anchors, as score() and best_of() take it.

        anchors: rows. encoded: by the encoder, of the anchors alone, float32 [dim].
        """
        standing = self.popular.standing
        weight = 0.0 if standing is None else self._relations.rule.trend
        addend = Addend(np.float32(weight), standing, *self._relations.speak(anchors))
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
        return self.table.pick(np.asarray(rows, dtype=np.int64))

    def certainties(self, rows: Int64) -> Float32:
        """Return how sure the vectors of live rows are, float32 [len(rows)], as cosines with the true ones."""
        assert self._newcomers is not None  # noqa: S101  # there is one since the first live row
        return self._newcomers.certainties(rows - self.n_made)

    def exact_scores(self, users: Float32, addends: Addends | None = None) -> Float32:
        """Return user · item (+ bias, + addend) of every item, float32 [batch, n_items], for checks at load.

        users: float32 [batch, dim].
        """
        scores = scan_scores(self.table.made, users)
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
            scores: Float32 = self.table.pick(rows) @ user
        if (biases := self.table.biases_of(rows)) is not None:
            scores += biases
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
        return self.popular.rank(k, masked, candidates, allowed, boost)


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
