"""Who is let in: a limit on answers in flight that adapts, a share of its own for everything else, a rate per caller.

The limit is steered by the gradient between what answers take and what they may take, not what an idle service takes:
an answer inside the budget is a good one, however many are asked for at once. Probes and /metrics never ask here.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

LEAST = 48
"""A full batch that runs and half of one that waits: fewer in flight would not be answered sooner, a pause of the
process (a swap, the machine) would only be answered with refusals."""
_WINDOW_S = 0.1
_WINDOW_ANSWERS = 20
_MAX_CALLERS = 10_000


class Limit:
    """How many may be in flight: at most most, fewer while answers take longer than target_s."""

    def __init__(self, *, target_s: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._target_s, self._most, self._clock = target_s, most, clock
        self._least = min(LEAST, most)
        self._limit = float(most)
        self._sum_s, self._n, self._n_most = 0.0, 0, 0
        self._since = clock()
        self.n_in_flight = 0

    @property
    def value(self) -> int:
        """The limit now."""
        return int(self._limit)

    @property
    def is_reached(self) -> bool:
        """Whether one more would be too many."""
        return self.n_in_flight >= self.value

    def enter(self) -> None:
        """Count one in."""
        self.n_in_flight += 1
        self._n_most = max(self._n_most, self.n_in_flight)

    def leave(self, seconds: float) -> None:
        """Count one out, which took so long; at the end of a window move the limit."""
        self.n_in_flight -= 1
        self._sum_s += seconds
        self._n += 1
        now = self._clock()
        if self._n >= _WINDOW_ANSWERS and now - self._since >= _WINDOW_S:
            self._move(self._sum_s / self._n)
            self._sum_s, self._n, self._n_most, self._since = 0.0, 0, self.n_in_flight, now

    def _move(self, mean_s: float) -> None:
        gradient = min(1.0, max(0.5, self._target_s / mean_s)) if mean_s > 0 else 1.0
        if gradient == 1.0 and self._n_most < self._limit / 2:
            return  # not tried, so nothing was learnt about a higher one
        wanted = self._limit * gradient + math.sqrt(self._limit)
        if wanted > self._limit:
            wanted = 0.5 * self._limit + 0.5 * wanted
        self._limit = min(float(self._most), max(float(self._least), wanted))


class Admission:
    """The limits of the three kinds of requests: answers, events and all others. Probes and /metrics have none.

    Events have a limit of their own, so that a flood of them keeps nobody else out.
    """

    def __init__(self, answers: Limit, events: Limit, others: Limit) -> None:
        self.answers = answers
        self._by_path = {"/recommend": (answers, "concurrency"), "/events": (events, "events")}
        self._others = (others, "other_routes")
        self._limits = (answers, events, others)

    @property
    def is_full(self) -> bool:
        """Whether some request would be refused."""
        return any(limit.is_reached for limit in self._limits)

    def find(self, path: str) -> tuple[Limit, str]:
        """Return the limit of a path, and the label of shed_total for what it refuses."""
        return self._by_path.get(path, self._others)


class Rates:
    """A bucket of one second's requests for each caller; the caller heard of longest ago is forgotten."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """per_s: 0 is no limit."""
        self._per_s, self._clock = per_s, clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    @property
    def is_on(self) -> bool:
        """Whether there is a limit at all."""
        return self._per_s > 0

    def is_over(self, caller: bytes) -> bool:
        """Whether this request is one too many of its caller's; counts it if not."""
        now = self._clock()
        most = max(1.0, self._per_s)
        left, at = self._buckets.pop(caller, (most, now))
        left = min(most, left + (now - at) * self._per_s)
        is_over = left < 1
        self._buckets[caller] = (left if is_over else left - 1, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        return is_over
