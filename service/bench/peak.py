"""Finds the highest rate of requests at which 99 of 100 keep a latency budget.

Rates are doubled until one fails, then the gap between the last good and the first bad rate is halved until it is
narrow. A refused or failed request counts as one that missed the budget.
"""

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from service.bench.load import LoadResult

_KEPT = 0.99
"""The share of requests that must keep the budget."""
LEAST_REQUESTS = 200
"""So many are sent at least at each rate, so that 1 in 100 means something."""
_NARROW = 1.06
_MAX_STEPS = 24


@dataclass(frozen=True, slots=True)
class PeakOptions:
    """How the peak is looked for.

    budget_ms: what 99 of 100 requests must keep. seconds: how long each rate is offered. max_rate: no more requests a
    second are offered. n_connections: how many may be open. k: items asked for. users: a file of user ids to ask for;
    without it, histories are drawn from the popular items of the service. plot: the PNG to draw. pause_s: how long to
    wait after a rate that missed the budget.
    """

    budget_ms: int
    seconds: float
    max_rate: float
    n_connections: int
    k: int
    users: Path | None = None
    plot: Path | None = None
    pause_s: float = 1.0


class LoadSource(Protocol):
    """Whatever can send requests at a rate: a Load."""

    async def run(self, rate: float, seconds: float) -> LoadResult:
        """Send `rate` requests a second for some seconds; return what was measured."""


@dataclass(slots=True)
class Peak:
    """What was found.

    steps: the result of each rate, in the order in which they were offered. best: that of the highest rate that kept
    the budget, None if none did. limit: what kept it from being higher: "service", "generator" or "max_rate".
    """

    steps: list[LoadResult] = field(default_factory=list)
    best: LoadResult | None = None
    limit: str = "max_rate"


async def find_peak(load: LoadSource, options: PeakOptions, first_rate: float) -> Peak:
    """Double the rate until the budget is missed, then halve the gap. first_rate: requests a second."""
    peak, budget_s = Peak(), options.budget_ms / 1000
    good, bad, rate = 0.0, 0.0, min(first_rate, options.max_rate)
    while len(peak.steps) < _MAX_STEPS:
        step = await load.run(rate, max(options.seconds, LEAST_REQUESTS / rate))
        peak.steps.append(step)
        _show_progress(step, budget_s)
        if step.within(budget_s) >= _KEPT:
            good, peak.best = rate, step
            if rate >= options.max_rate:
                break
        else:
            bad = rate
            peak.limit = "generator" if step.lag_p99_s() > budget_s / 10 else "service"
            await asyncio.sleep(options.pause_s)  # until what was refused or late is over
        if bad and (bad <= good * _NARROW or bad < 2):
            break
        rate = min(rate * 2, options.max_rate) if not bad else (good * bad) ** 0.5 if good else bad / 2
    return peak


def _show_progress(step: LoadResult, budget_s: float) -> None:
    if sys.stderr.isatty():
        kept = "kept" if step.within(budget_s) >= _KEPT else "missed"
        print(f"  {step.rate:8.0f}/s  {step.within(budget_s):7.2%} within the budget: {kept}", file=sys.stderr)
