"""The sequential test, against plain formulas and by simulation."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.experiment.sequential import (
    SPREAD,
    Counts,
    e_value,
    is_excluded,
    lift_interval,
    log_e_value,
    observed_lift,
    users_needed,
)

SHARES = st.sampled_from([0.01, 0.05, 0.2, 0.5, 0.9])
NUMBERS = st.integers(0, 300)


def slow_e_value(sequence, share):
    """The product of predictive probabilities over those of the null, one user at a time."""
    weight = 1 / (SPREAD**2 * share * (1 - share))
    other, live, product = weight * share, weight * (1 - share), 1.0
    for is_other in sequence:
        predicted = (other if is_other else live) / (other + live)
        product *= predicted / (share if is_other else 1 - share)
        other, live = other + is_other, live + (not is_other)
    return product


@given(st.lists(st.booleans(), max_size=200), SHARES)
def test_e_value_is_the_product_of_what_each_user_adds(sequence, share):
    counts = Counts(sum(sequence), len(sequence) - sum(sequence))

    assert e_value(counts, share) == pytest.approx(slow_e_value(sequence, share), rel=1e-6)


@given(NUMBERS, NUMBERS, SHARES)
def test_e_value_is_expected_to_stay_where_it_is_under_equality(other, live, share):
    now = e_value(Counts(other, live), share)

    then = share * e_value(Counts(other + 1, live), share) + (1 - share) * e_value(Counts(other, live + 1), share)

    assert then == pytest.approx(now, rel=1e-6)


@given(NUMBERS, NUMBERS, SHARES, st.sampled_from([0.01, 0.05, 0.2]))
def test_interval_excludes_no_lift_exactly_where_the_test_does(other, live, share, alpha):
    counts = Counts(other, live)
    found = lift_interval(counts, share, alpha)

    assert -1 <= found.low <= found.high
    if abs(log_e_value(counts, share) + math.log(alpha)) > 1e-6:
        assert is_excluded(counts, share, alpha) == (not found.low <= 0 <= found.high)


@given(NUMBERS, NUMBERS, SHARES)
def test_interval_is_wider_where_more_certainty_is_asked_for(other, live, share):
    wide, narrow = (lift_interval(Counts(other, live), share, alpha) for alpha in (0.01, 0.2))

    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


def test_interval_is_everything_where_nothing_was_counted():
    assert lift_interval(Counts(0, 0), 0.5, 0.05) == lift_interval(Counts(0, 0), 0.1, 0.05)
    assert lift_interval(Counts(0, 0), 0.5, 0.05).low == -1
    assert lift_interval(Counts(0, 0), 0.5, 0.05).high == math.inf
    assert e_value(Counts(0, 0), 0.5) == pytest.approx(1)


def test_e_value_of_a_large_difference_is_infinite_and_no_error():
    assert e_value(Counts(1_000_000, 100), 0.05) == math.inf


@given(NUMBERS, NUMBERS, SHARES)
def test_observed_lift_is_of_those_who_converted_for_each_user_assigned(other, live, share):
    found = observed_lift(Counts(other, live), share)

    assert found == (pytest.approx((other / share) / (live / (1 - share)) - 1, abs=1e-9) if live else None)
    if live:
        interval = lift_interval(Counts(other, live), share, 0.05)
        assert interval.low <= found <= interval.high


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.1])
def test_share_that_divides_nobody_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        log_e_value(Counts(1, 1), share)


@pytest.mark.parametrize(("rate", "lift"), [(0, 0.05), (1, 0.05), (0.1, 0), (0.1, -1)])
def test_users_needed_refuses_what_nobody_can_find(rate, lift):
    with pytest.raises(ValueError, match="rate"):
        users_needed(rate, lift, 0.5, 0.05)


def test_users_needed_falls_with_rate_lift_and_alpha():
    assert users_needed(0.1, 0.05, 0.5, 0.05) > users_needed(0.2, 0.05, 0.5, 0.05)
    assert users_needed(0.1, 0.05, 0.5, 0.05) > users_needed(0.1, 0.1, 0.5, 0.05)
    assert users_needed(0.1, 0.05, 0.5, 0.01) > users_needed(0.1, 0.05, 0.5, 0.05)
    assert users_needed(0.1, 0.05, 0.05, 0.05) > users_needed(0.1, 0.05, 0.5, 0.05)


def found_after(chance, share, alpha, part_of_other, n_looks, n_a_look):
    """Look so often at those who converted; return the look at which the test was decided, or None."""
    other = live = 0
    for look in range(1, n_looks + 1):
        more = sum(chance.random() < part_of_other for _ in range(n_a_look))
        other, live = other + more, live + n_a_look - more
        if is_excluded(Counts(other, live), share, alpha):
            return look
    return None


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_false_alarms_are_no_more_than_stated_with_a_look_a_day(share):
    chance, n_tests = random.Random(7), 400

    alarms = sum(found_after(chance, share, 0.1, share, 30, 60) is not None for _ in range(n_tests))

    assert alarms <= 0.1 * n_tests


def test_true_lift_is_found_within_the_users_that_are_stated():
    chance, share, lift, rate, n_tests = random.Random(7), 0.5, 0.3, 0.1, 100
    mean_rate = share * rate * (1 + lift) + (1 - share) * rate
    n_converted = users_needed(rate, lift, share, 0.05) * mean_rate

    found = sum(
        found_after(chance, share, 0.05, share * rate * (1 + lift) / mean_rate, 20, round(n_converted / 20)) is not None
        for _ in range(n_tests)
    )

    assert 0.7 * n_tests <= found <= 0.97 * n_tests
