"""The highest rate that keeps the budget is found, and what limits it is named."""

import math

import pytest

from service.bench.load import LoadResult
from service.bench.peak import PeakOptions, find_peak

OPTIONS = PeakOptions(budget_ms=20, seconds=1, max_rate=100_000, n_connections=1000, k=10, plot=None, pause_s=0)


class Capacity:
    """A load whose service answers at once up to so many requests a second, and beyond never."""

    def __init__(self, per_s: float, lag_s: float = 0.0) -> None:
        self._per_s, self._lag_s = per_s, lag_s

    async def run(self, rate: float, seconds: float) -> LoadResult:
        latency = 0.001 if rate <= self._per_s else math.inf
        return LoadResult(rate, seconds, [latency] * 100, [self._lag_s] * 100)


@pytest.mark.parametrize("capacity", [3, 400, 6543])
async def test_peak_is_found(capacity: int) -> None:
    peak = await find_peak(Capacity(capacity), OPTIONS, first_rate=50)

    assert peak.best is not None
    assert capacity / 1.07 < peak.best.rate <= capacity
    assert peak.limit == "service"


async def test_generator_is_named_where_it_is_the_limit() -> None:
    peak = await find_peak(Capacity(400, lag_s=0.05), OPTIONS, first_rate=50)

    assert peak.limit == "generator"


async def test_no_rate_may_keep_the_budget() -> None:
    peak = await find_peak(Capacity(0), OPTIONS, first_rate=50)

    assert peak.best is None
