"""uvicorn's connection, with a strict parser, bounded in every direction, and a short way for the usual request.

The usual request for recommendations comes in one piece, and nothing in it needs a parser of all of HTTP. It is
answered without one, and without ASGI's task, scope, receive and send, which together take as long as a search.
Everything else goes through `RequestParser` and uvicorn's request cycle, one request of a connection at a time: what a
caller sends beyond that stays in the socket.

A refusal is written before a task or a request object exists, and, for a request in one piece, before it is parsed: at
a rate far above what can be answered, that is the difference between answering some and none.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import RequestError
from service.wire.crowd import ANSWERING, IDLE, IN_BODY, IN_HEAD, Crowd
from service.wire.lane import Lane
from service.wire.lingering import LingeringTransport
from service.wire.path import split_target
from service.wire.reply import NOT_KEPT, CommonHead, RawHeaders, Reply, error_body, write_reply
from service.wire.request_parser import MalformedRequestError, RequestParser
from service.wire.trace import Trace
from service.wire.whole_post import Post, PostReader

HEAD_S = 10.0
BODY_S = 15.0
"""Longer than a route waits for a body, so that its 408 comes first."""
CODES = {408: "head_timeout", 431: "head_too_large"}
"""The codes of what is no request, by status; all others are malformed_request."""


@dataclass(slots=True)
class _Exchange:
    """A request that is answered without ASGI, with all that uvicorn asks of the one in progress."""

    message_event: ClassVar = asyncio.Event()  # nobody waits for it
    scope: dict[str, Any] = field(default_factory=dict)
    keep_alive: bool = True
    disconnected: bool = False
    response_complete: bool = False


class _Flow(FlowControl):
    """uvicorn's, which never reads more while bytes lie here that are not parsed."""

    def __init__(self, transport: Any, parser: RequestParser) -> None:
        super().__init__(transport)
        self._parser = parser

    def resume_reading(self) -> None:
        if not self._parser.has_waiting and not self._parser.is_behind:
            super().resume_reading()


class Entrance(Protocol):
    """What a connection asks of the application behind it, which is the gate."""

    @property
    def is_full(self) -> bool:
        """Whether some request would be refused."""

    def refuse(self, path: str, method: str) -> bytes | None:
        """Return the whole reply for a request that is one too many; else None."""

    def admit(self, scope: Any) -> None:
        """Note that a request has arrived, before its task runs."""

    def enter(self, scope: Any) -> None:
        """Give a request whose body is whole a place among the answers, or note that there is none."""

    def answer(self, headers: RawHeaders, client: Any, body: bytes, reply: Reply) -> Trace:
        """Answer POST /recommend with a body that is already here; reply is called once, now or later."""

    def malformed(self, status: int) -> None:
        """Count bytes that are no request."""


class Connection(HttpToolsProtocol):
    """One connection of a caller. The application it is configured with must be an Entrance."""

    cycle: Any
    transport: Any
    _common_head: ClassVar = CommonHead()

    def __init__(self, *arguments: Any, crowd: Crowd, lane: Lane, **named: Any) -> None:
        """crowd: all connections of this process. lane: its slow lane. The rest is uvicorn's."""
        super().__init__(*arguments, **named)
        self._crowd, self._lane = crowd, lane
        self._is_in_lane = False  # bytes wait to be parsed, and nothing more is read
        self._n_body = 0
        self._posts = PostReader()
        self._entrance = cast(Entrance, self.app)
        self._parser = self.parser = RequestParser(self)  # type: ignore[assignment]
        self._refusal: bytes | None = None
        self._is_used = False  # something was refused since the timer of an idle connection began
        self._is_wanted = True  # the caller wants to go on with the connection after this request
        self._patience: asyncio.TimerHandle | None = None
        self.quiet_since = self.loop.time()

    @property
    def phase(self) -> int:
        """What the connection is doing, as the crowd says it."""
        if self._parser.is_in_body:
            return IN_BODY
        if not self._is_free():
            return ANSWERING
        return IN_HEAD if self._parser.is_in_head else IDLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, unless there are too many of those that wait for an answer."""
        super().connection_made(cast(Any, LingeringTransport(transport)))
        self.flow = _Flow(self.transport, self._parser)
        if not self._crowd.admit(self):
            self._write_error(RequestError("overloaded", "too many connections", headers={"Retry-After": "1"}), 503)
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def end(self) -> None:
        """Close at once; there are better uses for the place."""
        self.transport.abort() if self._parser.is_in_body else self.transport.close()

    def drain(self) -> None:
        """Let the answer in progress, or the next one, be the last."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        """Answer or refuse one whole request, or let what came be parsed."""
        if self.transport.is_lingering:
            self.transport.drop(data)
            return
        is_free = self._is_free()
        post = self._posts.read(data) if is_free and self._parser.is_between and not self.flow.write_paused else None
        if post is None or not self._take(post):
            self._parse(data, is_free)

    def _take(self, post: Post) -> bool:
        """Answer or refuse a whole request at once; False where it is not one of those."""
        refusal = self._entrance.refuse(_path_of(post.url), "POST") if self._entrance.is_full else None
        if refusal is not None:
            self.transport.write(refusal)
            self._is_used = True
            if self._crowd.is_draining:
                self.transport.close()
            return True
        if post.url != b"/recommend" or post.headers.get(b"content-type") != b"application/json":
            return False
        self._unset_keepalive_if_required()
        self.cycle = exchange = _Exchange(keep_alive=not self._crowd.is_draining)
        reply = partial(self._reply, exchange)
        exchange.scope["retort"] = self._entrance.answer(list(post.headers.items()), self.client, post.body, reply)
        return True

    def _reply(self, exchange: _Exchange, status: int, body: bytes, headers: RawHeaders) -> None:
        if exchange.disconnected or self.transport.is_closing():
            return
        if not exchange.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        head = self._common_head.of(STATUS_LINE[status], self.server_state.default_headers)
        self.transport.write(write_reply(head, body, headers))
        exchange.response_complete = True
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _parse(self, data: bytes, is_free: bool) -> None:
        """Parse what came, or keep it and read no more while the request before it is being answered."""
        self._unset_keepalive_if_required()
        if self._is_in_lane:
            self._parser.take(data)
        elif is_free or self._parser.is_in_body:
            self._parser.take(data)
            self._wait_in_lane(self._lane.run)
        else:
            self._parser.hold(data)
            self.flow.pause_reading()

    def _wait_in_lane(self, run: Callable[[Callable[[], None]], None]) -> None:
        self._is_in_lane = True
        run(self._advance)
        if self._is_in_lane:
            self.flow.pause_reading()

    def _advance(self) -> None:
        """Parse one step of what came, and see to the next."""
        self._is_in_lane = False
        if self.transport.is_closing():
            return
        try:
            self._parser.next()
            if self._parser.is_behind:
                self._wait_in_lane(self._lane.run_later)
            else:
                self._go_on()
        except MalformedRequestError as exc:
            self._refuse_bytes(exc)

    def _go_on(self) -> None:
        """See to the requests that wait, or read on."""
        if self._parser.has_waiting:
            self.flow.pause_reading()
            if self._may_go_on():
                self._resume()
        elif self._is_free() or (self._parser.is_in_body and not self._is_body_full()):
            self.flow.resume_reading()
        self._be_patient()

    def _is_body_full(self) -> bool:
        """Whether so much of the body lies here that the application has to take some first."""
        return self._refusal is None and len(self.cycle.body) > HIGH_WATER_LIMIT

    def _may_go_on(self) -> bool:
        is_open = not (self.transport.is_closing() or self.flow.write_paused)
        return is_open and self._parser.has_waiting and self._is_free()

    def resume_writing(self) -> None:
        """Go on with the requests that wait, now that the caller reads what was answered."""
        super().resume_writing()
        if self._parser.has_waiting:
            self._resume()

    def _be_patient(self) -> None:
        """Give what has begun a while to come whole."""
        is_due = self._parser.is_in_head or self._parser.is_in_body
        if not is_due and self._patience is not None:
            self._patience.cancel()
            self._patience = None
        elif is_due and self._patience is None:
            self._patience = self.loop.call_later(HEAD_S, self._lose_patience)

    def _lose_patience(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        if self._parser.is_in_head:
            self._refuse_bytes(MalformedRequestError(408, "the head of the request took too long"))
        elif self._parser.is_in_body and self.loop.time() - self.quiet_since > BODY_S:
            self.transport.abort()
        elif self._parser.is_in_body:
            self._patience = self.loop.call_later(BODY_S, self._lose_patience)

    def _refuse_bytes(self, exc: MalformedRequestError) -> None:
        """Answer what is no request, and end the connection once the caller has stopped sending."""
        self._entrance.malformed(exc.status)
        if not self._is_free():
            if self.cycle.response_started:  # a second answer would be taken for that of the next request
                self.transport.abort()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.is_sending_expected = True
        self._write_error(RequestError(CODES.get(exc.status, "malformed_request"), str(exc)), exc.status)

    def _write_error(self, error: RequestError, status: int) -> None:
        headers = [*self.server_state.default_headers, (b"connection", b"close")]
        self.transport.write(write_reply(STATUS_LINE[status], error_body(error), headers))
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one that was only refused since then is not idle."""
        if self._is_used and not self.transport.is_closing():
            self._is_used = False
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            return
        super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request in progress, if any."""
        self._crowd.leave(self)
        self.transport.ended()
        if self._patience is not None:
            self._patience.cancel()
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            trace: Any = self.cycle.scope.get("retort")
            if trace is not None:
                trace.is_gone = True
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Begin a request, unless it is refused and nothing is in progress on this connection."""
        path, raw_path, query = split_target(self.url, self.root_path)
        self.quiet_since = self.loop.time()
        method = self._parser.get_method().decode("ascii")
        self._refusal = None if self.expect_100_continue else self._entrance.refuse(path, method)
        self._is_wanted = self._parser.should_keep_alive() and not self._crowd.is_draining
        if self._refusal is not None:
            return
        self.url = b"/"  # what uvicorn makes of it is replaced below
        super().on_headers_complete()
        self.scope["path"], self.scope["raw_path"], self.scope["query_string"] = path, raw_path, query
        self.cycle.default_headers = [each for each in self.cycle.default_headers if each != NOT_KEPT]  # see the gate
        self.cycle.keep_alive = self._is_wanted and self._parser.is_rest_small  # else a reply before the body ends it
        self.transport.is_sending_expected = True
        self._entrance.admit(self.scope)

    def on_body(self, body: bytes) -> None:
        """Take or skip a part of the body."""
        self._n_body += len(body)
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Start the request's work, or write the refusal."""
        self.quiet_since = self.loop.time()
        self.transport.is_sending_expected = False
        self._n_body, n_body = 0, self._n_body
        if self._refusal is None:
            self._lane.charge(n_body)
            if not self.cycle.response_complete:
                self._entrance.enter(self.scope)
                self.cycle.keep_alive = self._is_wanted and not self._crowd.is_draining
            super().on_message_complete()
            return
        self.transport.write(self._refusal)
        self._refusal = None
        if not self._is_wanted:
            self.transport.close()
        else:
            super().on_response_complete()

    def on_response_complete(self) -> None:
        """Go on with the requests that wait on this connection."""
        self.quiet_since = self.loop.time()
        super().on_response_complete()
        if self._parser.has_waiting and not self.transport.is_closing():
            self._resume()

    def _resume(self) -> None:
        """Begin with the next of the requests that wait, in another turn of the loop."""
        if not self._is_in_lane:
            self._wait_in_lane(self._lane.run_later)

    def _is_free(self) -> bool:
        """Whether nothing is in progress."""
        return self.cycle is None or self.cycle.response_complete


def _path_of(url: bytes) -> str:
    return url.partition(b"?")[0].decode("ascii")
