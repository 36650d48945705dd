"""What a request asks of its list beside the best items: boosts, diversity, at most n of a value, pins, a page.

The order is: scores with their boosts, diversity, max_per, pins, offset. What must never be shown is not a rule's
business: it is masked before the best are chosen, and so are pinned items, which stand at their own positions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32
from service.catalogue.column import Mask
from service.recommendation.diversity import MOST_DIVERSIFIED, Diversified
from service.search.protocol import Ranked
from service.user.record import Int32

MOST_COUNTED = 20_000
"""How many of the best items are looked at to say in `debug` how many max_per leaves."""
_DEEPER = 4
"""How many times as many items as are asked for are looked at first where max_per may leave some out."""
_CHUNK, _MMR_CHUNK, _LARGEST_CHUNK = 64, 16, 8192


@dataclass(frozen=True, slots=True, eq=False)
class Cap:
    """At most n items of one value.

    codes: the numbers of row i's values are codes[starts[i] : starts[i + 1]], each below n_values.
    """

    codes: Int32
    starts: Int32
    n_values: int
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """What is asked of a list.

    boosts: whom, bool [n_items], and what is added to their scores. pins: position, counted from 1, to item id.
    diversity: 0 to 1. offset: how many items come before the page. trend: by how much the trend's part of a score is
    multiplied.
    """

    offset: int = 0
    boosts: Sequence[tuple[Mask, float]] = ()
    caps: Sequence[Cap] = ()
    diversity: float = 0.0
    pins: Mapping[int, str] = field(default_factory=dict)
    trend: float = 1.0

    def depth(self, k: int, *, is_counted: bool) -> int:
        """Return how many of the best rows are looked at first. is_counted: say how many rows the caps leave."""
        depth = self.offset + k
        if self.caps:
            depth = MOST_COUNTED if is_counted else depth * _DEEPER
        return max(depth, MOST_DIVERSIFIED) if self.diversity else depth

    def total_boost(self, n_items: int) -> Float32 | None:
        """Return what is added to each item's score, float32 [n_items]; None where nothing is."""
        if not self.boosts:
            return None
        total = np.zeros(n_items, dtype=np.float32)
        for mask, added in self.boosts:
            total += mask * np.float32(added)
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """A page of a list: rows and scores, and how many items the whole list has, as far as it was looked at."""

    ranked: Ranked
    n_in_list: int


class Shaping:
    """Makes a page of what was ranked, for one request."""

    def __init__(self, rules: Rules, k: int, placed: Mapping[int, int]) -> None:
        """placed: position to row, of the pins that stand."""
        self._rules, self._placed = rules, placed
        self._first, self._last = rules.offset + 1, rules.offset + k
        self._n_before = sum(position <= self._last for position in placed)

    def pinned(self) -> list[int]:
        """Return the rows that are pinned to positions of this page."""
        return [row for position, row in sorted(self._placed.items()) if self._first <= position <= self._last]

    def keep(self, ranked: Ranked, vectors: Float32 | None, *, is_counted: bool) -> list[int]:
        """Return the places in ranked of the items that the list has beside the pins, in its order.

        vectors: of the first MOST_DIVERSIFIED rows, float32 [n, dim], where diversity is asked for. is_counted: go on
        to the end of ranked, past what the page needs.
        """
        n_wanted = len(ranked[0]) if is_counted else self._last - self._n_before
        if not self._rules.caps:
            return [place for chunk in self._chunks(ranked, vectors, n_wanted) for place in chunk.tolist()][:n_wanted]
        tallies = [_Tally(cap, list(self._placed.values())) for cap in self._rules.caps]
        rows, kept = np.asarray(ranked[0], dtype=np.int64), []
        for chunk in self._chunks(ranked, vectors, len(rows)):
            chosen = rows[chunk]
            has_room = np.logical_and.reduce([tally.has_room(chosen) for tally in tallies])
            for place, row in zip(chunk[has_room].tolist(), chosen[has_room].tolist(), strict=True):
                if all(tally.takes(row) for tally in tallies):
                    kept.append(place)
                    for tally in tallies:
                        tally.count(row)
                    if len(kept) >= n_wanted:
                        return kept
        return kept

    def cut(self, ranked: Ranked, kept: Sequence[int], pinned: Mapping[int, Any]) -> Page:
        """Return the page. kept: what keep() returned. pinned: row to score, of the rows of pinned()."""
        rows, scores = ranked
        found: list[tuple[int, Any]] = []
        n_pins = sum(position < self._first for position in self._placed)
        for position in range(self._first, self._last + 1):
            row = self._placed.get(position)
            if row is not None:
                found.append((row, pinned[row]))
                n_pins += 1
            elif (place := position - 1 - n_pins) < len(kept):
                found.append((rows[kept[place]], scores[kept[place]]))
        page = [row for row, _ in found], np.array([score for _, score in found], dtype=scores.dtype)
        return Page(page, len(kept) + len(self._placed))

    def is_enough(self, kept: Sequence[int]) -> bool:
        """Whether the page needs no more than was kept."""
        return len(kept) >= self._last - self._n_before

    def _chunks(self, ranked: Ranked, vectors: Float32 | None, n_wanted: int) -> Iterator[NDArray[np.int64]]:
        """Yield places of ranked in the order of the list, few at first."""
        done, size = 0, _CHUNK
        if vectors is not None:
            diversified = Diversified(vectors, np.asarray(ranked[1])[: len(vectors)], self._rules.diversity)
            n_next = self._last - self._n_before
            while done < min(len(vectors), n_wanted):
                chunk = diversified.take(min(n_next, n_wanted - done))
                done, n_next = done + len(chunk), _MMR_CHUNK
                yield chunk
            done = len(vectors) if done >= len(vectors) else n_wanted
        while done < min(len(ranked[0]), n_wanted):
            yield np.arange(done, min(done + size, len(ranked[0])))
            done, size = done + size, min(2 * size, _LARGEST_CHUNK)


def have_room(caps: Sequence[Cap], listed: Sequence[int], rows: NDArray[np.int64]) -> Mask:
    """Return which of rows could join a list of rows under caps, each of them alone."""
    room: Mask = np.logical_and.reduce([_Tally(cap, listed).has_room(rows) for cap in caps])
    return room


class _Tally:
    """How many items of each value a list has."""

    def __init__(self, cap: Cap, rows: Sequence[int]) -> None:
        """rows: in the list whatever their values."""
        self._cap = cap
        self._counts: dict[int, int] = {}
        self._is_full = np.zeros(cap.n_values, dtype=np.bool_)
        for row in rows:
            self.count(row)

    def has_room(self, rows: NDArray[np.int64]) -> Mask:
        """Return which rows could be taken now."""
        starts, ends = self._cap.starts[rows], self._cap.starts[rows + 1]
        lengths = ends - starts
        owners = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        codes = self._cap.codes[np.repeat(starts, lengths) + within]
        room = np.ones(len(rows), dtype=np.bool_)
        room[owners[self._is_full[codes]]] = False
        return room

    def takes(self, row: int) -> bool:
        """Whether a row can be taken."""
        return not any(self._counts.get(code, 0) >= self._cap.n for code in self._codes(row))

    def count(self, row: int) -> None:
        """Count a row that is in the list."""
        for code in self._codes(row):
            self._counts[code] = n = self._counts.get(code, 0) + 1
            if n >= self._cap.n:
                self._is_full[code] = True

    def _codes(self, row: int) -> list[int]:
        codes: list[int] = self._cap.codes[self._cap.starts[row] : self._cap.starts[row + 1]].tolist()
        return codes
