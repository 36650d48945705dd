"""How a process follows the trend: from the bundle's counts, a snapshot in the store, and the stream of events since.

    {namespace}:{{namespace}:events}:trend      hash: half-life in s -> what was counted, zlib of JSON (see trend)

Any process writes the snapshot, about once a minute, and any other one begins with it: so a start is quick, another
version of the model goes on where the last one was, and what the stream has dropped meanwhile is not lost. A snapshot
names no user. After it the stream is read once from its start, in the background, to know again who was there before.

Without a store the counts fade, and the catalogue knows until when events were heard of.
"""

import asyncio
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from typing import Protocol

import orjson

from service.bundle import Float32
from service.errors import StoreError
from service.store.client import Store
from service.store.reply import unless_wrong_type
from service.user.key import UserKeys
from service.user.stream import EventStream
from service.user.trend import TrendCounter

EVERY_S = 1.0
_SHOW_EVERY_S = 30.0
_REST = 100  # times what it took to publish the counts, until they are published again
KEEP_EVERY_S = 60.0
_CALL_S = 1.0
_PAUSE_S, _AT_ONCE = 0.002, 25
_MOST_BYTES, _MOST_JSON_BYTES = 8 << 20, 64 << 20
Publish = Callable[[Float32 | None, float], None]
"""Takes the counts of all rows, float32 [n_items], or None where they are as before; and until when was heard."""


class TrendSnapshots:
    """What was counted of trends, in the store. Methods raise StoreError where the store does not do as asked."""

    def __init__(self, store: Store, keys: UserKeys, half_life_s: float) -> None:
        self._store, self._key, self._field = store, keys.trend, f"{half_life_s:g}"

    async def read(self) -> object | None:
        """Return what was written last, if it can be read."""
        command = ("HGET", self._key, self._field)
        ((reply,),) = await self._store.call_each("user", [[command]], _CALL_S, most_bytes=_MOST_BYTES)
        packed = unless_wrong_type(reply, None)
        if not isinstance(packed, bytes):
            return None
        try:
            unpacking = zlib.decompressobj()
            found: object = orjson.loads(unpacking.decompress(packed, _MOST_JSON_BYTES))
        except (zlib.error, orjson.JSONDecodeError):
            return None
        return found

    async def write(self, described: bytes) -> None:
        """Write what was counted, as JSON."""
        if len(packed := zlib.compress(described, 1)) <= _MOST_BYTES:
            await self._store.call_one("user", ("HSET", self._key, self._field, packed), _CALL_S)


class TrendFeed:
    """Keeps the trend of one catalogue up to date."""

    def __init__(
        self,
        stream: EventStream,
        snapshots: TrendSnapshots,
        counter: TrendCounter,
        publish: Publish,
        keep_every_s: float = KEEP_EVERY_S,
    ) -> None:
        """publish: may be called from another thread. keep_every_s: how often a snapshot is written at most."""
        self._keep_every_s = keep_every_s
        self._stream, self._snapshots, self._counter, self._publish = stream, snapshots, counter, publish
        self._is_begun, self._heard_at = False, counter.since
        self._n_shown = self._n_kept = 0
        self._show_due, self._keep_due = 0.0, time.monotonic() + keep_every_s
        self._rests_until = 0.0

    def masses(self) -> dict[str, float]:
        """Return how much of all counts is from each source."""
        return self._counter.masses()

    async def advance(self) -> None:
        """Take in what is new in the stream, let the counts fade, and keep a snapshot from time to time.

        What the store does not do is left out: it is counted there, and the age of the counts tells.
        """
        with suppress(StoreError):
            await self._begin()
            await self._read()
        await self._show()
        with suppress(StoreError):
            await self._keep()

    async def _begin(self) -> None:
        if not self._is_begun:
            described = await self._snapshots.read()
            if isinstance(described, dict):
                with suppress(ValueError):
                    await asyncio.to_thread(self._counter.restore, described, time.time())
                    self._heard_at = max(self._heard_at, min(time.time(), float(described["at"])))
            self._is_begun = True
            await self._show()

    async def _read(self) -> None:
        asked = time.time()
        async with aclosing(self._stream.pages_after(self._counter.cursor, _CALL_S)) as pages:
            async for page in pages:
                now = time.time()
                for first in range(0, len(page), _AT_ONCE):  # a little in each turn of the loop
                    self._counter.count(page[first : first + _AT_ONCE], now)
                    await asyncio.sleep(0 if len(page) <= _AT_ONCE else _PAUSE_S)
        self._heard_at = asked

    async def _show(self) -> None:
        """Publish the counts if something was counted, or if it is time that they fade.

        Of a large catalogue that takes tens of milliseconds, so what was counted waits until it is seldom enough.
        """
        n_counted, now = self._counter.n_counted, time.monotonic()
        if n_counted == self._n_shown and now < self._show_due:
            self._publish(None, self._heard_at)
            return
        if now < min(self._rests_until, self._show_due):
            return
        self._n_shown, self._show_due = n_counted, now + _SHOW_EVERY_S
        took_s = await asyncio.to_thread(self._publish_counts)
        self._rests_until = now + _REST * took_s - EVERY_S

    def _publish_counts(self) -> float:
        """Return the processor time that it took."""
        started = time.thread_time()
        self._publish(self._counter.counts(time.time()), self._heard_at)
        return time.thread_time() - started

    async def _keep(self) -> None:
        """Write a snapshot, if something was counted since the last one and it is time."""
        n_counted, now = self._counter.n_counted, time.monotonic()
        if n_counted == self._n_kept or now < self._keep_due:
            return
        self._keep_due = now + self._keep_every_s
        if (described := await asyncio.to_thread(self._describe)) is not None:
            await self._snapshots.write(described)
            self._n_kept = n_counted

    def _describe(self) -> bytes | None:
        described = self._counter.describe()
        return None if described is None else orjson.dumps(described)


class Feed(Protocol):
    """What keeps a trend up to date."""

    async def advance(self) -> None:
        """Take in what is new."""


async def follow_trends(feeds: Callable[[], Iterable[Feed]], note: Callable[[], None]) -> None:
    """Keep the trends of the versions at hand up to date until cancelled. note: called after each round."""
    while True:
        for feed in feeds():
            await feed.advance()
        note()
        await asyncio.sleep(EVERY_S)
