"""How long a stage takes at worst, nearly: a running p99 that forgets.

A step up is 99 times a step down, so it comes to rest where one observation in a hundred lies above. It halves with
every HALF_LIFE_S without an observation, so that one long pause of the machine does not condemn the requests after it
to answers without the model, which would observe nothing and so change nothing. What was usual lately is forgotten more
slowly: of a model that always takes too long, an idle second must not make a quick one.
"""

import time
from collections import deque
from collections.abc import Callable
from statistics import median

HALF_LIFE_S = 0.5
USUAL_HALF_LIFE_S = 2.0
_N_USUAL = 5
_DOWN = 0.0003
_UP = 99 * _DOWN


class Estimate:
    """The p99 of one duration, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._p99 = self._usual = 0.0
        self._last: deque[float] = deque(maxlen=_N_USUAL)
        self._noted_at = clock()

    def p99(self) -> float:
        """Return the estimate now; 0 before any observation."""
        idle_s = self._clock() - self._noted_at
        worst: float = self._p99 * 0.5 ** (idle_s / HALF_LIFE_S)
        usual: float = self._usual * 0.5 ** (idle_s / USUAL_HALF_LIFE_S)
        return max(worst, usual)

    def note(self, seconds: float) -> None:
        """Take one observation into account."""
        known = self.p99()
        self._noted_at = self._clock()
        self._last.append(seconds)
        self._usual = median(self._last)
        if not self._p99:
            self._p99 = seconds
        elif seconds > known:
            self._p99 = min(seconds, known * (1 + _UP))
        else:
            self._p99 = max(seconds, known * (1 - _DOWN))
