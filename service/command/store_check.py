"""The doctor's checks of the store: it is used as the service uses it, by the same user, and then asked about itself.

The service's own code writes an event, reads, caches and erases it, in keys of this run alone, which are deleted. So it
is found what the answer to a ping does not tell: a Cluster behind the URL of a single server, a user who may not run
scripts, a replica, a full server. What the service can do without is a warning where the user may not do it.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np

from service.errors import StoreError
from service.release.published import PublishedVersions
from service.release.record import Replica
from service.store.client import Store
from service.store.reply import Reply, read_info, read_time
from service.task import end_task
from service.user.embedding import EmbeddingCache
from service.user.entry_index import EntryIndex
from service.user.erasure import Erasures
from service.user.event import StoredEvent
from service.user.history import History
from service.user.key import UserKeys
from service.user.record import Record
from service.user.stream import EventStream
from service.user.writer import Kept, Retention

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
_CALL_S = 2.0
_N_PINGS = 50
_SLOW_SHARE = 0.5
_CLOCK_WARN_S, _CLOCK_FAIL_S = 1.0, 60.0
_LIFE_S = 600
_DIM, _VERSION = 4, "0" * 16
_USER = "doctor"
_ADVICE = {
    "CROSSSLOT": "it is a node of a Cluster: redis+cluster://host:port,host:port",
    "MOVED": "it is a node of a Cluster: redis+cluster://host:port,host:port",
    "NOPERM": "give this user the commands and keys that the README lists",
    "NOAUTH": "the password: redis://:password@host",
    "WRONGPASS": "the password: redis://:password@host",
    "READONLY": "it is a replica: point RETORT_REDIS_URL at the primary, or use redis+sentinel://",
    "OOM": "the server is full: raise its maxmemory",
    "MISCONF": "the server cannot write its file: look at its log",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check of the doctor. advice: the way out, if the level is not PASS."""

    level: str
    subject: str
    text: str
    advice: str = ""


class _WrongAnswerError(Exception):
    """The store said yes, and does not hold what it should."""


class Rehearsal:
    """One run of what the service does with its store, in keys that no other run has."""

    def __init__(self, store: Store, namespace: str) -> None:
        """namespace: of the service; the keys of this run begin with it."""
        own = f"{namespace}:doctor:{secrets.token_hex(8)}"
        self._store, self._keys, self._real_stream = store, UserKeys(own), UserKeys(namespace).stream
        self._history = History(store, self._keys, Retention(history_ttl_s=_LIFE_S))
        self._cache = EmbeddingCache(store, self._keys, self._history, ttl_s=_LIFE_S, dim=_DIM, version=_VERSION)
        self._stream = EventStream(store, self._keys, EntryIndex(store, self._keys, _LIFE_S))
        self._erasures = Erasures(store, self._keys, name=own, lease_s=_LIFE_S)
        self._published, self._replica = PublishedVersions(store, own), own

    async def run(self) -> list[Finding]:
        """Do everything, as far as it goes well, and leave nothing behind."""
        steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("write an event", self._write), ("cache and read an embedding", self._read),
            ("erase a user", self._erase), ("follow releases", self._follow),
        ]  # fmt: skip
        try:
            for what, step in steps:
                try:
                    await step()
                except (StoreError, _WrongAnswerError) as exc:
                    return [Finding(FAIL, "use", f"cannot {what}: {exc}", _advice(exc))]
            return [Finding(PASS, "use", "an event was written, read, cached and erased as the service does it")]
        finally:
            await self._clean()

    async def _write(self) -> None:
        await self._store.call_one("user", ("XRANGE", self._real_stream, "-", "+", "COUNT", 1), _CALL_S)
        event = StoredEvent(_USER, "item", 1000)
        for expected in (Kept.NEW, Kept.KNOWN):
            kept = await self._history.append([event], _CALL_S)
            _require(kept == [expected], "an event was kept twice, or not at all")

    async def _read(self) -> None:
        record = Record(np.array([1], dtype=np.int32), np.ones(_DIM, dtype=np.float32))
        for expected in ("stale", "hit"):
            (sight,) = await self._cache.look([_USER], _CALL_S)
            if isinstance(sight, StoreError):
                raise sight
            _require(sight.result == expected, f"the embedding is {sight.result} and not {expected}")
            await self._cache.keep([(_USER, sight, record)], _CALL_S)
        (past,) = await self._history.read([_USER], _CALL_S)
        if isinstance(past, StoreError):
            raise past
        _require(past.item_ids == ["item"], "the history is not what was written")

    async def _erase(self) -> None:
        listening = asyncio.create_task(self._erasures.follow(lambda share: None))
        try:
            n_keys = await self._history.erase(_USER, _CALL_S)
            announced = await self._erasures.announce(_USER, _CALL_S)
            found = await self._stream.erase_user(_USER, _CALL_S, within_s=_CALL_S)
            await self._erasures.wait_until_heard(announced, _CALL_S)
            _require((n_keys, found) == (2, (1, True)), "what was erased is still there")
            end = time.monotonic() + _CALL_S
            while not self._erasures.is_heard:
                _require(time.monotonic() < end, "erasures are not heard of, so no answer is made from memory")
                await asyncio.sleep(0.01)
        finally:
            await end_task(listening)

    async def _follow(self) -> None:
        await self._published.live()
        await self._published.report(Replica(self._replica, _VERSION, 1, "ok", "", time.time()))
        _require(len(await self._published.replicas()) == 1, "a report was not kept")
        await self._published.forget(self._replica)

    async def _clean(self) -> None:
        user = (*self._keys.of_user(_USER), self._keys.entries(_USER))
        for key in (*user, *self._keys.shared, f"{self._replica}:release:replicas"):
            try:
                await self._store.ask_aside(("DEL", key), _CALL_S)
            except StoreError:
                continue  # what could not be deleted was told, or could not be written either


async def check_store(store: Store, namespace: str, slow_s: float) -> list[Finding]:
    """Use the server as the service does; judge its latency, its memory policy, its persistence and its clock.

    namespace: of the service. slow_s: the time that the default budget leaves for the store.
    """
    try:
        findings = [await _check_latency(store, slow_s)]
    except StoreError as exc:
        return [Finding(FAIL, "store", f"does not answer: {exc}", _advice(exc))]
    findings += await Rehearsal(store, namespace).run()
    try:
        info = read_info(await _ask(store, "INFO"))
        findings += [judge_memory(info), judge_persistence(info)]
    except StoreError as exc:
        findings += [_unknown(subject, exc) for subject in ("eviction", "persistence")]
    try:
        findings.append(judge_clock(read_time(await _ask(store, "TIME"))))
    except StoreError as exc:
        findings.append(_unknown("clock", exc))
    return findings


async def _check_latency(store: Store, slow_s: float) -> Finding:
    times = []
    for _ in range(_N_PINGS):
        start = time.perf_counter()
        await _ask(store, "PING")
        times.append(time.perf_counter() - start)
    p50, p90 = sorted(times)[_N_PINGS // 2], sorted(times)[_N_PINGS * 9 // 10]
    text = f"answers in {p50 * 1000:.2f} ms (p90 {p90 * 1000:.2f}); its share of the budget is {slow_s * 1000:.0f} ms"
    if p50 > slow_s:
        return Finding(
            FAIL, "latency", text, "a nearer store, or a longer RETORT_BUDGET_MS: every answer would do without"
        )
    if p90 > _SLOW_SHARE * slow_s:
        return Finding(WARN, "latency", text, "a nearer or less busy store")
    return Finding(PASS, "latency", text)


def judge_memory(info: Mapping[str, str]) -> Finding:
    """Judge by a reply to INFO whether the server may throw away what it was told to keep."""
    policy, most = info.get("maxmemory_policy", "unknown"), int(info.get("maxmemory", "0"))
    text = f"maxmemory {most / 1e6:.0f} MB, {policy}" if most else f"maxmemory not set, {policy}"
    if policy != "noeviction" and most:
        return Finding(
            FAIL, "eviction", text, "CONFIG SET maxmemory-policy noeviction: acknowledged events would vanish"
        )
    if policy != "noeviction":
        return Finding(WARN, "eviction", text, "CONFIG SET maxmemory-policy noeviction, before a maxmemory is set")
    used = int(info.get("used_memory", "0"))
    if most and used > 0.8 * most:
        return Finding(WARN, "eviction", f"{text}, {used / most:.0%} used", "raise it: once full, events are refused")
    return Finding(PASS, "eviction", text)


def judge_persistence(info: Mapping[str, str]) -> Finding:
    """Judge by a reply to INFO whether what the server keeps outlives it."""
    if info.get("loading") == "1":
        return Finding(WARN, "persistence", "the server is loading its file", "wait")
    if info.get("role") in ("slave", "replica"):
        return Finding(FAIL, "persistence", "the server is a replica", "point RETORT_REDIS_URL at the primary")
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Finding(FAIL, "persistence", "the last write to disk failed", "look at the server's log: a full disk?")
    if info.get("aof_enabled") != "1":
        advice = "CONFIG SET appendonly yes: a restart would lose acknowledged events"
        return Finding(WARN, "persistence", "no append-only file", advice)
    return Finding(PASS, "persistence", "append-only file, last write well")


def judge_clock(server_time: float) -> Finding:
    """Judge how far the server's clock is from this machine's. server_time: Unix seconds, now."""
    apart_s = abs(time.time() - server_time)
    text = f"{apart_s:.3f} s from the store's"
    if apart_s > _CLOCK_FAIL_S:
        return Finding(FAIL, "clock", text, "synchronise clocks (NTP): events of the future are refused")
    if apart_s > _CLOCK_WARN_S:
        return Finding(WARN, "clock", text, "synchronise clocks (NTP): histories are ordered by time")
    return Finding(PASS, "clock", text)


async def _ask(store: Store, command: str) -> Reply:
    return await store.call_one("user", (command,), _CALL_S)


def _unknown(subject: str, exc: StoreError) -> Finding:
    """Return what is found where the server does not tell what a check wants to know."""
    return Finding(WARN, subject, f"not known: {exc}", "allow INFO and TIME, or ask whoever runs the server")


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise _WrongAnswerError(otherwise)


def _advice(exc: Exception) -> str:
    """Return the way out of an error of the store, by the first word of what the server said."""
    words = exc.words if isinstance(exc, StoreError) else ""
    return _ADVICE.get(words.split(" ")[0], "see RETORT_REDIS_URL: address, password and ACL")
