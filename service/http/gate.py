"""The first thing a request meets, in pure ASGI: arrival time, keys, the cap on calls, metrics, the log line.

Deny by default: where keys are set every path needs one, whether it exists or not, but the probes, /metrics, the API's
description and the page that shows it.
"""

import time
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RequestError
from service.http.account import Account
from service.http.admission import Admission, Limit, Rates
from service.http.key import OPEN_PATHS, Keys, given_key
from service.http.message import RawHeaders, Reply, error_reply, send_reply, write_reply
from service.http.trace import Trace

Client = tuple[str, int] | None


class Recommend(Protocol):
    """Answers POST /recommend, over ASGI or where the body is already here."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whose body is still to come."""

    def begin(self, body: bytes, trace: Trace, reply: Reply) -> None:
        """Begin to answer; reply is called once, now or later."""


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, recommend: Recommend, keys: Keys, admission: Admission, rates: Rates, account: Account
    ) -> None:
        """recommend: answers POST /recommend. app: answers everything else."""
        self._app, self._recommend = app, recommend
        self._keys, self._admission, self._rates, self._account = keys, admission, rates, account

    @property
    def is_full(self) -> bool:
        """Whether some request would be refused."""
        return self._admission.is_full

    def refuse(self, url: bytes, method: str) -> bytes | None:
        """Return the whole reply for a request that is one too many, before anything is done for it; else None."""
        path = url.partition(b"?")[0].decode("ascii", "replace")
        limit, reason = self._admission.find(path)
        if not limit.is_reached or path in OPEN_PATHS:
            return None
        self._account.refused(path, method, reason)
        return _REFUSAL

    def admit(self, scope: Scope) -> Limit:
        """Count a request in, before its task runs: others that are read in this turn of the loop must see it.

        It has arrived now: what its task has to wait for is part of its budget.
        """
        scope["retort"] = Trace(time.monotonic())
        limit, _ = self._admission.find(scope["path"])
        scope["retort_limit"] = limit
        self._enter(limit)
        return limit

    def answer(self, headers: RawHeaders, client: Client, body: bytes, reply: Reply) -> Trace:
        """Answer POST /recommend with a JSON body that is already here, without the ASGI around it.

        reply: called once, now or later, with what is to be sent.
        """
        trace, limit = Trace(time.monotonic()), self._admission.answers
        self._enter(limit)

        def finish(status: int, body: bytes, more: RawHeaders) -> None:
            trace.status = status
            try:
                reply(status, body, more)
            finally:
                self._leave(limit, "/recommend", "POST", trace)

        try:
            self._check("/recommend", headers, client)
        except RequestError as exc:
            finish(*error_reply(exc))
        else:
            self._recommend.begin(body, trace, finish)
        return trace

    def _enter(self, limit: Limit) -> None:
        limit.enter()
        self._account.n_in_flight += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it when it ends."""
        if scope["type"] != "http":
            return
        limit = scope.get("retort_limit") or self.admit(scope)
        trace: Trace = scope["retort"]
        try:
            await self._serve(scope, receive, send, trace)
        finally:
            self._leave(limit, scope["path"], scope["method"], trace)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, trace: Trace) -> None:
        path = scope["path"]
        is_recommend = path == "/recommend" and scope["method"] == "POST"
        try:
            self._check(path, scope["headers"], scope.get("client"))
        except RequestError as exc:
            await send_reply(_noting(send, trace), *error_reply(exc))
            return
        await (self._recommend if is_recommend else self._app)(scope, receive, _noting(send, trace))

    def _check(self, path: str, headers: RawHeaders, client: Client) -> None:
        """Raises RequestError unless the key opens the path and the caller's rate is not passed."""
        self._keys.check(path, headers)
        if not self._rates.is_on or path in OPEN_PATHS:
            return
        key = given_key(headers) if self._keys.is_asked_for(path) else None  # else anything could be made up
        if self._rates.is_over(key or (client or ("-",))[0].encode()):
            self._account.shed("rate")
            raise RequestError("rate_limited", "too many requests a second", headers={"Retry-After": "1"})

    def _leave(self, limit: Limit, path: str, method: str, trace: Trace) -> None:
        now = time.monotonic()
        limit.leave(0.0 if trace.began is None else now - trace.began)
        self._account.ended(path, method, trace, now)


def _noting(send: Send, trace: Trace) -> Send:
    """Wrap send so that the trace learns the status."""

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            trace.status = message["status"]
        await send(message)

    return note


_REFUSAL = write_reply(
    b"HTTP/1.1 503 Service Unavailable\r\n",
    *error_reply(RequestError("overloaded", "too many requests in flight", headers={"Retry-After": "1"}))[1:],
)
