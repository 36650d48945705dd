"""The first thing a request meets, in pure ASGI: its arrival is noted, the guard checks it, it is given a place.

A place among the answers is taken once the whole body is here, and given back when the answer is sent.
"""

import time
from collections.abc import Mapping
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.account import Account
from service.access.admission import Admission
from service.access.caller import Client
from service.access.guard import Guard
from service.access.key import OPEN_PATHS
from service.errors import RequestError
from service.wire.reply import (
    NOT_KEPT,
    SECURITY_HEADERS,
    RawHeaders,
    Reply,
    error_body,
    error_reply,
    send_reply,
    write_reply,
)
from service.wire.trace import Trace


class Endpoint(Protocol):
    """Answers requests of one path, over ASGI or where the body is already here."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whose body is still to come."""

    def begin(self, body: bytes, trace: Trace, reply: Reply) -> None:
        """Begin to answer; reply is called once, now or later."""


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        recommend: Endpoint,
        lists: Mapping[str, ASGIApp],
        guard: Guard,
        admission: Admission,
        account: Account,
    ) -> None:
        """recommend: answers POST /recommend. lists: what answers a POST to each of some paths, that one among them.
        app: answers everything else."""
        self._app, self._lists, self._recommend = app, lists, recommend
        self._guard, self._admission, self._account = guard, admission, account

    @property
    def is_full(self) -> bool:
        """Whether some request would be refused."""
        return self._admission.is_full

    def malformed(self, status: int) -> None:
        """Count bytes that are no request, and that were answered with this status."""
        self._account.malformed(status)

    def refuse(self, path: str, method: str) -> bytes | None:
        """Return the whole reply for a request that is one too many, before anything is done for it; else None."""
        shares, reason = self._admission.find(path)
        if not shares.limit.is_reached or path in OPEN_PATHS:
            return None
        self._account.refused(path, method, reason)
        return _REFUSAL

    def admit(self, scope: Scope) -> None:
        """Note that a request has arrived now, and whether it may: what its body takes is part of its budget."""
        trace = scope["retort"] = Trace(time.monotonic())
        self._account.n_in_flight += 1
        try:
            trace.caller = self._guard.check(scope["path"], scope["method"], scope["headers"], scope.get("client"))
            self._account.let_in(scope["path"], scope["headers"], trace)
        except RequestError as exc:
            trace.refusal = exc

    def enter(self, scope: Scope) -> None:
        """Give a request whose body is whole a place among the answers, or note that there is none.

        Called before its task runs: others that are read in this turn of the loop must see it.
        """
        trace: Trace = scope["retort"]
        if trace.refusal is None and scope["path"] not in OPEN_PATHS:
            self._take_place(scope["path"], trace)

    def answer(self, headers: RawHeaders, client: Client, body: bytes, reply: Reply) -> Trace:
        """Answer POST /recommend with a JSON body that is already here, without the ASGI around it.

        reply: called once, now or later, with what is to be sent.
        """
        trace = Trace(time.monotonic())
        self._account.n_in_flight += 1

        def finish(status: int, body: bytes, more: RawHeaders) -> None:
            trace.status = status
            try:
                reply(status, body, more)
            finally:
                self._leave("/recommend", "POST", trace)

        try:
            trace.caller = self._guard.check("/recommend", "POST", headers, client)
            self._account.let_in("/recommend", headers, trace)
            self._take_place("/recommend", trace)
            _raise_if_refused(trace)
        except RequestError as exc:
            finish(*error_reply(exc))
        else:
            self._recommend.begin(body, trace, finish)
        return trace

    def _take_place(self, path: str, trace: Trace) -> None:
        shares, reason = self._admission.find(path)
        if shares.enter(trace.caller):
            trace.has_place = True
        else:
            self._account.shed(reason)
            trace.refusal = _OVERLOADED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it when it ends."""
        if scope["type"] != "http":
            return
        trace: Trace = scope["retort"]
        try:
            await self._serve(scope, receive, _noting(send, trace), trace)
        finally:
            self._leave(scope["path"], scope["method"], trace)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, trace: Trace) -> None:
        if trace.refusal is not None:
            await send_reply(send, *error_reply(trace.refusal))
            return
        endpoint = self._lists.get(scope["path"]) if scope["method"] == "POST" else None
        await (endpoint or self._app)(scope, _refusing(receive, trace), send)

    def _leave(self, path: str, method: str, trace: Trace) -> None:
        now = time.monotonic()
        if trace.has_place:
            shares, _ = self._admission.find(path)
            shares.leave(trace.caller, 0.0 if trace.began is None else now - trace.began)
        self._account.ended(path, method, trace, now)


def _raise_if_refused(trace: Trace) -> None:
    if trace.refusal is not None:
        raise trace.refusal


def _refusing(receive: Receive, trace: Trace) -> Receive:
    """Wrap receive so that a body which came whole when there was no place left is answered with 503."""

    async def take() -> Message:
        message = await receive()
        _raise_if_refused(trace)
        return message

    return take


def _noting(send: Send, trace: Trace) -> Send:
    """Wrap send so that the trace learns the status, and nothing is kept by a browser unless its route says so."""

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            trace.status = message["status"]
            if all(name != NOT_KEPT[0] for name, _ in message["headers"]):
                message["headers"] = [*message["headers"], NOT_KEPT]
        await send(message)

    return note


_OVERLOADED = RequestError("overloaded", "too many requests in flight", headers={"Retry-After": "1"})
_REFUSAL = write_reply(
    b"HTTP/1.1 503 Service Unavailable\r\n",
    error_body(_OVERLOADED),
    [*SECURITY_HEADERS, (b"retry-after", b"1")],
)
