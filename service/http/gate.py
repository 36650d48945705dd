"""The first thing a request meets, in pure ASGI: arrival time, keys, the cap on calls, metrics, the log line.

Deny by default: every path but the probes and /metrics needs a key where keys are set, whether it exists or not.
"""

import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RequestError
from service.http.admission import Limit, Rates
from service.http.message import RawHeaders, Reply, error_reply, send_reply, write_reply
from service.logs import Log
from service.metrics import ROUTES, Metrics

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
ADMIN_PATHS = frozenset({"/model/activate", "/model/rollback"})
Client = tuple[str, int] | None


@dataclass(slots=True)
class Trace:
    """What one request leaves in the log. arrived, began: on the clock of time.monotonic; it begins once it is read."""

    arrived: float
    began: float | None = None
    status: int = 500
    is_gone: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


class Recommend(Protocol):
    """Answers POST /recommend, over ASGI or where the body is already here."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whose body is still to come."""

    def begin(self, body: bytes, trace: Trace, reply: Reply) -> None:
        """Begin to answer; reply is called once, now or later."""


class Keys:
    """The keys that open the API; none set: everybody may."""

    def __init__(self, keys: Sequence[str], admin_key: str) -> None:
        self._keys = [key.encode() for key in keys]
        self._admin = admin_key.encode()

    @property
    def is_on(self) -> bool:
        """Whether a key is needed, so that the one given is a known one."""
        return bool(self._keys or self._admin)

    def check(self, path: str, headers: RawHeaders) -> None:
        """Raises RequestError unless the headers open the path. Compares every key, in constant time."""
        if path in ADMIN_PATHS and not self._admin:
            raise RequestError("admin_key_needed", "this path needs the admin key, and RETORT_ADMIN_KEY is not set")
        if path in OPEN_PATHS or not self.is_on:
            return
        given = _given_key(headers)
        if given is None:
            raise RequestError(
                "no_key",
                "send a key: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                headers={"WWW-Authenticate": "Bearer"},
            )
        is_admin = bool(self._admin) and hmac.compare_digest(given, self._admin)
        is_known = sum([hmac.compare_digest(given, key) for key in self._keys]) > 0
        if not (is_admin or is_known):
            raise RequestError("wrong_key", "this key does not open this service")
        if path in ADMIN_PATHS and not is_admin:
            raise RequestError("admin_key_needed", "this path needs the admin key")


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        recommend: Recommend,
        keys: Keys,
        answers: Limit,
        events: Limit,
        others: Limit,
        rates: Rates,
        metrics: Metrics,
        log: Log,
        log_requests: bool,
    ) -> None:
        """recommend: answers POST /recommend, within the limit answers.

        app: everything else: /events within events, so that a flood of them keeps nobody else out, the rest within
        others.
        """
        self._app, self._recommend, self._keys, self._metrics, self._log = app, recommend, keys, metrics, log
        self._limits = {"/recommend": (answers, "concurrency"), "/events": (events, "events")}
        self._others, self._rates, self._log_requests = (others, "other_routes"), rates, log_requests
        self._every_limit = (answers, events, others)
        self._in_flight = 0
        metrics.watch(metrics.in_flight, lambda: self._in_flight)
        metrics.watch(metrics.concurrency_limit, lambda: answers.value)

    @property
    def is_full(self) -> bool:
        """Whether some request would be refused."""
        return any(limit.is_reached for limit in self._every_limit)

    def refuse(self, url: bytes, method: str) -> bytes | None:
        """Return the whole reply for a request that is one too many, before anything is done for it; else None."""
        path = url.partition(b"?")[0].decode("ascii", "replace")
        limit, reason = self._limits.get(path, self._others)
        if not limit.is_reached or path in OPEN_PATHS:
            return None
        self._metrics.shed[reason].inc()
        self._metrics.count_http(route_of(path), method, 503, None)
        return _REFUSAL

    def admit(self, scope: Scope) -> Limit:
        """Count a request in, before its task runs: others that are read in this turn of the loop must see it.

        It has arrived now: what its task has to wait for is part of its budget.
        """
        scope["retort"] = Trace(time.monotonic())
        limit = scope["retort_limit"] = self._limits.get(scope["path"], self._others)[0]
        self._enter(limit)
        return limit

    def answer(self, headers: RawHeaders, client: Client, body: bytes, reply: Reply) -> Trace:
        """Answer POST /recommend with a JSON body that is already here, without the ASGI around it.

        reply: called once, now or later, with what is to be sent.
        """
        trace, limit = Trace(time.monotonic()), self._limits["/recommend"][0]
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
        self._in_flight += 1

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
        key = _given_key(headers) if self._keys.is_on else None  # else anything could be made up
        if self._rates.is_over(key or (client or ("-",))[0].encode()):
            self._metrics.shed["rate"].inc()
            raise RequestError("rate_limited", "too many requests a second", headers={"Retry-After": "1"})

    def _leave(self, limit: Limit, path: str, method: str, trace: Trace) -> None:
        self._in_flight -= 1
        now = time.monotonic()
        limit.leave(0.0 if trace.began is None else now - trace.began)
        seconds, route = now - trace.arrived, route_of(path)
        self._metrics.count_http(route, method, trace.status, seconds)
        if self._log_requests and route not in OPEN_PATHS:
            took_ms = round(seconds * 1000, 3)
            self._log.write(
                "info",
                "request",
                route=route,
                method=method,
                status=trace.status,
                took_ms=took_ms,
                **trace.fields,
            )


def _noting(send: Send, trace: Trace) -> Send:
    """Wrap send so that the trace learns the status."""

    async def note(message: Message) -> None:
        if message["type"] == "http.response.start":
            trace.status = message["status"]
        await send(message)

    return note


def route_of(path: str) -> str:
    """Return the template of a path, or unmatched: labels come from a closed list, never from a caller."""
    if path.startswith("/users/") and len(path) > len("/users/"):
        return "/users/{user_id}"
    return path if path in ROUTES else "unmatched"


def _given_key(headers: RawHeaders) -> bytes | None:
    given = dict(reversed(headers))  # of two alike the first counts
    scheme, _, token = given.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return given.get(b"x-api-key") or None


_REFUSAL = write_reply(
    b"HTTP/1.1 503 Service Unavailable\r\n",
    *error_reply(RequestError("overloaded", "too many requests in flight", headers={"Retry-After": "1"}))[1:],
)
