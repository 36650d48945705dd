"""The client of the Redis-protocol server: bounded calls that fail quickly and are never retried.

Every call is one pipeline, which is one round trip. Its caller gives it a time limit; a cap bounds the calls in flight;
while the breaker is open a call fails at once. A connection whose call was cut off is closed and never used again. For
the breaker a call counts as failed if it was slower than slow_s, even where its caller could have waited longer. A
caller that has much less time than slow_s cannot open the breaker for the others. Nor can a node of a Cluster that is
gone or hangs, while another one answers.

A reply of another type than its command has, or a larger one than was asked for, is an error of kind "decode". The
breaker is told, and the connection is dropped, because nobody knows what comes next on it.

Reads and pings go over a StoreConnection where the address allows one (see address). All other calls go through
redis-py.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from service.errors import BreakerOpenError, StoreError, StoreTimeoutError
from service.store.address import open_address
from service.store.breaker import Breaker
from service.store.connection import Command
from service.store.guard import MOST_BYTES
from service.store.parser import REPLY_BYTES
from service.store.pipeline import Pipelines
from service.store.reply import UNDECODABLE, UNKNOWN_SCRIPT, Reply, is_of_its_type, kind_of
from service.store.words import words_of
from service.task import end_task, keep_going

_SLOT_SHARE = 0.25
_PATIENT_SHARE = 0.75  # of slow_s: a default request has waited for its batch before it asks
_PROBE_EVERY_S = 0.05
_PING_EVERY_S = 1.0
_NODES_ANSWER_S = 1.0
"""As long as a node of a Cluster has answered, the failures of another one are not the Cluster's."""
_QUICK_OPS = frozenset({"read", "ping"})  # the others may carry a thousand events
# The breaker counts these as failures of the server. All other kinds concern one key, or writes alone.
_DOWN_KINDS = frozenset({"timeout", "connection", "loading", "noauth", "noperm", "other"})


class Store:
    """A bounded pool of connections to one server or Cluster. Its owner calls open(), and close() at the end.

    op, of every call: the label of store_operation_duration_seconds. most_bytes: of one reply.
    """

    def __init__(
        self,
        url: str,
        *,
        max_connections: int,
        slow_s: float,
        breaker: Breaker,
        on_call: Callable[[str, float], None] = lambda op, seconds: None,
        on_error: Callable[[StoreError], None] = lambda error: None,
    ) -> None:
        """Connects to nothing yet. Raises StartError if the URL cannot be read.

        url: see address. slow_s: the time that the default budget leaves for the store. on_call: is told the op and the
        seconds of every call that was answered. on_error: is told every error; its kind is a label of
        store_errors_total.
        """
        self.breaker = breaker
        self._slow_s = slow_s
        self._slots = asyncio.Semaphore(max_connections)
        self._on_call = on_call
        self._on_error = on_error
        self._is_starting = False
        address = open_address(url, max_connections)
        self._secrets = address.secrets
        self.last_words = ""
        self._pipelines, self._connection = Pipelines(address, _PATIENT_SHARE * slow_s), address.connection
        self._last_success = 0.0
        self._watch_task: asyncio.Task[None] | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether keys without a common hash tag may lie on different nodes."""
        return self._pipelines.is_cluster

    def open(self) -> None:
        """Begin to watch the server: send a ping when nothing else is sent, and the breaker's probes."""
        self._watch_task = asyncio.create_task(keep_going("the watch of the store", self._watch))

    async def close(self) -> None:
        """Stop watching and close every connection."""
        if self._watch_task is not None:
            await end_task(self._watch_task)
        if self._connection is not None:
            await self._connection.close()
        try:
            await self._pipelines.close()
        except Exception as exc:  # the border: a failing close hides nothing else
            self._count(self._error(exc))

    async def call(
        self, op: str, commands: Sequence[Command], timeout_s: float, *, most_bytes: int = MOST_BYTES
    ) -> list[Reply]:
        """Send commands in one round trip and return their replies.

        Raises BreakerOpenError at once, StoreTimeoutError within timeout_s, and StoreError for everything else, also if
        a single command fails; the server may have run the others.
        """
        return self._require(await self._ask(op, commands, timeout_s, most_bytes))

    async def call_one(self, op: str, command: Command, timeout_s: float, *, most_bytes: int = MOST_BYTES) -> Reply:
        """Send one command and return its reply. Raises StoreError, see call."""
        (reply,) = await self.call(op, [command], timeout_s, most_bytes=most_bytes)
        return reply

    async def call_each(
        self, op: str, groups: Sequence[Sequence[Command]], timeout_s: float, *, most_bytes: int = MOST_BYTES
    ) -> list[list[Reply]]:
        """Send groups of commands in one round trip and return the replies of each group.

        For callers who can use a part of the replies, because a key of the wrong type concerns one user, and a node of
        a Cluster some of them. So the error of a single command stands in the place of its reply, as a StoreError; each
        kind is counted once a group. What concerns all commands is raised, see call.
        """
        commands = [command for group in groups for command in group]
        replies = await self._ask(op, commands, timeout_s, most_bytes)
        found, end = [], 0
        for group in groups:
            start, end = end, end + len(group)
            found.append(replies[start:end])
        if any(isinstance(reply, StoreError) for reply in replies):
            for own in found:
                for error in {reply.kind: reply for reply in own if isinstance(reply, StoreError)}.values():
                    self._count(error)
        return found

    async def call_script(self, op: str, script: str, arguments: Iterable[Command], timeout_s: float) -> list[Reply]:
        """Run a script once for each tuple of arguments (number of keys, keys, values) and return what it returned.

        The script's text is sent only where the server does not know it yet. Whoever runs it says by require() whether
        its replies are what the script returns. Raises StoreError, see call.
        """
        listed = list(arguments)
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        replies = await self._ask(op, [("EVALSHA", digest, *each) for each in listed], timeout_s)
        unknown = [
            place
            for place, reply in enumerate(replies)
            if isinstance(reply, StoreError) and reply.kind == UNKNOWN_SCRIPT
        ]
        if unknown:
            again = await self._ask(op, [("EVAL", script, *listed[place]) for place in unknown], timeout_s)
            for place, reply in zip(unknown, again, strict=True):
                replies[place] = reply
        return self._require(replies)

    async def require(self, *are_right: bool) -> None:
        """Raise the StoreError of an undecodable reply unless all are true."""
        if not all(are_right):
            raise await self.undecodable()

    async def ask_aside(self, command: Command, timeout_s: float) -> Reply:
        """Send one command beside all calls, because it may wait at the server for long. Raises StoreError.

        It takes no place among the calls in flight. The breaker does not hold it back, and learns nothing from it.
        """
        try:
            (result,) = await self._pipelines.send([command], timeout_s)
        except Exception as exc:  # as in _attempt
            raise self._error(exc) from exc
        if isinstance(result, Exception):
            error = self._error(result)
            self._count(error)
            raise error from result
        return result

    async def wait_until_up(self, timeout_s: float) -> bool:
        """Return whether the server answers a ping within timeout_s; if not, the breaker is opened."""
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
            (reply,) = await self._attempt("ping", [("PING",)], 0.25)
        except StoreError:
            return False
        if isinstance(reply, StoreError):
            self.last_words = str(reply)
        return not isinstance(reply, StoreError)

    def count_undecodable(self) -> None:
        """Count a value in the store that is not what this service writes."""
        self._count(StoreError(UNDECODABLE))

    async def undecodable(self) -> StoreError:
        """Count a reply that cannot be the server's to what was asked, tell the breaker, and return the error."""
        error = StoreError(UNDECODABLE)
        self._count(error)
        self.breaker.record_failure(is_counted_as_success=True)
        await self._drop()
        return error

    def _require(self, replies: list[Reply]) -> list[Reply]:
        """Return replies of which none is an error; count and raise the first one that is."""
        for reply in replies:
            if isinstance(reply, StoreError):
                self._count(reply)
                raise reply
        return replies

    async def _ask(
        self, op: str, commands: Sequence[Command], timeout_s: float, most_bytes: int = MOST_BYTES
    ) -> list[Reply]:
        if not self.breaker.is_closed:
            raise BreakerOpenError
        return await self._attempt(op, commands, timeout_s, most_bytes)

    async def _attempt(
        self, op: str, commands: Sequence[Command], timeout_s: float, most_bytes: int = MOST_BYTES
    ) -> list[Reply]:
        """Send commands whatever the breaker says; a single command's error stands uncounted in its reply's place."""
        start = time.monotonic()
        try:
            if self._connection is not None and op in _QUICK_OPS:
                results = await self._connection.ask(commands, timeout_s, most_bytes)
            else:
                REPLY_BYTES.set(most_bytes)
                results = await self._send_in_slot(commands, timeout_s)
        except StoreError:
            raise
        except Exception as exc:  # redis-py on asyncio has raised TypeError and AttributeError for a peer's reset
            raise self._failed(self._error(exc), timeout_s) from exc
        seconds = time.monotonic() - start
        self._on_call(op, seconds)
        replies = [
            result if is_of_its_type(command, result) else self._as_error(result)
            for command, result in zip(commands, results, strict=True)
        ]
        if self._judge(op, replies, seconds):
            await self._drop()
        return replies

    async def _drop(self) -> None:
        """Close the connections that are open: what one of them says next may be the reply to another call."""
        if self._connection is not None:
            self._connection.drop()
        await self._pipelines.drop()

    async def _send_in_slot(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        start = time.monotonic()
        await self._take_slot(timeout_s)
        try:
            return await self._pipelines.send(commands, max(0.0, timeout_s - (time.monotonic() - start)))
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
            error = StoreError("pool_exhausted")
            self._count(error)
            raise error from None

    def _judge(self, op: str, replies: Sequence[Reply], seconds: float) -> bool:
        """Tell the breaker how a call that was answered went; return whether a reply was undecodable."""
        kinds = {reply.kind if isinstance(reply, StoreError) else None for reply in replies}
        is_down = bool(kinds & _DOWN_KINDS)
        is_in_part = is_down and None in kinds  # some nodes of a Cluster answered, and these were not the slow ones
        is_slow = op in _QUICK_OPS and seconds > self._slow_s
        if ((is_slow or is_down) and not is_in_part) or UNDECODABLE in kinds:
            self._record_failure()
        else:
            self._last_success = time.monotonic()
            self.breaker.record_success()
        return UNDECODABLE in kinds

    def _failed(self, error: StoreError, timeout_s: float) -> StoreError:
        """Count a call that was not answered, tell the breaker, and return the error to raise."""
        if self._is_starting:
            self.last_words = str(error)
            return error
        self._count(error)
        if error.kind != "timeout":
            self._record_failure()
            return error
        if timeout_s >= _PATIENT_SHARE * self._slow_s:
            self._record_failure()
        return StoreTimeoutError()

    def _record_failure(self) -> None:
        """Tell the breaker, unless it is one node's failure and another one has just answered."""
        others_answer = self.is_cluster and time.monotonic() - self._last_success < _NODES_ANSWER_S
        if not (others_answer and self.breaker.is_closed):
            self.breaker.record_failure()

    def _error(self, exc: BaseException) -> StoreError:
        return StoreError(kind_of(exc), words_of(exc, self._secrets))

    def _as_error(self, result: Any) -> StoreError:
        """Return the StoreError that a reply is, also where it is none that its command can have."""
        return self._error(result) if isinstance(result, Exception) else StoreError(UNDECODABLE)

    def _count(self, error: StoreError) -> None:
        if error.kind in _DOWN_KINDS:
            self.last_words = str(error)
        self._on_error(error)

    async def _watch(self) -> None:
        while True:
            idle = self.breaker.is_closed and time.monotonic() - self._last_success > _PING_EVERY_S
            if idle or self.breaker.begin_probe():
                with contextlib.suppress(StoreError):
                    await self._attempt("ping", [("PING",)], self._slow_s)
            await asyncio.sleep(_PROBE_EVERY_S)
