"""The way to the Redis-protocol server.

Every call is one pipeline, one round trip, under a time limit of its caller's, behind a cap on calls in flight and the
breaker. Nothing is retried, and a connection whose call was cut off is closed, never used again. A call slower than
slow_s counts as failed for the breaker even where its caller could wait longer; a caller with much less time than
slow_s cannot open the breaker for others.

Reads and pings go over a StoreConnection unless the URL asks for TLS or options of redis-py's own; all the rest goes
through redis-py.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.cluster import RedisCluster

from service.errors import BreakerOpenError, StoreError, StoreTimeoutError
from service.store.address import open_address
from service.store.breaker import Breaker
from service.store.connection import Command, ConnectionFullError

_SLOT_SHARE = 0.25
_PATIENT_SHARE = 0.75  # of slow_s: a default request has waited for its batch before it asks
_PROBE_EVERY_S = 0.05
_PING_EVERY_S = 1.0
# Of these the breaker hears; the others concern one key, or writes alone.
_KEYLESS = frozenset({"PING", "INFO", "TIME"})
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})
_QUICK_OPS = frozenset({"read", "ping"})  # the others may carry a thousand events
_DOWN_KINDS = frozenset({"timeout", "connection", "loading", "noauth", "noperm", "other"})


class Store:
    """A bounded pool of connections to one server. Open it with open(), close it with close()."""

    def __init__(
        self,
        url: str,
        *,
        max_connections: int,
        slow_s: float,
        breaker: Breaker,
        on_call: Callable[[str, float], None] = lambda op, seconds: None,
        on_error: Callable[[str], None] = lambda kind: None,
    ) -> None:
        """url: see address. slow_s: what the default budget leaves for the store. Raises StartError."""
        self.breaker = breaker
        self._slow_s = slow_s
        self._slots = asyncio.Semaphore(max_connections)
        self._on_call = on_call
        self._on_error = on_error
        self._is_starting = False
        address = open_address(url, max_connections)
        self._client, self._connection, self._close = address.client, address.connection, address.close
        self._renew, self._renewed = address.renew, 0.0
        self._renewing: asyncio.Task[None] | None = None
        self._last_success = 0.0
        self._watch_task: asyncio.Task[None] | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether keys without a common hash tag may lie on different nodes."""
        return self._renew is not None

    def open(self) -> None:
        """Begin to watch the server: a ping when nothing else goes by, and the breaker's probes."""
        self._watch_task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop watching and close every connection."""
        if self._watch_task is not None:
            self._watch_task.cancel()
            await asyncio.gather(self._watch_task, return_exceptions=True)
        if self._renewing is not None:
            await asyncio.gather(self._renewing, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()
        try:
            await self._client.aclose()
            await self._close()  # a pool that was given is not closed with the client
        except Exception as exc:  # the border: a failing close hides nothing else
            self._on_error(_kind(exc))

    async def call(self, op: str, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send commands as one pipeline and return their results; a single command's error stands as its result.

        Raises BreakerOpenError at once, StoreTimeoutError within timeout_s, StoreError for everything else.
        """
        if not self.breaker.is_closed:
            raise BreakerOpenError
        return await self._attempt(op, commands, timeout_s)

    async def call_script(self, op: str, script: str, arguments: Iterable[Command], timeout_s: float) -> list[Any]:
        """Run a script once for each tuple of arguments (key count, keys, values); sent whole only if unknown."""
        listed = list(arguments)
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        results = await self.call(op, [("EVALSHA", digest, *each) for each in listed], timeout_s)
        unknown = [place for place, result in enumerate(results) if isinstance(result, exceptions.NoScriptError)]
        if unknown:
            again = await self.call(op, [("EVAL", script, *listed[place]) for place in unknown], timeout_s)
            for place, result in zip(unknown, again, strict=True):
                results[place] = result
        return results

    async def wait_until_up(self, timeout_s: float) -> bool:
        """Whether the server answers a ping within timeout_s; if not, the breaker is opened."""
        end = time.monotonic() + timeout_s
        self._is_starting = True
        while time.monotonic() < end and not await self._answers():
            await asyncio.sleep(0.01)
        self._is_starting = False
        if is_up := await self._answers():
            self.breaker.close()
        else:
            self.breaker.open()
        return is_up

    async def _answers(self) -> bool:
        try:
            (result,) = await self._attempt("ping", [("PING",)], 0.25)
        except StoreError:
            return False
        return not isinstance(result, Exception)

    def explain(self, result: Any) -> str | None:
        """Return the error kind of one command's result and count it, or None if it is no error."""
        if not isinstance(result, Exception):
            return None
        kind = _kind(result)
        self._on_error(kind)
        return kind

    def count_undecodable(self) -> None:
        """Count a value in the store that is not what this service writes."""
        self._on_error("decode")

    async def _attempt(self, op: str, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        start = time.monotonic()
        try:
            if self._connection is not None and op in _QUICK_OPS:
                results = await self._connection.ask(commands, timeout_s)
            else:
                results = await self._send_in_slot(commands, timeout_s)
        except StoreError:
            raise
        except Exception as exc:  # redis-py on asyncio has raised TypeError and AttributeError for a peer's reset
            raise self._failed(_kind(exc), timeout_s) from exc
        seconds = time.monotonic() - start
        self._on_call(op, seconds)
        self._judge(op, results, seconds)
        return results

    async def _send_in_slot(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        start = time.monotonic()
        await self._take_slot(timeout_s)
        try:
            async with asyncio.timeout(max(0.0, timeout_s - (time.monotonic() - start))):
                return await self._send(commands)
        finally:
            self._slots.release()

    async def _take_slot(self, timeout_s: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(timeout_s * _SLOT_SHARE):
                await self._slots.acquire()
        except TimeoutError:
            self._on_error("pool_exhausted")
            raise StoreError("pool_exhausted") from None

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        if not isinstance(self._client, RedisCluster):
            return await self._send_together(commands)
        groups = list(_by_node(self._client, commands))
        replies = await asyncio.gather(
            *(self._send_together([commands[place] for place in group]) for group in groups), return_exceptions=True
        )
        results: list[Any] = [None] * len(commands)
        for group, reply in zip(groups, replies, strict=True):
            own = [reply] * len(group) if isinstance(reply, BaseException) else reply
            for place, result in zip(group, own, strict=True):
                results[place] = result
        errors = [reply for reply in replies if isinstance(reply, BaseException)]
        if errors or any(isinstance(result, exceptions.ConnectionError) for result in results):
            self._renew_later()
        if errors and len(errors) == len(replies):
            raise errors[0]
        return results

    async def _send_together(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            anywhere = {"target_nodes": "random"} if self.is_cluster and command[0] in _KEYLESS else {}
            pipeline.execute_command(*command, **anywhere)
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results

    def _renew_later(self) -> None:
        """Learn anew which nodes a Cluster has: redis-py does so only where a node answers with MOVED."""
        if self._renew is None or time.monotonic() - self._renewed < _PING_EVERY_S:
            return
        self._renewed = time.monotonic()
        self._renewing = asyncio.create_task(self._renew_now(self._renew))

    async def _renew_now(self, renew: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(exceptions.RedisError, OSError):
            await renew()

    def _judge(self, op: str, results: Sequence[Any], seconds: float) -> None:
        kinds = {_kind(result) if isinstance(result, Exception) else None for result in results}
        is_down = bool(kinds & _DOWN_KINDS) and None not in kinds  # else some nodes of a Cluster answered
        if (op in _QUICK_OPS and seconds > self._slow_s) or is_down:
            self.breaker.record_failure()
        else:
            self._last_success = time.monotonic()
            self.breaker.record_success()

    def _failed(self, kind: str, timeout_s: float) -> StoreError:
        if self._is_starting:
            return StoreError(kind)
        self._on_error(kind)
        if kind != "timeout":
            self.breaker.record_failure()
            return StoreError(kind)
        if timeout_s >= _PATIENT_SHARE * self._slow_s:
            self.breaker.record_failure()
        return StoreTimeoutError()

    async def _watch(self) -> None:
        while True:
            idle = self.breaker.is_closed and time.monotonic() - self._last_success > _PING_EVERY_S
            if idle or self.breaker.begin_probe():
                with contextlib.suppress(StoreError):
                    await self._attempt("ping", [("PING",)], self._slow_s)
            await asyncio.sleep(_PROBE_EVERY_S)


def _by_node(client: RedisCluster, commands: Sequence[Command]) -> Iterable[list[int]]:
    """Return the places of the commands for each node: one that is gone takes nothing from the others."""
    groups: dict[str, list[int]] = {}
    for place, command in enumerate(commands):
        name = ""
        if command[0] not in _KEYLESS:
            key = command[3 if command[0] in _SCRIPTS else 1]
            with contextlib.suppress(exceptions.SlotNotCoveredError):
                node = client.get_node_from_key(key)
                name = node.name if node else name
        groups.setdefault(name, []).append(place)
    return groups.values()


_PREFIXES = {
    "WRONGTYPE": "wrongtype", "OOM": "oom", "NOPERM": "noperm", "NOAUTH": "noauth", "WRONGPASS": "noauth",
    "READONLY": "readonly", "MISCONF": "readonly", "LOADING": "loading",
}  # fmt: skip
_CLASSES: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionFullError, "pool_exhausted"),
    (exceptions.NoScriptError, "noscript"),
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.OutOfMemoryError, "oom"),
    (exceptions.ReadOnlyError, "readonly"),
    (exceptions.NoPermissionError, "noperm"),
    (exceptions.AuthenticationError, "noauth"),
    (exceptions.MaxConnectionsError, "pool_exhausted"),
    (exceptions.TimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (exceptions.ConnectionError, "connection"),
    (OSError, "connection"),
)


def _kind(exc: BaseException) -> str:
    """The label of store_errors_total: by the server's error prefix, else by the class."""
    for part in str(exc).split(" ")[:3]:
        if part in _PREFIXES:
            return _PREFIXES[part]
    return next((kind for cls, kind in _CLASSES if isinstance(exc, cls)), "other")
