"""A small HTTP/1.1 client for benchmarks: a connection is kept alive and takes one request at a time.

It costs little per request, so that the load generator is not what limits a measurement. It follows no redirects.
"""

import asyncio
import ssl
from typing import cast
from urllib.parse import SplitResult, urlsplit

import httptools

from service.errors import StartError

_CONNECT_S = 5.0


class Target:
    """A service to ask: its address, and how requests to it are written."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """url: http or https. key: sent as X-API-Key if it is given. Raises StartError unless url is such a URL."""
        self.url = url.rstrip("/")
        address = _split(self.url)
        self.host, self.is_tls = str(address.hostname), address.scheme == "https"
        self.port = address.port or (443 if self.is_tls else 80)
        self._path = address.path
        self._head = f"Host: {address.netloc}\r\n" + (f"X-API-Key: {key}\r\n" if key else "")

    def post(self, path: str, body: bytes) -> bytes:
        """Return the bytes of a POST request with a JSON body."""
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._head}Content-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def get(self, path: str) -> bytes:
        """Return the bytes of a GET request."""
        return f"GET {self._path}{path} HTTP/1.1\r\n{self._head}\r\n".encode()

    async def connect(self) -> "Caller":
        """Open a connection. Raises OSError, TimeoutError after 5 s."""
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if self.is_tls else None
        async with asyncio.timeout(_CONNECT_S):
            _, caller = await loop.create_connection(Caller, self.host, self.port, ssl=context)
        return caller


class Caller(asyncio.Protocol):
    """One connection. is_open: whether it can take another request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser, self._body = httptools.HttpResponseParser(self), bytearray()
        self.is_open = False

    async def ask(self, request: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Send a request and return the status and the body of its answer.

        Raises TimeoutError after timeout_s, another OSError if the connection fails. It is then closed.
        """
        self._answer = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, self._give_up)
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close the connection at once."""
        self.is_open = False
        self._transport.abort()

    def _give_up(self) -> None:
        self._fail(TimeoutError("no answer"))
        self.close()

    def _fail(self, exc: OSError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this."""
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits, if there is one; asyncio calls this."""
        self.is_open = False
        self._fail(ConnectionResetError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; asyncio calls this."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(ConnectionResetError("the answer is not HTTP"))
            self.close()

    def on_body(self, body: bytes) -> None:
        """Keep some of an answer's body; the parser calls this."""
        self._body += body

    def on_message_complete(self) -> None:
        """Hand the answer to whoever asked; the parser calls this."""
        status, body = self._parser.get_status_code(), bytes(self._body)
        if not self._parser.should_keep_alive():
            self.is_open = False
        self._parser, self._body = httptools.HttpResponseParser(self), bytearray()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))


def _split(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        is_url = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise StartError(f"--url: {url!r} is not a URL like http://127.0.0.1:8000")
    return address
