"""A server of the Redis protocol that answers nonsense, on a real socket."""

import asyncio
import threading
from types import TracebackType

import hiredis

from tests.service.running import DEADLINE_S

PIECE = b"x" * (1 << 20)


class Hostile:
    """A server of the Redis protocol on a TCP port that answers whatever it is told to; PING it answers rightly."""

    def __init__(self) -> None:
        self.reply = b"+OK\r\n"
        self.tail_bytes = 0
        self.n_sent = self.n_connections = 0
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> "Hostile":
        self._thread.start()
        assert self._is_open.wait(DEADLINE_S)
        return self

    def __exit__(self, kind: type | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(DEADLINE_S)

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._is_open.set()
        await self._done.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        commands = hiredis.Reader()
        try:
            while data := await reader.read(65536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    await self._say(command, writer)
        except (ConnectionError, hiredis.ProtocolError):
            pass
        finally:
            writer.close()

    async def _say(self, command: list[bytes], writer: asyncio.StreamWriter) -> None:
        if command[0] == b"PING":
            writer.write(b"+PONG\r\n")
            return
        writer.write(self.reply)
        left = self.tail_bytes
        while left > 0:
            writer.write(PIECE)
            await writer.drain()
            left -= len(PIECE)
            self.n_sent += len(PIECE)


REPLIES = {
    "integer": b":1\r\n",
    "negative integer": b":-7\r\n",
    "integer of 64 bits": b":9223372036854775807\r\n",
    "integer too large": b":99999999999999999999\r\n",
    "null bulk": b"$-1\r\n",
    "null array": b"*-1\r\n",
    "empty array": b"*0\r\n",
    "text": b"+OK\r\n",
    "bulk": b"$3\r\nabc\r\n",
    "bulk of no length": b"$abc\r\n",
    "odd array": b"*1\r\n$3\r\nabc\r\n",
    "pair without a score": b"*2\r\n$3\r\nabc\r\n$3\r\nxyz\r\n",
    "integers": b"*2\r\n:1\r\n:2\r\n",
    "too many integers": b"*9\r\n" + b":1\r\n" * 9,
    "nested": b"*2\r\n*2\r\n:1\r\n$1\r\na\r\n*0\r\n",
    "entries": b"*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$5\r\nevent\r\n$1\r\n{\r\n",
    "entries without a number": b"*1\r\n*2\r\n$3\r\nabc\r\n*2\r\n$5\r\nevent\r\n$1\r\n{\r\n",
    "array with nulls": b"*2\r\n$-1\r\n$-1\r\n",
    "array with an error": b"*2\r\n-ERR no\r\n$1\r\n1\r\n",
    "deep": b"*1\r\n" * 40 + b":1\r\n",
    "map": b"%1\r\n+a\r\n+b\r\n",
    "map with a list as key": b"%1\r\n*0\r\n+b\r\n",
    "set": b"~1\r\n+a\r\n",
    "push": b">2\r\n+a\r\n+b\r\n",
    "double": b",1.5\r\n",
    "not a number": b",nan\r\n",
    "boolean": b"#t\r\n",
    "null": b"_\r\n",
    "large number": b"(123456789012345678901234567890\r\n",
    "error": b"-ERR something else\r\n",
    "error without a word": b"-\r\n",
    "not text": b"-\xff\xfe\r\n",
    "another protocol": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "two replies": b":1\r\n:1\r\n:1\r\n:1\r\n",
    "claims two milliards": b"*2147483647\r\n",
    "claims two milliards inside": b"*1\r\n*2147483647\r\n",
}
"""What it may answer to every command but PING."""
