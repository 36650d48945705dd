"""The last hour of the service, in samples of ten seconds: what the page shows where no Prometheus is.

A sample is made of what all workers have counted since the one before it, so that each worker keeps the same hour, but
for the time before it started.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from prometheus_client import Metric

from service.metrics import Metrics

EVERY_S = 10.0
N_SAMPLES = 360
LEVELS = ("full", "degraded", "fallback")
_BREAKER = ("up", "probing", "down")

Series = tuple[str, tuple[tuple[str, str], ...]]
"""The name and the labels of what is counted."""


class Hour:
    """The samples of the last hour, the oldest first."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._samples: deque[dict[str, Any]] = deque(maxlen=N_SAMPLES)

    async def follow(self) -> None:
        """Take a sample every ten seconds, until this is cancelled."""
        before, began = await asyncio.to_thread(self._read), time.time()
        while True:
            await asyncio.sleep(EVERY_S)
            after, ended = await asyncio.to_thread(self._read), time.time()
            self._samples.append(sample_of(before, after, began, ended))
            before, began = after, ended

    def describe(self) -> dict[str, Any]:
        """Return what GET /metrics/hour answers."""
        return {"every_s": EVERY_S, "samples": list(self._samples)}

    def _read(self) -> dict[Series, float]:
        return dict(_series_of(self._metrics.collect()))


def sample_of(before: dict[Series, float], after: dict[Series, float], began: float, ended: float) -> dict[str, Any]:
    """Return what happened between two readings of the metrics, at Unix times.

    A counter that is less than before has begun anew: all of it is new.
    """

    def grown(name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        found = {}
        for (own, pairs), value in after.items():
            if own == name and labels.items() <= dict(pairs).items():
                known = before.get((own, pairs), 0.0)
                found[pairs] = value - known if value >= known else value
        return found

    def count(name: str, **labels: str) -> int:
        return round(sum(grown(name, **labels).values()))

    def gauge(name: str) -> float:
        return after.get((f"retort_{name}", ()), 0.0)

    answers = grown("retort_recommendations_total")
    reasons: Counter[str] = Counter()
    for pairs, n in answers.items():
        if (reason := dict(pairs)["reason"]) != "none" and n:
            reasons[reason] += round(n)
    took = _buckets(grown("retort_http_request_duration_seconds_bucket", route="/recommend", code="2xx"))
    n_answers, n_within = sum(answers.values()), count("retort_within_budget_total", within="yes")
    return {
        "at": ended,
        "rate": n_answers / max(ended - began, 1e-9),
        "p50_ms": quantile_ms(took, 0.5),
        "p99_ms": quantile_ms(took, 0.99),
        "within_budget": n_within / n_answers if n_answers else None,
        "levels": {level: count("retort_recommendations_total", level=level) for level in LEVELS},
        "reasons": dict(reasons),
        "refused": count("retort_shed_total"),
        "events": count("retort_events_total", result="accepted"),
        "store": _BREAKER[round(gauge("store_breaker_state"))],
        "store_errors": count("retort_store_errors_total"),
        "in_flight": round(gauge("http_requests_in_flight")),
        "memory_bytes": round(gauge("resident_memory_bytes")),
    }


def quantile_ms(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Return a quantile of a histogram in milliseconds, as Prometheus' histogram_quantile does; None if it is empty.

    buckets: the upper bounds in seconds, ascending, the last infinite, each with how many lie at or below it.
    """
    if not buckets or not (total := buckets[-1][1]):
        return None
    wanted = share * total
    for (low, n_low), (high, n_high) in pairwise([(0.0, 0.0), *buckets]):
        if n_high >= wanted and n_high > n_low:
            within = 0.0 if high == float("inf") else (high - low) * (wanted - n_low) / (n_high - n_low)
            return round(1000 * (low + within), 3)
    return None


def _buckets(found: dict[tuple[tuple[str, str], ...], float]) -> list[tuple[float, float]]:
    return sorted((float(dict(pairs)["le"]), n) for pairs, n in found.items())


def _series_of(families: Iterator[Metric]) -> Iterator[tuple[Series, float]]:
    for family in families:
        for sample in family.samples:
            yield (sample.name, tuple(sorted(sample.labels.items()))), sample.value
