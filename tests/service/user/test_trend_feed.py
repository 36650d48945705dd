"""How the trend follows the stream of a real store, and goes on from what another process had counted."""

import asyncio
import time
import uuid

import numpy as np
import pytest

from service.bundle import Float32, TrendRule
from service.store.breaker import Breaker
from service.store.client import Store
from service.user.entry_index import EntryIndex
from service.user.event import StoredEvent
from service.user.history import History, Retention
from service.user.key import UserKeys
from service.user.stream import EventStream
from service.user.trend import TrendCounter
from service.user.trend_feed import TrendFeed, TrendSnapshots
from tests.service.user.test_trend import N_ITEMS, Rows

HALF_LIFE_S = 86_400.0


class Process:
    """What one process knows of a trend. told: what was published, newest last.

    slow_s: the processor time that publishing takes.
    """

    def __init__(
        self, store: Store, namespace: str, as_of: float, keep_every_s: float = 0.0, slow_s: float = 0.0
    ) -> None:
        self._slow_s = slow_s
        keys = UserKeys(namespace)
        rule = TrendRule(HALF_LIFE_S, 0.05, as_of)
        self.counter = TrendCounter(rule, np.zeros(N_ITEMS, np.float32), Rows(), time.time())
        self.told: list[tuple[Float32 | None, float]] = []
        stream = EventStream(store, keys, EntryIndex(store, keys, 3600))
        snapshots = TrendSnapshots(store, keys, HALF_LIFE_S)
        self.feed = TrendFeed(stream, snapshots, self.counter, self._publish, keep_every_s)
        self._history = History(store, keys, Retention(stream=100))

    def _publish(self, counts: Float32 | None, heard_at: float) -> None:
        self.told.append((counts, heard_at))
        until = time.thread_time() + (0.0 if counts is None else self._slow_s)
        while time.thread_time() < until:
            pass

    async def send(self, item: str, n_events: int, named: str = "u") -> None:
        """Store events of as many users."""
        now = round(time.time() * 1000)
        for first in range(0, n_events, 500):
            numbers = range(first, min(first + 500, n_events))
            await self._history.append([StoredEvent(f"{named}{number}", item, now) for number in numbers], 5)

    def count(self, row: int) -> float:
        """The count that was published last."""
        counts = [counts for counts, _ in self.told if counts is not None]
        return float(counts[-1][row])


@pytest.fixture
def namespace() -> str:
    return f"trend-{uuid.uuid4().hex}"


async def test_trend_follows_what_is_stored(store: Store, namespace: str) -> None:
    process = Process(store, namespace, time.time() - 3600)
    await process.feed.advance()
    n_told = len(process.told)

    await process.send("i2", 1)
    await process.feed.advance()
    await process.feed.advance()

    assert process.count(2) == pytest.approx(1, abs=0.01)
    assert [counts is None for counts, _ in process.told[n_told:]] == [False, True]
    assert process.told[-1][1] >= time.time() - 60


async def test_counts_of_a_large_catalogue_are_published_seldom_and_not_lost(store: Store, namespace: str) -> None:
    process = Process(store, namespace, time.time() - 3600, slow_s=0.05)  # a rest of four seconds
    await process.feed.advance()
    n_told = len(process.told)
    await process.send("i2", 1)

    await process.feed.advance()

    assert process.told[n_told:] == [], "neither the counts, nor that they are of now"
    deadline = time.monotonic() + 30
    while process.count(2) < 0.99 and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        await process.feed.advance()
    assert process.count(2) == pytest.approx(1, abs=0.01)


async def test_what_the_stream_has_dropped_is_not_lost_to_another_process(store: Store, namespace: str) -> None:
    as_of = time.time() - 3600
    first = Process(store, namespace, as_of)
    await first.send("i1", 1)
    await first.feed.advance()
    await first.send("i5", 1000, named="w")  # the stream keeps about 100
    await first.feed.advance()
    other = Process(store, namespace, as_of)

    await other.feed.advance()

    assert other.count(1) == pytest.approx(first.count(1), abs=0.01)
    assert other.count(5) == pytest.approx(first.count(5), rel=0.01)


async def test_newer_bundle_counts_what_came_after_it(store: Store, namespace: str) -> None:
    first = Process(store, namespace, time.time() - 3600)
    await first.send("i1", 1)
    await first.feed.advance()
    newer = Process(store, namespace, time.time() - 0.5)
    await first.send("i2", 1, named="later")

    await newer.feed.advance()

    assert newer.count(1) == pytest.approx(1, abs=0.01)
    assert newer.count(2) == pytest.approx(1, abs=0.01)


async def test_without_a_store_the_counts_fade_and_their_age_is_told(namespace: str) -> None:
    away = Store("unix:///nowhere.sock", max_connections=1, slow_s=5.0, breaker=Breaker())
    process = Process(away, namespace, as_of := time.time() - 3600)
    process.counter.restore({"at": as_of, "cursor": "0-0", "sources": {}, "items": {"i0": [4, 0]}}, time.time())

    await process.feed.advance()

    await away.close()
    assert process.count(0) == pytest.approx(4 * 2 ** (-3600 / HALF_LIFE_S), abs=0.01)
    assert process.told[-1][1] == as_of


async def test_snapshot_that_cannot_be_read_is_passed_over(store: Store, namespace: str) -> None:
    key = UserKeys(namespace).trend
    for value in (b"junk", b"", b"x\x9c"):
        await store.call_one("user", ("HSET", key, f"{HALF_LIFE_S:g}", value), 1.0)
        process = Process(store, namespace, time.time() - 3600)
        await process.send("i0", 1, named=value.hex())

        await process.feed.advance()

        assert process.count(0) >= 0.99
