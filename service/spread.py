"""Counters and histograms of the request path: they add up in plain numbers, and hand on what has come together.

tests/bench/README.md, "Metrics add up in plain numbers".
"""

import math
from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import Counter, Histogram


class Tally:
    """A counter of the request path: it adds up in a plain number. For one thread."""

    def __init__(self, counter: Counter) -> None:
        self._counter, self._n, self._n_before = counter, 0.0, 0.0

    @property
    def total(self) -> float:
        """What was counted since the process began."""
        return self._n_before + self._n

    def inc(self, amount: float = 1) -> None:
        """Count."""
        self._n += amount

    def flush(self) -> None:
        """Hand on what has been counted since the last time."""
        if self._n:
            self._counter.inc(self._n)
            self._n_before, self._n = self._n_before + self._n, 0.0


class Spread:
    """A histogram of the request path: it adds up in plain numbers. For one thread."""

    def __init__(self, histogram: Histogram, bounds: Sequence[float]) -> None:
        """bounds: the upper ones of its buckets, as it was declared."""
        self._histogram, self._bounds = histogram, [*bounds, math.inf]
        self._ns, self._sum = [0] * len(self._bounds), 0.0

    def observe(self, amount: float) -> None:
        """Take one observation into account."""
        self._ns[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def flush(self) -> None:
        """Hand on what has been observed since the last time."""
        if not any(self._ns):
            return
        for bucket, n in zip(self._histogram._buckets, self._ns, strict=True):  # observe() would take one at a time
            if n:
                bucket.inc(n)
        self._histogram._sum.inc(self._sum)
        self._ns, self._sum = [0] * len(self._bounds), 0.0
