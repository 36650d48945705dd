"""Who is let in: a limit on answers in flight that adapts, limits for everything else, and a share for each caller.

The limit is steered by the gradient between what answers take and what they may take, not what an idle service takes:
an answer inside the budget is a good one, however many are asked for at once. Probes and /metrics never ask here.
"""

import math
import time
from collections.abc import Callable

LIST_PATHS = ("/recommend", "/recommend/batch", "/similar", "/page")
"""Where answers are given."""
LEAST = 48
"""A full batch that runs and half of one that waits: fewer in flight would not be answered sooner, a pause of the
process (a swap, the machine) would only be answered with refusals."""
_WINDOW_S = 0.1
_WINDOW_ANSWERS = 20
_LEFT_FREE = 8


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


class Shares:
    """A limit, and who holds how many places of it: where they are scarce, no caller holds more than its share.

    While half of the places are free, everybody may take one. Past that, callers who hold some may hold equally many
    each; one who is alone leaves an eighth to whoever comes next.
    """

    def __init__(self, limit: Limit, n_callers: int) -> None:
        """n_callers: how many can be told apart; with fewer than two nothing is shared out."""
        self.limit, self._is_shared = limit, n_callers > 1
        self._held: dict[bytes, int] = {}

    def enter(self, caller: bytes) -> bool:
        """Give a caller a place; False where there is none for it."""
        if self.limit.is_reached or (self._is_shared and self._is_over(caller)):
            return False
        self.limit.enter()
        if self._is_shared:
            self._held[caller] = self._held.get(caller, 0) + 1
        return True

    def enter_more(self, caller: bytes, n: int) -> int:
        """Give a caller up to n places more, as long as half of them are free; return how many.

        A request that was let in is worth several: it may not keep out those of others.
        """
        n_given = 0
        while n_given < n and 2 * self.limit.n_in_flight < self.limit.value and self.enter(caller):
            n_given += 1
        return n_given

    def leave(self, caller: bytes, seconds: float) -> None:
        """Take a place back, which was held for an answer that took so long."""
        self.limit.leave(seconds)
        if self._is_shared:
            left = self._held.pop(caller) - 1
            if left:
                self._held[caller] = left

    def _is_over(self, caller: bytes) -> bool:
        most = self.limit.value
        if 2 * self.limit.n_in_flight < most:
            return False
        n_callers = len(self._held) + (caller not in self._held)
        share = most - most // _LEFT_FREE if n_callers == 1 else most // n_callers
        return self._held.get(caller, 0) >= max(1, share)


class Admission:
    """The limits of the three kinds of requests: answers, events and all others. Probes and /metrics have none.

    Events have a limit of their own, so that a flood of them keeps nobody else out.
    """

    def __init__(self, answers: Shares, events: Shares, others: Shares) -> None:
        self.answers = answers
        self._by_path = {**dict.fromkeys(LIST_PATHS, (answers, "concurrency")), "/events": (events, "events")}
        self._others = (others, "other_routes")
        self._limits = (answers.limit, events.limit, others.limit)

    @property
    def is_full(self) -> bool:
        """Whether some request would be refused."""
        return any(limit.is_reached for limit in self._limits)

    def find(self, path: str) -> tuple[Shares, str]:
        """Return the places for a path, and the label of shed_total for what it refuses."""
        return self._by_path.get(path, self._others)
