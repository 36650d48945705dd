"""The breaker, on a clock of its own."""

import math

import pytest

from service.store.breaker import FAILURES_TO_OPEN, FIRST_OPEN_S, MAX_OPEN_S, Breaker, State


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock=clock)
    for _ in range(FAILURES_TO_OPEN):
        breaker.record_failure()
    return breaker


def test_breaker_opens_after_a_run_of_failures_and_not_before() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.record_failure()
    assert breaker.is_closed

    breaker.record_failure()

    assert breaker.state is State.OPEN


@pytest.mark.parametrize(("successes", "is_open"), [(1, True), (3, False), (99, False)])
def test_breaker_opens_where_every_second_call_fails_and_not_where_few_do(successes: int, is_open: bool) -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(100):
        breaker.record_failure()
        for _ in range(successes):
            breaker.record_success()

    assert breaker.is_closed is not is_open


def test_breaker_lets_one_probe_through_and_closes_on_its_success() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.begin_probe()

    clock.now += FIRST_OPEN_S
    probes = [breaker.begin_probe() for _ in range(3)]
    breaker.record_success()

    assert probes == [True, False, False]
    assert breaker.is_closed


def test_breaker_waits_longer_after_each_failed_probe_but_never_long() -> None:
    clock = Clock()
    breaker = opened(clock)
    waits = []
    for _ in range(6):
        start = clock.now
        while not breaker.begin_probe():
            clock.now += 0.01
        waits.append(round(clock.now - start, 6))
        breaker.record_failure()

    assert waits == sorted(waits)
    assert math.isclose(waits[-1], MAX_OPEN_S, abs_tol=0.02)


def test_failures_of_calls_begun_earlier_do_not_prolong_the_open_time() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_OPEN_S
    for _ in range(10):
        breaker.record_failure()

    assert breaker.begin_probe()
