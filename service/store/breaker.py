"""The circuit breaker in front of the store: after a run of failures the store is not asked at all.

A success makes up for a part of a failure: a store that fails every second call opens it too, one in a hundred never.

Callers never pay for finding out that the store is back: while it is open a background task sends the one probe (see
profile). Open times double up to MAX_OPEN_S, short enough that full answers are back well within five seconds.
"""

import time
from collections.abc import Callable
from enum import IntEnum

FAILURES_TO_OPEN = 5
SUCCESS = 0.5  # of a failure
FIRST_OPEN_S = 0.1
MAX_OPEN_S = 1.0
STEADY_S = 10.0


class State(IntEnum):
    """The numbers of the metric store_breaker_state."""

    CLOSED = 0
    PROBING = 1
    OPEN = 2


class Breaker:
    """Counts failures against successes. Not thread-safe: it lives on the event loop."""

    def __init__(
        self,
        on_change: Callable[[State], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
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
        """A call came back in time; after a probe this closes the breaker."""
        self._failures = max(0.0, self._failures - SUCCESS)
        if self.state is State.PROBING:
            self._move(State.CLOSED)
        elif self.is_closed and self._clock() - self._since > STEADY_S:
            self._open_s = FIRST_OPEN_S

    def record_failure(self) -> None:
        """A call failed or was too slow. Calls that began before it opened change nothing."""
        self._failures += 1
        if self.state is State.PROBING or (self.is_closed and self._failures >= FAILURES_TO_OPEN):
            self._move(State.OPEN)

    def close(self) -> None:
        """Close at once: the store is known to be there."""
        if not self.is_closed:
            self._move(State.CLOSED)

    def open(self) -> None:
        """Open at once: the store is known not to be there."""
        self._move(State.OPEN)

    def begin_probe(self) -> bool:
        """Whether the one probe is due now; the caller then sends it and records its end."""
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
