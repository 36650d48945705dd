"""A request's budget: how its time is shared out, and what the stages are expected to take."""

import time

import pytest

from service.recommendation.budget import (
    QUEUE,
    RESERVE_S,
    USUAL_HALF_LIFE_S,
    BudgetRule,
    Estimate,
    RoundTrip,
    Stage,
    StageCosts,
)

RULE = BudgetRule(default_s=0.05, store_share=0.5)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_budget_is_the_default_unless_the_request_names_one() -> None:
    default, own = RULE.start(10.0, None), RULE.start(10.0, 200)

    assert (default.deadline, own.deadline) == pytest.approx((10.05, 10.2))
    assert (default.store_until, own.store_until) == pytest.approx((10.025, 10.1))


def test_store_never_takes_the_reserve() -> None:
    greedy = BudgetRule(default_s=0.05, store_share=1.0).start(10.0, 2)

    assert greedy.store_until == pytest.approx(greedy.deadline - RESERVE_S)


def test_budget_is_kept_until_its_deadline() -> None:
    budget = RULE.start(10.0, 100)

    assert [budget.is_kept(now) for now in (10.0, 10.1, 10.101)] == [True, True, False]


def test_stage_fits_while_it_ends_before_the_deadline() -> None:
    budget = RULE.start(time.monotonic(), 1000)

    assert budget.has_time_for(QUEUE)
    assert budget.has_time_for(Stage("score", 0.5))
    assert not budget.has_time_for(Stage("score", 1.0))


def test_encoding_is_expected_to_take_what_the_scoring_after_it_takes_too() -> None:
    costs = StageCosts((1, 2, 4))
    costs.note_encoding(3, 0.002)
    costs.note_scoring(4, 0.003)

    assert costs.encoding(4).seconds == pytest.approx(0.005, rel=0.1)
    assert costs.scoring(3).seconds == pytest.approx(0.003, rel=0.1)
    assert costs.scoring(1).seconds == 0.0
    assert costs.scoring(100).seconds == pytest.approx(0.003, rel=0.1)


def test_longer_round_trip_counts_at_once_and_a_shorter_one_little() -> None:
    trip = RoundTrip()
    first = trip.fits_twice(0.0, 0.01)
    trip.note(0.02)
    trip.note(0.001)

    assert first
    assert not trip.fits_twice(0.0, 0.03)
    assert trip.fits_twice(0.0, 0.035)


def test_estimate_has_about_one_in_a_hundred_above_it() -> None:
    estimate = Estimate(Clock())
    for n in range(100_000):
        estimate.note(((n * 7919) % 1000) / 1000)

    above = sum(((n * 7919) % 1000) / 1000 > estimate.p99() for n in range(1000))

    assert 0 < above <= 40


def test_estimate_forgets_a_pause_of_the_machine() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    for _ in range(3):
        estimate.note(0.001)
    estimate.note(1.0)

    assert estimate.p99() < 0.002


def test_estimate_forgets_a_pause_that_it_began_with() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    estimate.note(1.0)

    clock.now = 10 * USUAL_HALF_LIFE_S

    assert estimate.p99() == pytest.approx(1 / 1024)


def test_estimate_takes_what_is_always_slow_for_slow_after_an_idle_second_too() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    for _ in range(20):
        clock.now += 1
        estimate.note(0.1)
    clock.now += 1

    assert estimate.p99() > 0.05
