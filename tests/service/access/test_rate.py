"""Rates of callers: in one process, and over several that share a file."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.access.rate import _SETS, _WAYS, FILE_BYTES, Ledger, OwnLedger, Rates, SharedLedger


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rates_file(tmp_path: Path) -> Path:
    path = tmp_path / "rates"
    path.write_bytes(bytes(FILE_BYTES))
    return path


@pytest.fixture
def shared(rates_file: Path) -> Iterator[SharedLedger]:
    with closing(SharedLedger(rates_file)) as ledger:
        yield ledger


@pytest.fixture(params=["own", "shared"])
def ledger(request: pytest.FixtureRequest, shared: SharedLedger) -> Ledger:
    return OwnLedger() if request.param == "own" else shared


def test_caller_over_its_rate_is_told_so_and_others_are_not(ledger: Ledger) -> None:
    clock = Clock()
    rates = Rates(2, ledger, clock)

    first = [rates.is_over(b"a") for _ in range(4)]
    other = rates.is_over(b"b")
    clock.now = 0.5
    later = [rates.is_over(b"a") for _ in range(2)]

    assert first == [False, False, True, True]
    assert other is False
    assert later == [False, True]


def test_rate_below_one_a_second_still_lets_one_in(ledger: Ledger) -> None:
    clock = Clock()
    rates = Rates(0.5, ledger, clock)

    now = [rates.is_over(b"a") for _ in range(2)]
    clock.now = 2.0

    assert [*now, rates.is_over(b"a")] == [False, True, False]


def test_large_request_is_paid_for_by_those_after_it(ledger: Ledger) -> None:
    clock = Clock()
    rates = Rates(10, ledger, clock)

    first = rates.is_over(b"a")
    rates.charge(b"a", 99)
    clock.now = 5.0
    early = rates.is_over(b"a")
    clock.now = 10.0

    assert [first, early, rates.is_over(b"a")] == [False, True, False]


def ask(path: Path, n: int) -> int:
    with closing(SharedLedger(path)) as ledger:
        rates = Rates(50, ledger, lambda: 1000.0)
        return sum(not rates.is_over(b"one caller") for _ in range(n))


def test_what_is_set_is_what_is_had_over_all_processes(rates_file: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        let_in = pool.starmap(ask, [(rates_file, 200)] * 4)

    assert sum(let_in) == 50


def test_table_that_is_full_forgets_the_caller_who_has_paid_longest(shared: SharedLedger) -> None:
    clock = Clock()
    rates = Rates(1, shared, clock)
    began = time.monotonic()
    for number in range(4 * _SETS * _WAYS):
        clock.now += 0.001
        rates.is_over(b"%d" % number)

    assert rates.is_over(b"%d" % number)
    assert time.monotonic() - began < 60
