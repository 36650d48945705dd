"""Erasures: every listener of a store hears of each, and one that cannot is not trusted for long."""

import asyncio
import time
from collections.abc import Callable

import pytest

from service.store.client import Store
from service.task import end_task
from service.user.erasure import N_SHARES, Erasures, share_of
from service.user.key import UserKeys


class Clock:
    """Seconds that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Listener:
    """A process that hears of erasures."""

    def __init__(self, store: Store, namespace: str, name: str, lease_s: float = 60.0) -> None:
        self.clock = Clock()
        self._store, self._keys, self._name = store, UserKeys(namespace), name
        self.erasures = Erasures(store, UserKeys(namespace), name=name, lease_s=lease_s, clock=self.clock)
        self.forgotten: list[int | None] = []
        self._task: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        self._task = asyncio.create_task(self.erasures.follow(self.forgotten.append))
        await until(lambda: self.erasures.is_heard)

    async def hang_up(self) -> None:
        """Hear nothing any more, as where the way to the store is cut: nobody is told."""
        told = await self._store.call_one("user", ("HGET", self._keys.listeners, self._name), 5)
        await self.stop()
        await self._store.call("user", [("HSET", self._keys.listeners, self._name, told)], 5)

    async def stop(self) -> None:
        if self._task is not None:
            await end_task(self._task)


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.001)


async def test_every_listener_has_heard_once_the_erasure_is_over_and_nothing_is_left_of_it(store: Store) -> None:
    listeners = [Listener(store, "all", f"p{n}") for n in range(3)]
    for listener in listeners:
        await listener.listen()
        listener.forgotten.clear()
    started = time.monotonic()

    entry = await listeners[0].erasures.announce("anna", 5)
    unheard = await listeners[0].erasures.wait_until_heard(entry, 5)
    seconds = time.monotonic() - started

    assert unheard.gone_within_s == 0
    assert [listener.forgotten for listener in listeners[1:]] == [[share_of("anna")]] * 2
    assert seconds < 0.9, "they wait at the server, and do not ask once a second"
    assert await store.call_one("user", ("XLEN", UserKeys("all").erasures), 5) == 0
    for listener in listeners:
        await listener.stop()
    assert await store.call_one("user", ("EXISTS", UserKeys("all").listeners), 5) == 0


async def test_erasure_waits_for_the_lease_of_a_listener_that_hears_nothing(store: Store) -> None:
    deaf, other = Listener(store, "deaf", "deaf", lease_s=0.5), Listener(store, "deaf", "other")
    await deaf.listen()
    await deaf.hang_up()
    started = time.monotonic()

    entry = await other.erasures.announce("anna", 5)
    hurried = await other.erasures.wait_until_heard(entry, 5, within_s=0)
    patient = await other.erasures.wait_until_heard(entry, 5)

    assert 0 < hurried.gone_within_s <= 0.5
    assert patient.gone_within_s == 0
    assert 0.2 < time.monotonic() - started < 4


async def test_listener_that_does_not_hear_is_trusted_for_its_lease_and_no_longer(store: Store) -> None:
    listener = Listener(store, "lease", "p", lease_s=10)
    assert not listener.erasures.is_heard
    await listener.listen()
    await listener.stop()

    listener.clock.now_s = 9.9
    before = listener.erasures.is_heard
    listener.clock.now_s = 10.1

    assert (before, listener.erasures.is_heard) == (True, False)


@pytest.mark.parametrize(
    "loss",
    [
        [("FLUSHED",)],
        [("DEL", UserKeys("lost-1").erasures)],
        [("XADD", UserKeys("lost-2").erasures, "*", "share", "7", "before", "1-1")],
        [("XADD", UserKeys("lost-3").erasures, "*", "other", "field")],
        [("DEL", UserKeys("lost-4").listeners)],
        [("SET", UserKeys("lost-5").listeners, "x")],
        [("SET", UserKeys("lost-6").erasures, "x")],
    ],
    ids=range(7),
)
async def test_listener_that_may_have_missed_something_forgets_everybody(
    store: Store, loss: list, request: pytest.FixtureRequest
) -> None:
    namespace = f"lost-{request.node.callspec.id}"
    keys = UserKeys(namespace)
    listener = Listener(store, namespace, "p")
    await listener.erasures.announce("before", 5)
    await listener.listen()
    listener.forgotten.clear()

    commands = [("DEL", keys.erasures, keys.listeners)] if loss == [("FLUSHED",)] else loss
    await store.call("user", commands, 5)

    await until(lambda: None in listener.forgotten)
    entry = await Listener(store, namespace, "q").erasures.announce("anna", 5)
    await until(lambda: share_of("anna") in listener.forgotten)
    assert (await listener.erasures.wait_until_heard(entry, 5)).gone_within_s == 0
    await listener.stop()


async def test_erasures_of_many_at_once_are_all_heard(store: Store) -> None:
    listeners = [Listener(store, "many", f"p{n}") for n in range(2)]
    for listener in listeners:
        await listener.listen()
        listener.forgotten.clear()

    async def erase(user: str) -> float:
        entry = await listeners[0].erasures.announce(user, 60)
        return (await listeners[0].erasures.wait_until_heard(entry, 60)).gone_within_s

    users = [f"u{n}" for n in range(200)]
    left = await asyncio.gather(*map(erase, users))

    assert set(left) == {0}
    heard = listeners[1].forgotten
    assert None in heard or {share_of(user) for user in users} <= set(heard)
    for listener in listeners:
        await listener.stop()


def test_a_share_names_nobody() -> None:
    assert len({share_of(f"user-{n}") for n in range(100_000)}) == N_SHARES
