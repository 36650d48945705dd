"""Who is let in, on a clock of the test's own."""

from service.access.admission import LEAST, Limit, Shares


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


def share(n_callers: int, most: int = 16) -> Shares:
    return Shares(Limit(target_s=1, most=most), n_callers)


def test_one_caller_may_have_everything_where_there_is_no_other() -> None:
    shares = share(1)

    assert [shares.enter(b"a") for _ in range(17)] == [True] * 16 + [False]


def test_caller_who_is_alone_leaves_room_for_the_next() -> None:
    shares = share(2)
    first = [shares.enter(b"a") for _ in range(20)].count(True)
    second = [shares.enter(b"b") for _ in range(20)].count(True)

    assert (first, second) == (14, 2)


def test_places_that_are_given_back_go_to_whoever_has_few() -> None:
    shares = share(2)
    for _ in range(14):
        shares.enter(b"a")
    for _ in range(6):
        shares.leave(b"a", 0.01)

    mine = [shares.enter(b"b") for _ in range(9)].count(True)

    assert mine == 8
    assert not shares.enter(b"a")
    assert shares.limit.n_in_flight == 16


def test_nobody_waits_for_a_share_while_half_of_the_places_are_free() -> None:
    shares = share(3)

    assert all(shares.enter(b"a") for _ in range(8))
    assert all(shares.enter(b"b") for _ in range(4))


def test_more_places_are_given_only_while_half_of_them_are_free() -> None:
    for n_callers in (1, 2):
        shares = Shares(Limit(target_s=1, most=20), n_callers)
        assert shares.enter(b"a")

        assert shares.enter_more(b"a", 4) == 4
        assert shares.enter_more(b"a", 100) == 5
        assert shares.enter(b"b")
        assert shares.enter_more(b"b", 1) == 0
        for caller in [b"a"] * 10 + [b"b"]:
            shares.leave(caller, 0.001)
        assert shares.limit.n_in_flight == 0
