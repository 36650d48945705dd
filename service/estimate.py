"""How long a stage takes at worst, nearly: a running p99 that forgets.

A step up is 99 times a step down, so it comes to rest where one observation in a hundred lies above. It halves with
every HALF_LIFE_S without an observation, so that one long pause of the machine does not condemn the requests after it
to answers without the model, which would observe nothing and so change nothing.
"""

import time
from collections.abc import Callable

HALF_LIFE_S = 0.5
_DOWN = 0.0003
_UP = 99 * _DOWN


class Estimate:
    """The p99 of one duration, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._p99 = 0.0
        self._noted_at = clock()

    def p99(self) -> float:
        """Return the estimate now; 0 before any observation."""
        now: float = self._p99 * 0.5 ** ((self._clock() - self._noted_at) / HALF_LIFE_S)
        return now

    def note(self, seconds: float) -> None:
        """Take one observation into account."""
        known = self.p99()
        self._noted_at = self._clock()
        if not self._p99:
            self._p99 = seconds
        elif seconds > known:
            self._p99 = min(seconds, known * (1 + _UP))
        else:
            self._p99 = max(seconds, known * (1 - _DOWN))
