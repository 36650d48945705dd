"""Who is let in, on a clock of the test's own."""

from service.http.admission import LEAST, Limit, Rates


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def serve(limit: Limit, clock: Clock, *, n: int, each_s: float, windows: int) -> None:
    """Keep n answers in flight, each taking each_s, for some windows."""
    for _ in range(windows):
        for _ in range(n):
            limit.enter()
        clock.now += 0.2
        for _ in range(n):
            limit.leave(each_s)


def test_limit_falls_while_answers_take_longer_than_the_target() -> None:
    clock = Clock()
    limit = Limit(target_s=0.025, most=256, clock=clock)

    serve(limit, clock, n=200, each_s=0.1, windows=20)

    assert limit.value == LEAST


def test_limit_rises_again_once_answers_are_quick_and_it_is_tried() -> None:
    clock = Clock()
    limit = Limit(target_s=0.025, most=256, clock=clock)
    serve(limit, clock, n=200, each_s=0.1, windows=20)

    for _ in range(100):
        serve(limit, clock, n=max(25, limit.value), each_s=0.01, windows=1)

    assert limit.value == 256


def test_limit_stays_where_it_is_while_hardly_used() -> None:
    clock = Clock()
    limit = Limit(target_s=0.025, most=256, clock=clock)
    serve(limit, clock, n=200, each_s=0.1, windows=3)
    serve(limit, clock, n=1, each_s=0.001, windows=20)
    before = limit.value

    serve(limit, clock, n=1, each_s=0.001, windows=200)

    assert limit.value == before < 256


def test_limit_is_reached_by_what_is_in_flight_and_left_again() -> None:
    limit = Limit(target_s=1, most=2)

    limit.enter()
    one = limit.is_reached
    limit.enter()
    two = limit.is_reached
    limit.leave(0.1)

    assert (one, two, limit.is_reached) == (False, True, False)


def test_caller_over_its_rate_is_told_so_and_others_are_not() -> None:
    clock = Clock()
    rates = Rates(2, clock)

    first = [rates.is_over(b"a") for _ in range(4)]
    other = rates.is_over(b"b")
    clock.now = 0.5
    later = [rates.is_over(b"a") for _ in range(2)]

    assert first == [False, False, True, True]
    assert other is False
    assert later == [False, True]


def test_rate_below_one_a_second_still_lets_one_in() -> None:
    clock = Clock()
    rates = Rates(0.5, clock)

    now = [rates.is_over(b"a") for _ in range(2)]
    clock.now = 2.0

    assert [*now, rates.is_over(b"a")] == [False, True, False]
