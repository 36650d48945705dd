"""A lean connection to a Redis-protocol server: one socket, many calls in flight, answered in order.

Reads and pings use it, because redis-py's pipeline takes too much of the time that an answer has. Replies are matched
to calls by their place in the queue. So a call that gave up waiting is no reason to reconnect: its late reply is thrown
away, and no reply can reach another call. A connection that stays silent for longer than SILENT_S is cut, and the next
call makes a new one. So is one that sends what is no reply, or more than was asked for (see guard).
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import hiredis

from service.store.guard import MOST_BYTES, ReplyGuard, UndecodableError
from service.task import end_task

SILENT_S = 1.0
_ONE_MORE_LOOK_S = 0.001  # after 0 s a timer would run before the sockets are looked at
Command = tuple[Any, ...]
"""The name of a command and its arguments: bytes, text or numbers."""
Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[Any]]


class ConnectionFullError(Exception):
    """Too many calls wait for their replies already."""


class _Call:
    __slots__ = ("future", "most_bytes", "n_replies", "replies", "sent")

    def __init__(self, n_replies: int, most_bytes: int, future: "asyncio.Future[list[Any]]") -> None:
        self.n_replies, self.most_bytes, self.future = n_replies, most_bytes, future
        self.replies: list[Any] = []
        self.sent = time.monotonic()


class StoreConnection:
    """One connection. It is made at the first call, and again at the next call after it was lost."""

    def __init__(
        self,
        connect: Connect,
        greeting: Sequence[Command],
        reply_error: Callable[[str], Exception],
        *,
        max_pending: int = 32,
    ) -> None:
        """connect: opens a socket for what a protocol factory makes. greeting: commands sent first, which must succeed.

        reply_error: makes an error reply of its text. max_pending: how many calls may wait for their replies.
        """
        self._connect, self._greeting, self._reply_error = connect, greeting, reply_error
        self._max_pending = max_pending
        self._open: _Protocol | None = None
        self._opening: asyncio.Task[_Protocol] | None = None

    async def ask(self, commands: Sequence[Command], timeout_s: float, most_bytes: int = MOST_BYTES) -> list[Any]:
        """Send commands together and return one reply for each; an error reply is a value.

        most_bytes: of one reply. Raises TimeoutError, OSError, ConnectionFullError, UndecodableError, or the error
        reply to the greeting. Where the server has closed the connection, the commands are sent once more, on a new
        one.
        """
        until = time.monotonic() + timeout_s
        known = self._open
        if known is None or known.is_lost:
            return await self._ask_anew(commands, until, most_bytes)
        try:
            return await known.ask(commands, timeout_s, most_bytes)
        except ConnectionResetError:
            return await self._ask_anew(commands, until, most_bytes)

    def drop(self) -> None:
        """Cut the connection; the next call makes a new one."""
        if self._open is not None:
            self._open.cut()

    async def close(self) -> None:
        """Cut the connection."""
        if self._opening is not None:
            await end_task(self._opening)
        if self._open is not None:
            await self._open.close()

    async def _ask_anew(self, commands: Sequence[Command], until: float, most_bytes: int) -> list[Any]:
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._establish())
            self._opening.add_done_callback(_take_note)
        async with asyncio.timeout(until - time.monotonic()):
            protocol = await asyncio.shield(self._opening)
        return await protocol.ask(commands, until - time.monotonic(), most_bytes)

    async def _establish(self) -> "_Protocol":
        protocol = _Protocol(self._reply_error, self._max_pending)
        try:
            async with asyncio.timeout(SILENT_S):
                await self._connect(lambda: protocol)
                if self._greeting:
                    for reply in await protocol.ask(self._greeting, SILENT_S, MOST_BYTES):
                        if isinstance(reply, Exception):
                            raise reply
        except BaseException:
            protocol.cut()  # a server that accepts and never answers must not collect sockets
            raise
        self._open = protocol
        return protocol


class _Protocol(asyncio.Protocol):
    def __init__(self, reply_error: Callable[[str], Exception], max_pending: int) -> None:
        self._max_pending = max_pending
        self._reader = hiredis.Reader(replyError=reply_error)
        self._guard = ReplyGuard()
        self._pending: deque[_Call] = deque()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()

    async def ask(self, commands: Sequence[Command], timeout_s: float, most_bytes: int) -> list[Any]:
        if self._transport is None or self.is_lost:
            raise ConnectionResetError("the connection is gone")
        if self._pending and time.monotonic() - self._pending[0].sent > SILENT_S:
            self.cut()
            raise TimeoutError
        if len(self._pending) >= self._max_pending:
            raise ConnectionFullError
        call = _Call(len(commands), most_bytes, self._loop.create_future())
        self._pending.append(call)
        self._transport.write(b"".join(map(hiredis.pack_command, commands)))
        timer = self._loop.call_later(max(0.0, timeout_s), self._look_again, call.future)
        try:
            return await call.future
        finally:
            timer.cancel()

    def _look_again(self, future: "asyncio.Future[list[Any]]") -> None:
        """Give up after one more look at the socket: where this loop was late, the reply may lie there unread."""
        self._loop.call_later(_ONE_MORE_LOOK_S, _give_up, future)

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        self.cut()
        await self._lost.wait()

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._guard.look(data, self._pending[0].most_bytes if self._pending else 0)
            self._reader.feed(data)
            self._hand_out(len(data))
        except (UndecodableError, hiredis.HiredisError, TypeError, MemoryError) as exc:  # TypeError: keys of a map
            self._fail(UndecodableError(str(exc)))

    def _hand_out(self, n_bytes: int) -> None:
        while (reply := self._reader.gets()) is not False:
            if not self._pending:
                raise UndecodableError("a reply that nobody asked for")
            self._guard.note_replies(n_bytes if self._reader.has_data() else 0)
            call = self._pending[0]
            call.replies.append(reply)
            if len(call.replies) == call.n_replies:
                self._pending.popleft()
                if not call.future.done():
                    call.future.set_result(call.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self._fail(ConnectionResetError("the connection was lost"))

    def _fail(self, exc: Exception) -> None:
        """Cut the connection, and let every call that waits for it fail."""
        self.cut()
        for call in self._pending:
            if not call.future.done():
                call.future.set_exception(exc)
        self._pending.clear()


def _take_note(opening: "asyncio.Task[_Protocol]") -> None:
    """Retrieve the error of an attempt to connect: those who waited for it may all have gone."""
    if not opening.cancelled():
        opening.exception()


def _give_up(future: "asyncio.Future[list[Any]]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())
