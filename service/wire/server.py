"""uvicorn's server with a gentle end, and the socket that it listens on."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn

from service.errors import StartError
from service.wire.connection import Connection
from service.wire.crowd import Crowd
from service.wire.lane import Lane
from service.wire.reply import SECURITY_HEADERS

BACKLOG = 2048
_LAST_READ_S = 0.1


@dataclass(frozen=True, slots=True)
class ServerRule:
    """How a server treats its connections.

    drain_s: how long it serves on after the first signal. shutdown_s: how long requests in progress may take after
    that. keep_alive_s: how long a connection may be idle. root_path: a prefix of every path, which is cut off.
    """

    drain_s: float
    shutdown_s: int
    keep_alive_s: int
    root_path: str


class Server(uvicorn.Server):
    """uvicorn's server, which on SIGTERM first says that it is not ready, serves on for a moment, and exits with 0."""

    def __init__(self, app: Any, crowd: Crowd, on_drain: Callable[[], None], rule: ServerRule) -> None:
        """app: an Entrance. crowd: the connections. on_drain: called at the first signal."""
        lane = Lane()
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(Any, partial(Connection, crowd=crowd, lane=lane)),
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                headers=[(name.decode(), value.decode()) for name, value in SECURITY_HEADERS],
                root_path=rule.root_path,
                timeout_graceful_shutdown=rule.shutdown_s,
                timeout_keep_alive=rule.keep_alive_s,
            )
        )
        self._crowd, self._lane, self._on_drain, self._drain_s = crowd, lane, on_drain, rule.drain_s
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to drain; a second signal ends the draining, a third the waiting."""
        self._on_drain()
        self._crowd.drain()
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self._drain_s
        elif not self.should_exit:
            self.should_exit = True
        else:
            self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, with nobody left who had connected already, and end as uvicorn does.

        The kernel resets connections that nobody has accepted when their socket is closed: a proxy would answer 502.
        """
        listeners = [listener.dup() for listener in sockets or []]  # the loop closes those that it was given
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)
        for listener in listeners:
            await self._accept_last(listener)
        await asyncio.sleep(_LAST_READ_S)  # what they sent is read; a connection that says nothing is closed then
        await super().shutdown()

    async def _accept_last(self, listener: socket.socket) -> None:
        accepted: list[socket.socket] = []
        listener.setblocking(False)
        with contextlib.suppress(OSError):
            while len(accepted) < BACKLOG:
                accepted.append(listener.accept()[0])
        listener.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self._make_connection, connection)

    def _make_connection(self) -> Connection:
        return Connection(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            crowd=self._crowd,
            lane=self._lane,
        )

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now."""
        is_over = self._stop_at is not None and time.monotonic() >= self._stop_at
        return await super().on_tick(counter) or is_over


def address_of(listener: socket.socket) -> dict[str, str | int]:
    """Return url, host and port of a listening socket."""
    host, port = listener.getsockname()[:2]
    return {"url": f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", "host": host, "port": port}


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket. Raises StartError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as exc:
        raise StartError(f"cannot listen on {host} port {port}: {exc.strerror}") from exc
    return listener


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop: uvloop's where it is installed."""
    return uvicorn.Config(bind, loop="auto", log_config=None).get_loop_factory()
