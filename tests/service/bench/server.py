"""Servers of a test's own, to be asked by a load."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from service.bench.client import Target

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
FULL = b'{"quality":{"level":"full","reasons":[]}}'


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Target]:
    """A server whose every connection has ended when this does: one still open would be the next test's warning."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with asyncio.timeout(30):
        while connections := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(connections)


@asynccontextmanager
async def answering(status: int = 200, stall_s: float = 0.0) -> AsyncIterator[Target]:
    """A server that stalls altogether once, at its first request, and otherwise answers at once."""
    may_answer = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
                asyncio.get_running_loop().call_later(stall_s, may_answer.set)
                await may_answer.wait()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(FULL), FULL))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with serving(serve) as target:
        yield target
