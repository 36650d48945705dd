"""uvicorn's connection, which also answers the usual request at once, knows callers that are gone, and refuses cheaply.

The usual request for recommendations comes in one piece, and nothing in it needs a parser of all of HTTP. It is
answered without one, and without ASGI's task, scope, receive and send, which together take as long as a search. What is
unusual in any way is left to uvicorn.

A refusal is written before a task or a request object exists, and, for a request in one piece, before it is parsed: at
a rate far above what can be answered, that is the difference between answering some and none.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.message import RawHeaders, Reply, write_reply
from service.http.trace import Trace

_HEAD = re.compile(rb"POST (/[!-~]*) HTTP/1\.1\r\n((?:[\w-]+: ?[!-~][ -~]*\r\n)+)\r\n")
_FIELD = re.compile(rb"([^:]+): ?([^\r]+)\r\n")
_UNUSUAL = {b"transfer-encoding", b"upgrade", b"expect", b"proxy-connection"}
_MAX_DIGITS = 9


@dataclass(slots=True)
class Post:
    """A POST request that came in one piece. headers: by their names in lower case."""

    url: bytes
    headers: Mapping[bytes, bytes]
    body: bytes


@dataclass(slots=True)
class _Exchange:
    """A request that is answered without ASGI, with all that uvicorn asks of the one in progress."""

    message_event: ClassVar = asyncio.Event()  # nobody waits for it
    scope: dict[str, Any] = field(default_factory=dict)
    keep_alive: bool = True
    disconnected: bool = False
    response_complete: bool = False


class Entrance(Protocol):
    """What a connection asks of the application behind it, which is the gate."""

    @property
    def is_full(self) -> bool:
        """Whether some request would be refused."""

    def refuse(self, url: bytes, method: str) -> bytes | None:
        """Return the whole reply for a request that is one too many; else None."""

    def admit(self, scope: Any) -> Any:
        """Count a request in, before its task runs."""

    def answer(self, headers: RawHeaders, client: Any, body: bytes, reply: Reply) -> Trace:
        """Answer POST /recommend with a body that is already here; reply is called once, now or later."""


class Connection(HttpToolsProtocol):
    """One connection of a caller. The application it is configured with must be an Entrance."""

    cycle: Any
    _refusal: bytes | None = None
    _is_between = True  # nothing of a request has come that is not whole
    _is_used = False  # something was refused since the timer of an idle connection began

    def data_received(self, data: bytes) -> None:
        """Answer or refuse one whole request, or let what came be parsed."""
        post = read_post(data) if self._is_between and self._is_free() and not self.flow.write_paused else None
        if post is None:
            super().data_received(data)
            return
        gate = cast(Entrance, self.app)
        refusal = gate.refuse(post.url, "POST") if gate.is_full else None
        if refusal is not None:
            self.transport.write(refusal)
            self._is_used = True
        elif post.url == b"/recommend" and post.headers.get(b"content-type") == b"application/json":
            self._answer(post)
        else:
            super().data_received(data)

    def _answer(self, post: Post) -> None:
        self._unset_keepalive_if_required()
        self.cycle = exchange = _Exchange()
        reply = partial(self._reply, exchange)
        gate = cast(Entrance, self.app)
        exchange.scope["retort"] = gate.answer(list(post.headers.items()), self.client, post.body, reply)

    def _reply(self, exchange: _Exchange, status: int, body: bytes, headers: RawHeaders) -> None:
        if exchange.disconnected or self.transport.is_closing():
            return
        headers = [*self.server_state.default_headers, *headers]
        if not exchange.keep_alive:
            headers.append((b"connection", b"close"))
        self.transport.write(write_reply(STATUS_LINE[status], body, headers))
        exchange.response_complete = True
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one that was only refused since then is not idle."""
        if self._is_used and not self.transport.is_closing():
            self._is_used = False
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            return
        super().timeout_keep_alive_handler()

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        self._is_between = False
        super().on_message_begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request in progress, if any."""
        if self.cycle is not None and not self.cycle.response_complete:
            trace: Any = self.cycle.scope.get("retort")
            if trace is not None:
                trace.is_gone = True
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Begin a request, unless it is refused and nothing is in progress on this connection."""
        gate = cast(Entrance, self.app)
        is_free = self._is_free()
        is_to_ask = is_free and not self.expect_100_continue
        self._refusal = gate.refuse(self.url, self.parser.get_method().decode("ascii")) if is_to_ask else None
        if self._refusal is None:
            super().on_headers_complete()
            if is_free:  # its task is made; that of another waits for the answer before it, or is never made
                gate.admit(self.scope)

    def on_body(self, body: bytes) -> None:
        """Take or skip a part of the body."""
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Start the request's work, or write the refusal."""
        self._is_between = True
        if self._refusal is None:
            super().on_message_complete()
            return
        self.transport.write(self._refusal)
        if not self.parser.should_keep_alive():
            self.transport.close()
        else:
            self.on_response_complete()

    def _is_free(self) -> bool:
        """Whether nothing is in progress."""
        return self.cycle is None or self.cycle.response_complete


def read_post(data: bytes) -> Post | None:
    """Return the request where data are one whole POST request and nothing more; None where that is not sure."""
    head = _HEAD.match(data)
    if head is None:
        return None
    fields = _FIELD.findall(head[2])
    headers = {name.lower(): value for name, value in fields}
    length = headers.get(b"content-length", b"")
    if len(headers) < len(fields) or not _UNUSUAL.isdisjoint(headers) or len(length) > _MAX_DIGITS:
        return None
    if headers.get(b"connection", b"keep-alive") != b"keep-alive" or not length.isdigit():
        return None
    return Post(head[1], headers, data[head.end() :]) if int(length) == len(data) - head.end() else None
