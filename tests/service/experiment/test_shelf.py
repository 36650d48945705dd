"""The record of an experiment in a real store."""

import pytest

from service.errors import RefusedError, StoreError
from service.experiment.shelf import ExperimentShelf
from service.store.client import Store

ONE, TWO, LIVE = "1" * 16, "2" * 16, "a" * 16


async def test_experiment_is_begun_changed_ended_and_stays_to_be_looked_at(store: Store) -> None:
    shelf = ExperimentShelf(store, "whole")

    nothing = await shelf.read()
    begun = await shelf.begin("canary", ONE, LIVE, 5)
    read = await shelf.read()
    raised = await shelf.begin("experiment", ONE, LIVE, 20)
    is_stale_ended = await shelf.end(begun, "stopped")
    ended = await shelf.end(raised, "stopped")
    is_ended_twice = await shelf.end(raised, "stopped again")

    assert nothing is None
    assert read == begun
    assert (begun.kind, begun.version, begun.live, begun.share, begun.is_running) == ("canary", ONE, LIVE, 5.0, True)
    assert (raised.kind, raised.share, raised.salt) == ("experiment", 20.0, begun.salt)
    assert raised.id != begun.id
    assert is_stale_ended is None and is_ended_twice is None
    assert ended is not None and not ended.is_running and ended.reason == "stopped"
    assert await shelf.read() == ended


async def test_experiment_begins_and_ends_by_the_clock_of_the_store(store: Store) -> None:
    shelf = ExperimentShelf(store, "clock", clock=lambda: 1e9)  # of an operator's machine, many years behind

    begun = await shelf.begin("canary", ONE, LIVE, 5)
    ended = await shelf.end(begun, "stopped")

    seconds, _ = await store.call_one("ping", ("TIME",), 1.0)
    assert ended is not None and ended.ended is not None
    assert 1.7e9 < begun.started < ended.ended < int(seconds) + 1


async def test_publishing_the_same_again_goes_on_counting_and_another_test_counts_anew(store: Store) -> None:
    shelf = ExperimentShelf(store, "again")

    begun = await shelf.begin("canary", ONE, LIVE, 5, ["buy"])
    same = [await shelf.begin(kind, ONE, LIVE, 5, ["buy"]) for kind in ("canary", "experiment")]
    others = [
        await shelf.begin("experiment", ONE, LIVE, 20, ["buy"]),
        await shelf.begin("experiment", ONE, LIVE, 20, ["rent"]),
        await shelf.begin("shadow", ONE, LIVE, 20, ["rent"]),
        await shelf.begin("canary", ONE, LIVE, 20, ["rent"]),
    ]

    assert [each.started for each in same] == [begun.started] * 2
    assert len({begun.id, *(each.id for each in (*same, *others))}) == 7  # whoever refused the version tries it again
    assert len({begun.started, *(each.started for each in others)}) == 5


async def test_another_version_is_refused_while_one_runs_and_gets_a_salt_of_its_own_afterwards(store: Store) -> None:
    shelf = ExperimentShelf(store, "other")
    begun = await shelf.begin("shadow", ONE, LIVE, 5)

    with pytest.raises(RefusedError, match="runs as shadow: end it first, by 'experiment stop'"):
        await shelf.begin("shadow", TWO, LIVE, 5)
    await shelf.end(begun, "stopped")
    after = await shelf.begin("shadow", TWO, LIVE, 5)
    under_another_live = await shelf.begin("shadow", ONE, "b" * 16, 5)

    assert after.salt != begun.salt
    assert under_another_live.live == "b" * 16  # the one before it was over when its live version was


@pytest.mark.parametrize("share", [0, -1, 101, float("nan"), float("inf")])
async def test_share_that_is_none_is_refused(store: Store, share: float) -> None:
    with pytest.raises(RefusedError, match="percent"):
        await ExperimentShelf(store, "share").begin("canary", ONE, LIVE, share)


async def test_what_counts_is_fixed_when_an_experiment_begins(store: Store) -> None:
    shelf = ExperimentShelf(store, "counts")

    await shelf.begin("canary", ONE, LIVE, 5, {"rent", "buy"})

    running = await shelf.read()
    assert running is not None and running.conversions == ("buy", "rent")
    with pytest.raises(RefusedError, match="RETORT_CONVERSIONS: at most 20 types"):
        await shelf.begin("canary", ONE, LIVE, 5, [str(number) for number in range(21)])
    with pytest.raises(RefusedError, match="an impression is what conversions are counted after: drop it"):
        await shelf.begin("canary", ONE, LIVE, 5, {"impression", "buy"})


async def test_live_version_is_not_set_beside_itself(store: Store) -> None:
    with pytest.raises(RefusedError, match="nothing to set beside it"):
        await ExperimentShelf(store, "self").begin("canary", LIVE, LIVE, 5)


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "wrong:experiment", b"{"),
        ("SET", "wrong:experiment", b"x" * 5000),
        ("SET", "wrong:experiment", b'{"kind":"canary"}'),
        ("SADD", "wrong:experiment", b"a"),
    ],
)
async def test_wrong_record_is_told_from_none_and_gives_way_to_the_next(store: Store, command: tuple[object]) -> None:
    shelf = ExperimentShelf(store, "wrong")
    await store.call("read", [("DEL", "wrong:experiment"), command], 5)

    with pytest.raises(StoreError, match="decode"):
        await shelf.read()
    begun = await shelf.begin("canary", ONE, LIVE, 5)

    assert await shelf.read() == begun
