"""The circuit breaker in front of the store: after several failures the store is not asked at all for a while.

Each success cancels half a failure. So the breaker also opens where every second call fails, and never where one in a
hundred does.

While the breaker is open no caller waits to find out whether the store is back: a background task of the client sends
one probe (see client). The time between probes doubles up to MAX_OPEN_S, which is short enough for full answers to be
back well within five seconds.
"""

import time
from collections.abc import Callable
from enum import IntEnum

FAILURES_TO_OPEN = 5
SUCCESS = 0.5  # of a failure, which it cancels
FIRST_OPEN_S = 0.1
MAX_OPEN_S = 1.0
STEADY_S = 10.0  # after so long without opening, the next open time is the first one again


class State(IntEnum):
    """The numbers of the metric store_breaker_state."""

    CLOSED = 0
    PROBING = 1
    OPEN = 2


class Breaker:
    """Counts failures against successes. Not thread-safe: it is used on the event loop alone."""

    def __init__(
        self,
        on_change: Callable[[State], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_change: is told every new state. clock: seconds that never run backwards."""
        self._on_change = on_change
        self._clock = clock
        self._failures = 0.0
        self._open_s = FIRST_OPEN_S
        self._since = clock()
        self.state = State.CLOSED

    @property
    def is_closed(self) -> bool:
        """Whether the store may be asked."""
        return self.state is State.CLOSED

    def record_success(self) -> None:
        """Note that a call was answered in time; if it was the probe, the breaker closes."""
        self._failures = max(0.0, self._failures - SUCCESS)
        if self.state is State.PROBING:
            self._move(State.CLOSED)
        elif self.is_closed and self._clock() - self._since > STEADY_S:
            self._open_s = FIRST_OPEN_S

    def record_failure(self, *, is_counted_as_success: bool = False) -> None:
        """Note that a call failed or was too slow. Calls that end while the breaker is open change nothing.

        is_counted_as_success: only what was read of the answer showed that it is of no use.
        """
        self._failures += 1 + SUCCESS * is_counted_as_success
        if self.state is State.PROBING or (self.is_closed and self._failures >= FAILURES_TO_OPEN):
            self._move(State.OPEN)

    def close(self) -> None:
        """Close at once, because the store is known to answer."""
        if not self.is_closed:
            self._move(State.CLOSED)

    def open(self) -> None:
        """Open at once, because the store is known not to answer."""
        self._move(State.OPEN)

    def begin_probe(self) -> bool:
        """Return whether the one probe is due now; if so, the caller must send it and record how it ended."""
        if self.state is not State.OPEN or self._clock() - self._since < self._open_s:
            return False
        self._open_s = min(MAX_OPEN_S, self._open_s * 2)
        self._move(State.PROBING)
        return True

    def _move(self, state: State) -> None:
        self.state = state
        self._since = self._clock()
        self._failures = 0.0
        self._on_change(state)
