"""The trend: how often each item was chosen lately, counted from the stream of accepted events as training counts.

    count(item, now) = sum over its events before now of 2^-((now - time) / half-life)

A user counts once an item and window floor(time / half-life). An event counts at its own time, or at its arrival where
its own time is later. What does not enter histories does not count (see service/bundle/history_type.py); what is undone
later has counted. It begins with the bundle's counts; events up to the time of those are in them.

What is counted can be made up, so three rules bound what little of it can do. Users who were first heard of less than a
day (or a half-life) ago count in full only as far as the item has as much from others; of what is more, the square root
counts. Where several keys send events, the share that one key has of an item's count is at most four times its share of
everything. And a user counts once an item and window, whatever times the events claim.

This module counts, and knows no store: see trend_feed.
"""

import hashlib
import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from service.bundle import Effect, Float32, HistoryTypes, TrendRule

ANONYMOUS, OTHERS = "anonymous", "other"
"""The sources of events that came without a key, and of those of very many keys."""
KEPT_WINDOWS = 8
"""An event from a window before these would count less than 1/256, and is left out."""
MOST_SOURCES = 16
_NEW_FOR_S = 86_400.0
_SHARE_TIMES = 4.0
_PRIOR_MASS = 5.0
_MOST_KEYS, _MOST_NEW = 4_000_000, 500_000
_MOST_ITEMS, _LEAST_COUNT, _MOST_COUNT = 100_000, 1e-3, 1e9
FIRST = b"0-0"
Entries = Iterable[tuple[bytes, bytes]]
"""Ids of entries of the stream, and their events as JSON."""


class Rows(Protocol):
    """The rows of a catalogue. item_ids: of each row; they may be deleted at any time."""

    item_ids: list[str]

    def find_row(self, item_id: str) -> int | None:
        """Return the row of an id; None where it is not known."""


class TrendCounter:
    """Counts of the rows of one catalogue. Its methods are called one at a time, from any thread.

    cursor: the entry that was looked at last. n_counted: grows with every change but fading. since: the Unix time up
    to which the bundle has counted.
    """

    def __init__(
        self, rule: TrendRule, counts: Float32, rows: Rows, now: float, types: HistoryTypes | None = None
    ) -> None:
        """counts: of the bundle, decayed to now, float32 [n_items]. types: those that enter histories count."""
        self._rule, self._rows, self._types = rule, rows, types or HistoryTypes()
        self.since = min(rule.as_of, now)
        self._at = now
        self._total = np.asarray(counts, dtype=np.float64)
        self._fresh = np.zeros(len(counts))
        self._of_source: dict[str, NDArray[np.float32]] = {}
        self._mass: dict[str, float] = {}
        self._users = _Newcomers(min(rule.half_life_s, _NEW_FOR_S))
        self._pairs: dict[int, _KeySet] = {}
        self._first_window = rule.window(now) - KEPT_WINDOWS
        self._known_to = FIRST
        self.cursor, self.n_counted = FIRST, 0

    def count(self, entries: Entries, now: float) -> None:
        """Count the next entries of the stream, in their order. now: Unix seconds."""
        self._fade_to(now)
        for entry_id, event in entries:
            self.cursor = entry_id
            if (read := _read_event(event, self._types)) is not None:
                self._look(entry_id, *read)

    def counts(self, now: float) -> Float32:
        """Return the counts at a Unix time, float32 [n_items]."""
        self._fade_to(now)
        return self._total.astype(np.float32)

    def masses(self) -> dict[str, float]:
        """Return how much of all counts is from each source since the start; the rest is the bundle's."""
        return {**self._mass, "bundle": max(0.0, float(self._total.sum()) - sum(self._mass.values()))}

    def describe(self) -> dict[str, Any] | None:
        """Return what restore() takes, of the items that count most where there are very many.

        None while the entries that another process had counted are still looked at, and once the ids are deleted.
        """
        item_ids = self._rows.item_ids[:]
        if len(item_ids) < len(self._total) or _order(self.cursor) < _order(self._known_to):
            return None
        rows = np.flatnonzero(self._total >= _LEAST_COUNT)
        if len(rows) > _MOST_ITEMS:
            rows = rows[np.argpartition(self._total[rows], -_MOST_ITEMS)[-_MOST_ITEMS:]]
        pairs = np.stack([self._total[rows], self._fresh[rows]], axis=1).round(5).tolist()
        return {
            "at": self._at,
            "cursor": self.cursor.decode(),
            "sources": self._mass,
            "items": {item_ids[row]: pair for row, pair in zip(rows.tolist(), pairs, strict=True)},
        }

    def restore(self, described: Mapping[str, Any], now: float) -> None:
        """Begin with what another process, or another version, had counted. Raises ValueError unless it can be true.

        What the bundle counts more is kept. The entries up to the described cursor are still to be looked at, to know
        who was there before and what counted already, but they do not count again.
        """
        try:
            at, cursor = float(described["at"]), str(described["cursor"]).encode()
            _order(cursor)
            sources = {str(name): float(mass) for name, mass in described["sources"].items()}
            items = {str(item_id): (float(total), float(new)) for item_id, (total, new) in described["items"].items()}
        except (KeyError, TypeError, AttributeError, OverflowError) as exc:
            raise ValueError("no counts of a trend") from exc
        values = [*sources.values(), *(value for pair in items.values() for value in pair)]
        if not 0 <= at < math.inf or not all(0 <= value <= _MOST_COUNT for value in values):
            raise ValueError("counts of a trend that cannot be true")
        self._fade_to(now)
        left = self._rule.fade(now - at)
        for item_id, (total, new) in items.items():
            if (row := self._rows.find_row(item_id)) is not None:
                if row >= len(self._total):
                    self._grow(row + 1)
                self._total[row] = max(self._total[row], total * left)
                self._fresh[row] = min(new, total) * left
        self._mass = {name: mass * left for name, mass in list(sources.items())[:MOST_SOURCES]}
        self._known_to = cursor
        self.n_counted += 1

    def _fade_to(self, now: float) -> None:
        """Decay everything that is counted to a later time."""
        if now <= self._at:
            return
        left = self._rule.fade(now - self._at)
        self._at = now
        self._total *= left
        self._fresh *= left
        for own in self._of_source.values():
            own *= left
        self._mass = {source: mass * left for source, mass in self._mass.items()}
        self._users.grow_old(now)
        self._forget_windows(self._rule.window(now) - KEPT_WINDOWS)

    def _forget_windows(self, first: int) -> None:
        """Forget who counted in windows before the first, and in more where there are too many to keep."""
        while self._pairs and (min(self._pairs) < first or self._n_pairs() > _MOST_KEYS):
            oldest = min(self._pairs)
            del self._pairs[oldest]
            first = max(first, oldest + 1)
        self._first_window = max(self._first_window, first)

    def _n_pairs(self) -> int:
        return sum(map(len, self._pairs.values()))

    def _look(self, entry_id: bytes, user_id: str, item_id: str, timestamp: float, source: str) -> None:
        """Count one event if it is to be counted."""
        arrived = _order(entry_id)[0] / 1000
        is_new = self._users.meet(_key(user_id), arrived)
        row = self._rows.find_row(item_id)
        at = min(timestamp, arrived)
        window = self._rule.window(at)
        if row is not None and row >= len(self._total):
            self._grow(row + 1)
        if row is None or at <= self.since or window < self._first_window:
            return
        is_first = self._pairs.setdefault(window, _KeySet()).add(_key(f"{user_id}\0{item_id}"))
        if is_first and _order(entry_id) > _order(self._known_to):
            self._add(row, self._rule.fade(self._at - at), source, is_new=is_new)

    def _grow(self, n_items: int) -> None:
        """Count further rows, of live items, from now on: at least so many, and all that there are."""
        more = max(n_items, len(self._rows.item_ids)) - len(self._total)
        self._total, self._fresh = (np.concatenate([own, np.zeros(more)]) for own in (self._total, self._fresh))
        self._of_source = {
            source: np.concatenate([own, np.zeros(more, dtype=np.float32)]) for source, own in self._of_source.items()
        }

    def _add(self, row: int, weight: float, source: str, *, is_new: bool) -> None:
        """Count an event of a row. weight: what is left of it by now."""
        if source not in self._of_source:
            source = source if len(self._of_source) < MOST_SOURCES else OTHERS
            self._of_source.setdefault(source, np.zeros(len(self._total), dtype=np.float32))
        own = self._of_source[source]
        worth = weight * self._worth(row, source, is_new=is_new)
        own[row] += worth
        self._total[row] += worth
        if is_new:
            self._fresh[row] += worth
        self._mass[source] = self._mass.get(source, 0.0) + worth
        self.n_counted += 1

    def _worth(self, row: int, source: str, *, is_new: bool) -> float:
        """Return how much of an event counts, from 0 to 1."""
        total, own = float(self._total[row]), float(self._of_source[source][row])
        worth = 1.0
        if is_new:
            excess = max(0.0, 2 * float(self._fresh[row]) - total)
            worth = math.sqrt(excess * excess + 1) - excess
        n_sources = max(1, len(self._mass.keys() | {source}))
        mass = self._mass.get(source, 0.0) + _PRIOR_MASS
        share = _SHARE_TIMES * mass / (sum(self._mass.values()) + n_sources * _PRIOR_MASS)
        if share < 1:
            worth = min(worth, max(0.0, 1 + share / (1 - share) * max(0.0, total - own) - own))
        return worth


class _KeySet:
    """A set of 64-bit keys, most of them in a sorted array: 8 bytes each."""

    def __init__(self) -> None:
        self._sorted, self._added = array("Q"), set[int]()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._added)

    def __contains__(self, key: int) -> bool:
        place = bisect_left(self._sorted, key)
        return key in self._added or (place < len(self._sorted) and self._sorted[place] == key)

    def add(self, key: int) -> bool:
        """Add a key; return whether it was not there."""
        if key in self:
            return False
        self._added.add(key)
        if len(self._added) > 4096 + len(self._sorted) // 8:
            both = np.concatenate([np.array(self._sorted, dtype=np.uint64), np.array([*self._added], dtype=np.uint64)])
            self._sorted, self._added = array("Q", np.sort(both).tobytes()), set()
        return True


class _Newcomers:
    """Who was heard of first when: by arrival, which no sender can choose."""

    def __init__(self, new_for_s: float) -> None:
        self._new_for_s = new_for_s
        self._first: dict[int, float] = {}
        self._known = _KeySet()

    def meet(self, user: int, arrived: float) -> bool:
        """Note that a user has sent an event; return whether the user is still new."""
        first = self._first.get(user)
        if first is None:
            if user in self._known:
                return False
            if len(self._first) < _MOST_NEW:
                self._first[user] = arrived
            return True
        return arrived - first < self._new_for_s

    def grow_old(self, now: float) -> None:
        """Let those be known who have been new for long enough; the first ones were met first."""
        old = []
        for user, first in self._first.items():
            if now - first < self._new_for_s:
                break
            old.append(user)
        for user in old:
            del self._first[user]
            if len(self._known) < _MOST_KEYS:
                self._known.add(user)


def _read_event(event: bytes, types: HistoryTypes) -> tuple[str, str, float, str] | None:
    """Return user, item, Unix time and source of an entry's event; None if it is none, or does not count."""
    try:
        fields = orjson.loads(event)
        user_id, item_id, timestamp = fields["user_id"], fields["item_id"], float(fields["timestamp"])
        source, type_ = fields.get("source", ANONYMOUS), fields.get("event")
        if isinstance(type_, str | None) and types.effect(type_) is not Effect.HISTORY:
            return None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None
    is_event = all(isinstance(each, str) for each in (user_id, item_id, source)) and 0 <= timestamp < 1e11
    return (user_id, item_id, timestamp, source) if is_event else None


def _order(entry_id: bytes) -> tuple[int, int]:
    """Return what ids of entries are ordered by. Raises ValueError."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number or 0)


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
