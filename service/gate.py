"""The first thing a request meets, in pure ASGI: arrival time, keys, the cap on calls, metrics, the log line.

Deny by default: every path but the probes and /metrics needs a key where keys are set, whether it exists or not.
"""

import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission import Limit, Rates
from service.errors import RequestError
from service.logs import Log
from service.metrics import ROUTES, Metrics

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
ADMIN_PATHS = frozenset({"/model/activate", "/model/rollback"})
STATUS = {
    "malformed": 422, "unsupported_media_type": 415, "too_large": 413, "body_timeout": 408, "no_key": 401,
    "wrong_key": 403, "admin_key_needed": 403, "not_found": 404, "method_not_allowed": 405, "not_built": 501,
    "overloaded": 503, "rate_limited": 429, "caller_gone": 499, "store_unavailable": 503, "not_ready": 503,
    "internal": 500,
}  # fmt: skip


@dataclass(slots=True)
class Trace:
    """What one request leaves in the log. arrived, began: on the clock of time.monotonic; it begins once it is read."""

    arrived: float
    began: float | None = None
    status: int = 500
    is_gone: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


class Keys:
    """The keys that open the API; none set: everybody may."""

    def __init__(self, keys: Sequence[str], admin_key: str) -> None:
        self._keys = [key.encode() for key in keys]
        self._admin = admin_key.encode()

    @property
    def is_on(self) -> bool:
        """Whether a key is needed, so that the one given is a known one."""
        return bool(self._keys or self._admin)

    def check(self, path: str, scope: Scope) -> None:
        """Raises RequestError unless the headers open the path. Compares every key, in constant time."""
        if path in ADMIN_PATHS and not self._admin:
            raise RequestError("admin_key_needed", "this path needs the admin key, and RETORT_ADMIN_KEY is not set")
        if path in OPEN_PATHS or not self.is_on:
            return
        given = _given_key(Headers(scope=scope))
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
        recommend: ASGIApp,
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
        limit.enter()
        self._in_flight += 1
        return limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it when it ends."""
        if scope["type"] != "http":
            return
        limit = scope.get("retort_limit") or self.admit(scope)
        trace: Trace = scope["retort"]
        try:
            await self._serve(scope, receive, send, trace)
        finally:
            self._in_flight -= 1
            limit.leave(0.0 if trace.began is None else time.monotonic() - trace.began)
            self._finish(scope, trace)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, trace: Trace) -> None:
        path = scope["path"]
        if path == "/recommend" and scope["method"] == "POST":
            app, noted = self._recommend, send  # it notes its status by itself
        else:
            app, noted = self._app, _noting(send, trace)
        try:
            self._keys.check(path, scope)
            self._check_rate(path, scope)
        except RequestError as exc:
            await send_error(_noting(send, trace), exc)
            return
        await app(scope, receive, noted)

    def _check_rate(self, path: str, scope: Scope) -> None:
        if not self._rates.is_on or path in OPEN_PATHS:
            return
        client = scope.get("client") or ("-",)
        key = _given_key(Headers(scope=scope)) if self._keys.is_on else None  # else anything could be made up
        if self._rates.is_over(key or client[0].encode()):
            self._metrics.shed["rate"].inc()
            raise RequestError("rate_limited", "too many requests a second", headers={"Retry-After": "1"})

    def _finish(self, scope: Scope, trace: Trace) -> None:
        seconds = time.monotonic() - trace.arrived
        route = route_of(scope["path"])
        self._metrics.count_http(route, scope["method"], trace.status, seconds)
        if self._log_requests and route not in OPEN_PATHS:
            took_ms = round(seconds * 1000, 3)
            self._log.write(
                "info",
                "request",
                route=route,
                method=scope["method"],
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


def error_body(exc: RequestError) -> bytes:
    """Return the envelope of an error."""
    error: dict[str, Any] = {"code": exc.code, "message": exc.message}
    if exc.details is not None:
        error["details"] = exc.details
    return orjson.dumps({"error": error})


async def send_error(send: Send, exc: RequestError) -> None:
    """Send an error where there is no route yet."""
    body = error_body(exc)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **exc.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": STATUS[exc.code], "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, body: bytes) -> None:
    """Send 200 with a JSON body."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _given_key(headers: Headers) -> bytes | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip().encode()
    key = headers.get("x-api-key")
    return key.encode() if key else None


def _whole_reply(exc: RequestError) -> bytes:
    body = error_body(exc)
    lines = ["HTTP/1.1 503 Service Unavailable", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name.lower()}: {value}" for name, value in exc.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


_REFUSAL = _whole_reply(RequestError("overloaded", "too many requests in flight", headers={"Retry-After": "1"}))
