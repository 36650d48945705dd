"""Recent popularity, the bar: what everybody took just before a request, counted from all events strictly before it.

Two forms are tried, each with the settings of a grid, and validation chooses the one that stands as the bar: the events
within a window of days, and the decayed count, in which an event is worth 2^-(age / half-life) and a user counts once
an item and window (training/data/trend.py). Ji et al. (2020) showed how strong popularity is at the time of a request.

Letters: B requests, N items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.event import Int64
from training.data.prepared import Prepared
from training.data.trend import LIVE_SNAPSHOTS, MOST_VALUES, live_counts, ranges

WINDOW_DAYS = (1, 3, 7, 14, 30, 90)
HALF_LIFE_HOURS = (3, 6, 12, 24, 72, 168, 336, 720)
DAY_MS = 86_400_000

Float32 = NDArray[np.float32]

Counts = Callable[[Int64], Float32]
"""How often each item was taken lately: times in milliseconds [B] to counts [B, N], of events strictly before each."""


@dataclass(frozen=True, eq=False)
class RunningTotals:
    """All events, oldest first, and how many of each item there are in total before every so many of them."""

    time_ms: Int64  # [n_events]
    item: NDArray[np.int32]  # [n_events], row
    step: int  # events between two rows of totals
    totals: Float32  # [rows, N]

    @classmethod
    def of(cls, prepared: Prepared) -> "RunningTotals":
        """Count the events of all parts."""
        order = np.argsort(prepared.timestamp_ms, kind="stable")
        item, n_items = prepared.item[order], len(prepared.items)
        rows = max(1, min(LIVE_SNAPSHOTS, MOST_VALUES // n_items))
        step = -(-len(item) // rows)
        each = [np.bincount(item[start : start + step], minlength=n_items) for start in range(0, len(item), step)]
        totals = np.cumsum([np.zeros(n_items, dtype=np.int64), *each], axis=0).astype(np.float32)
        return cls(prepared.timestamp_ms[order], item, step, totals)

    def between(self, start_ms: Int64, stop_ms: Int64) -> Float32:
        """Return the number of events of each item from start up to, and not including, stop: [B], [B] -> [B, N]."""
        return self._before(stop_ms) - self._before(start_ms)

    def _before(self, ms: Int64) -> Float32:
        """Return the number of events of each item strictly before each time: [B] -> [B, N]."""
        stop = np.searchsorted(self.time_ms, ms, side="left")
        block = stop // self.step
        counts = self.totals[block]
        row, event = ranges(block * self.step, stop)
        np.add.at(counts, (row, self.item[event]), np.float32(1))
        return counts


def window_counts(prepared: Prepared, days: float) -> Counts:
    """Return what counts the events of the days before each time, the oldest instant of the window included.

    Items with equally many are ordered by their number of training events.
    """
    totals = RunningTotals.of(prepared)
    popularity = np.array([item.popularity for item in prepared.items], dtype=np.float32)
    tie = popularity / (popularity.max() + 1)
    return lambda ms: totals.between(ms - round(days * DAY_MS), ms) + tie


def decayed_counts(prepared: Prepared, half_life_hours: float) -> Counts:
    """Return what gives the decayed counts at each time."""
    return live_counts(prepared, 3600 * half_life_hours).before
