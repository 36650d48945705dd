"""The last hour: what was counted between two readings, over all workers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.health.hour import quantile_ms, sample_of
from service.metrics import REQUEST_BUCKETS_S
from tests.service.running import Running, wait_for


@given(st.lists(st.floats(0, 3), max_size=200), st.floats(0.01, 0.999))
def test_quantile_lies_in_the_bucket_of_the_true_one(seconds: list[float], share: float) -> None:
    bounds = [*REQUEST_BUCKETS_S, float("inf")]
    buckets = [(bound, float(sum(each <= bound for each in seconds))) for bound in bounds]

    found = quantile_ms(buckets, share)

    if not seconds:
        assert found is None
        return
    true = float(np.quantile(seconds, share, method="inverted_cdf"))
    low, high = max([0.0, *(each for each in bounds if each < true)]), next(each for each in bounds if each >= true)
    assert found is not None
    assert 1000 * low - 1e-3 <= found <= 1000 * (low if high == float("inf") else high) + 1e-3


def test_sample_is_what_was_counted_between_two_readings() -> None:
    def reading(full: float, cold: float, within: float) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        name = "retort_recommendations_total"
        return {
            (name, (("level", "full"), ("reason", "none"))): full,
            (name, (("level", "fallback"), ("reason", "cold_user"))): cold,
            ("retort_within_budget_total", (("within", "yes"),)): within,
            ("retort_store_breaker_state", ()): 2.0,
        }

    sample = sample_of(reading(10, 1, 11), reading(25, 6, 29), 100.0, 110.0)

    assert sample["rate"] == 2.0
    assert sample["levels"] == {"full": 15, "degraded": 0, "fallback": 5}
    assert sample["reasons"] == {"cold_user": 5}
    assert sample["within_budget"] == pytest.approx(0.9)
    assert (sample["store"], sample["p50_ms"], sample["at"]) == ("down", None, 110.0)


def test_a_counter_that_began_anew_counts_from_nothing() -> None:
    key = ("retort_shed_total", (("reason", "rate"),))

    assert sample_of({key: 50.0}, {key: 3.0}, 0.0, 10.0)["refused"] == 3


def test_any_worker_shows_the_hour_of_all(toy_bundle: Path, tmp_path: Path) -> None:
    n = 40
    with Running(toy_bundle, tmp_path, "--workers", "2") as service:

        def seen() -> int:
            samples = service.client.get("/metrics/hour", headers={"Connection": "close"}).json()["samples"]
            return sum(sum(sample["levels"].values()) for sample in samples)

        for number in range(n):
            service.client.post("/recommend", json={"history": ["i1"]}, headers={"Connection": "close"})
            assert number < n
        counts = {wait_for(seen, timeout_s=30) for _ in range(8)}

    assert counts <= {n}
