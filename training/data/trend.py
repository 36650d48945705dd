"""What a live service would know of the trend at any time: decayed counts of events, and how long a user was away.

The count of an item at a time is the sum of 2^-(age / half-life) over its events strictly before that time, whatever
part they belong to: a service that runs has seen them all. A user counts once an item and window: of the events of one
user and item within the same floor(time / half-life) only the first counts. Serving follows the same two rules.

LiveCounts is exact: for requests, and for the positions of a training where items are many. Trend holds snapshots,
which are enough for positions where items are few.

Letters: S snapshots, N items, U requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.event import Int64
from training.data.prepared import Prepared

Float32 = NDArray[np.float32]
MOST_VALUES = 1 << 26  # of all snapshots together: 256 MB
NOTHING = 1e-30  # a smaller count is 0: arithmetic on numbers near the smallest float32 is slow
AT_ONCE = 256  # requests whose counts are made together
MOST_SNAPSHOTS = 2000  # of a Trend by itself
LIVE_SNAPSHOTS = 256  # of LiveCounts at most, which adds the events since then one by one


@dataclass(frozen=True, eq=False)
class Counted:
    """The events that count towards the trend, oldest first."""

    time_ms: Int64  # [n]
    item: NDArray[np.int32]  # [n], row
    n_items: int


@dataclass(frozen=True, eq=False)
class Trend:
    """Snapshots of the decayed counts. Row s holds the events up to at_ms[s] inclusive, decayed to that instant."""

    half_life_s: float
    at_ms: Int64  # [S], ascending; the first lies before all events
    counts: Float32  # [S, N]

    def place(self, ms: Int64) -> Int64:
        """Return the newest snapshot strictly before each time [n]; the first, which is empty, where there is none."""
        return np.maximum(np.searchsorted(self.at_ms, ms, side="left") - 1, 0)

    def before(self, ms: Int64) -> Float32:
        """Return the counts of the newest snapshot strictly before each time, decayed to it: ms [n] -> [n, N]."""
        place = self.place(ms)
        counts: Float32 = self.counts[place]  # a copy
        counts *= decay(ms - self.at_ms[place], self.half_life_s).astype(np.float32)[:, None]
        return counts


@dataclass(frozen=True)
class LiveCounts:
    """The exact counts at any time: those of the newest snapshot before it, and the events since."""

    trend: Trend
    events: Counted

    def before(self, ms: Int64) -> Float32:
        """Return the counts of all events strictly before each time: ms [n] -> float32 [n, N]."""
        counts = self.trend.before(ms)
        start = np.searchsorted(self.events.time_ms, self.trend.at_ms[self.trend.place(ms)], side="right")
        stop = np.searchsorted(self.events.time_ms, ms, side="left")
        row, event = ranges(start, stop)
        weight = decay(ms[row] - self.events.time_ms[event], self.trend.half_life_s)
        np.add.at(counts.reshape(-1), row * counts.shape[1] + self.events.item[event], weight.astype(np.float32))
        return counts


def snapshots(prepared: Prepared, half_life_s: float, most: int = MOST_SNAPSHOTS) -> Trend | None:
    """Return at most `most` snapshots of the decayed counts, with about as many events between each two.

    None where they would hold more than MOST_VALUES.
    """
    events = counted_events(prepared, half_life_s)
    at_ms = _choose_instants(events, most)
    if len(at_ms) * events.n_items > MOST_VALUES:
        return None
    return _take_snapshots(events, half_life_s, at_ms)


def live_counts(prepared: Prepared, half_life_s: float) -> LiveCounts:
    """Return the exact decayed counts of prepared data at any time. With many items there are few snapshots."""
    events = counted_events(prepared, half_life_s)
    at_ms = _choose_instants(events, min(LIVE_SNAPSHOTS, MOST_VALUES // max(1, events.n_items)))
    return LiveCounts(_take_snapshots(events, half_life_s, at_ms), events)


def counts_before(prepared: Prepared, asked_ms: Int64, half_life_s: float) -> Iterator[Float32]:
    """Yield the exact counts strictly before each time [U] as chunks [at most AT_ONCE, N], in their order."""
    counts = live_counts(prepared, half_life_s)
    for start in range(0, len(asked_ms), AT_ONCE):
        yield counts.before(asked_ms[start : start + AT_ONCE])


def gaps_before(prepared: Prepared, users: NDArray[np.integer], asked_ms: Int64) -> NDArray[np.float64]:
    """Return log1p of the seconds from each user's last event strictly before each time to that time: float64 [U].

    users: user numbers [U]. It is NaN where the user has no such event.
    """
    instants = np.unique(prepared.timestamp_ms)
    width = len(instants) + 1
    key = prepared.user.astype(np.int64) * width + np.searchsorted(instants, prepared.timestamp_ms)
    wanted = np.asarray(users, dtype=np.int64) * width + np.searchsorted(instants, asked_ms, side="left")
    last = np.searchsorted(key, wanted, side="left") - 1
    is_own = (last >= 0) & (prepared.user[last] == users)
    since_ms = np.where(is_own, asked_ms - prepared.timestamp_ms[last], 0)
    return np.where(is_own, np.log1p(since_ms / 1000), np.nan)


def counted_events(prepared: Prepared, half_life_s: float) -> Counted:
    """Return the events of all parts that count for a half-life: the first of each user, item and window."""
    order = np.argsort(prepared.timestamp_ms, kind="stable")
    time_ms, item = prepared.timestamp_ms[order], prepared.item[order]
    window = np.floor(time_ms / (1000 * half_life_s)).astype(np.int64)
    pair = prepared.user[order].astype(np.int64) * len(prepared.items) + item
    _, pair = np.unique(pair, return_inverse=True)
    _, window = np.unique(window, return_inverse=True)
    _, first = np.unique(pair * (window.max(initial=0) + 1) + window, return_index=True)
    first.sort()
    return Counted(time_ms[first], item[first], len(prepared.items))


def decay(age_ms: NDArray[np.integer], half_life_s: float) -> NDArray[np.float64]:
    """Return 2^-(age / half-life) of each age in milliseconds."""
    return np.exp2(-age_ms / (1000 * half_life_s))


def ranges(start: Int64, stop: Int64) -> tuple[Int64, Int64]:
    """Return (place, number): all numbers of the ranges start [n] to stop [n], and the place of the range of each."""
    length = np.maximum(stop - start, 0)
    place = np.repeat(np.arange(len(length)), length)
    return place, np.arange(len(place)) - np.repeat(np.cumsum(length) - length, length) + start[place]


def _choose_instants(events: Counted, most: int) -> Int64:
    """Return the times of at most `most` snapshots, two at least: one before all events, and that of the last."""
    instants = np.unique(events.time_ms)
    wanted = np.linspace(0, len(events.time_ms) - 1, min(max(most - 1, 1), len(instants))).round().astype(np.int64)
    return np.concatenate([instants[:1] - 1, np.unique(events.time_ms[wanted])])


def _take_snapshots(events: Counted, half_life_s: float, at_ms: Int64) -> Trend:
    """Return snapshots at times, ascending, the first of them before all events."""
    stop = np.searchsorted(events.time_ms, at_ms, side="right")
    running = np.zeros(events.n_items)
    counts = np.zeros((len(at_ms), events.n_items), dtype=np.float32)
    for number in range(len(at_ms)):
        since = slice(stop[number - 1] if number else 0, stop[number])
        running *= decay(at_ms[number] - at_ms[max(number - 1, 0)], half_life_s)
        running[running < NOTHING] = 0
        np.add.at(running, events.item[since], decay(at_ms[number] - events.time_ms[since], half_life_s))
        counts[number] = running
    return Trend(half_life_s, at_ms, counts)
