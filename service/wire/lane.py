"""The slow lane: unusual requests are worked on a little in each turn of the event loop.

What comes in pieces, or needs a parser of all of HTTP, may cost milliseconds a piece. Where many connections have such
work, all of it in one turn would hold up every usual request. So each turn has a bounded time for it, and connections
take theirs one after the other. The loop never waits: with nothing else to do, the next turn follows at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

TURN_S = 0.001
"""Of each turn of the loop: how long it works in the slow lane, beside the piece that it has begun."""
_PER_REQUEST_S, _PER_BYTE_S = 0.0003, 3e-9  # what answering costs later in the same turn


class Lane:
    """The slow lane of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._spent_s = 0.0
        self._is_due = False

    def run(self, work: Callable[[], None]) -> None:
        """Do a piece of work now, if nothing waits and there is time in this turn; else later, in its order."""
        if self._waiting or self._spent_s >= TURN_S:
            self._waiting.append(work)
        else:
            self._do(work)
        self._make_due()

    def run_later(self, work: Callable[[], None]) -> None:
        """Do a piece of work in another turn, after what waits already."""
        self._waiting.append(work)
        self._make_due()

    def charge(self, n_bytes: int) -> None:
        """Count a request that was handed over to be answered, with a body of so many bytes."""
        self._spent_s += _PER_REQUEST_S + n_bytes * _PER_BYTE_S

    def _do(self, work: Callable[[], None]) -> None:
        start = time.perf_counter()
        work()
        self._spent_s += time.perf_counter() - start

    def _make_due(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        self._spent_s = max(0.0, self._spent_s - TURN_S)  # a piece that takes longer takes other turns too
        while self._waiting and self._spent_s < TURN_S:
            self._do(self._waiting.popleft())
        if self._waiting or self._spent_s:
            self._make_due()
