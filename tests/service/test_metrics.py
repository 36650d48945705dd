"""What adds up in plain numbers on the request path, against Prometheus' own counters and histograms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from service.metrics import Metrics, Spread, Tally

BOUNDS = (0.001, 0.0025, 1.0)
AMOUNTS = st.lists(st.one_of(st.sampled_from([0.0, *BOUNDS, 7.0]), st.floats(0, 10)))


@given(AMOUNTS, AMOUNTS)
def test_a_spread_is_a_histogram_once_it_is_flushed(first: list[float], second: list[float]) -> None:
    registry, plain = CollectorRegistry(), CollectorRegistry()
    spread = Spread(Histogram("a", "", buckets=BOUNDS, registry=registry), BOUNDS)
    expected = Histogram("a", "", buckets=BOUNDS, registry=plain)

    for amounts in (first, second):
        for amount in amounts:
            spread.observe(amount)
            expected.observe(amount)
        spread.flush()

        for bound in ("0.001", "0.0025", "1.0", "+Inf"):
            label = {"le": bound}
            assert registry.get_sample_value("a_bucket", label) == plain.get_sample_value("a_bucket", label)
        assert registry.get_sample_value("a_count") == plain.get_sample_value("a_count")
        assert registry.get_sample_value("a_sum") == pytest.approx(plain.get_sample_value("a_sum"))


@given(st.lists(st.integers(0, 5)))
def test_a_tally_is_a_counter_once_it_is_flushed(amounts: list[int]) -> None:
    registry = CollectorRegistry()
    tally = Tally(Counter("a", "", registry=registry))

    for amount in amounts:
        tally.inc(amount)
    tally.flush()
    tally.flush()

    assert registry.get_sample_value("a_total") == sum(amounts)


def test_a_page_shows_what_was_counted_just_now() -> None:
    metrics = Metrics("0")

    metrics.count_http("/recommend", "POST", 200, 0.002)
    metrics.count_http("/admin.php", "BREW", 404, 0.1)
    metrics.count_http("/wp-login", "BREW", 404, None)
    metrics.count_answer("full", "none", is_within=True)

    page = metrics.render().decode()
    assert 'retort_http_requests_total{code="200",method="POST",route="/recommend"} 1.0' in page
    assert 'retort_http_requests_total{code="404",method="OTHER",route="unmatched"} 2.0' in page
    assert 'retort_http_request_duration_seconds_count{code="4xx",route="unmatched"} 1.0' in page
    assert 'retort_recommendations_total{level="full",reason="none"} 1.0' in page
