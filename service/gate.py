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

from service.errors import RequestError
from service.logs import Log
from service.metrics import ROUTES, Metrics

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
ADMIN_PATHS = frozenset({"/model/activate", "/model/rollback"})
STATUS = {
    "malformed": 422, "unsupported_media_type": 415, "too_large": 413, "body_timeout": 408, "no_key": 401,
    "wrong_key": 403, "admin_key_needed": 403, "not_found": 404, "method_not_allowed": 405, "not_built": 501,
    "overloaded": 503, "store_unavailable": 503, "not_ready": 503, "internal": 500,
}  # fmt: skip


@dataclass(slots=True)
class Trace:
    """What one request leaves in the log. arrived: on the clock of time.monotonic."""

    arrived: float
    fields: dict[str, Any] = field(default_factory=dict)


class Keys:
    """The keys that open the API; none set: everybody may."""

    def __init__(self, keys: Sequence[str], admin_key: str) -> None:
        self._keys = [key.encode() for key in keys]
        self._admin = admin_key.encode()

    def check(self, path: str, headers: Headers) -> None:
        """Raises RequestError unless the headers open the path. Compares every key, in constant time."""
        if path in OPEN_PATHS or not (self._keys or self._admin):
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
        self, app: ASGIApp, *, keys: Keys, metrics: Metrics, log: Log, max_in_flight: int, log_requests: bool
    ) -> None:
        self._app, self._keys, self._metrics, self._log = app, keys, metrics, log
        self._max_in_flight, self._log_requests = max_in_flight, log_requests
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it when it ends."""
        if scope["type"] != "http":
            return
        trace = scope["retort"] = Trace(time.monotonic())
        status = 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._enter(+1)
        try:
            await self._serve(scope, receive, note)
        finally:
            self._enter(-1)
            self._finish(scope, trace, status)

    def _enter(self, change: int) -> None:
        self._in_flight += change
        self._metrics.in_flight.set(self._in_flight)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        try:
            self._keys.check(path, Headers(scope=scope))
            if self._in_flight > self._max_in_flight and path not in OPEN_PATHS:
                self._metrics.shed_concurrency.inc()
                raise RequestError("overloaded", "too many requests in flight", headers={"Retry-After": "1"})
        except RequestError as exc:
            await send_error(send, exc)
            return
        await self._app(scope, receive, send)

    def _finish(self, scope: Scope, trace: Trace, status: int) -> None:
        seconds = time.monotonic() - trace.arrived
        route = route_of(scope["path"])
        self._metrics.count_http(route, scope["method"], status, seconds)
        if self._log_requests and route not in OPEN_PATHS:
            took_ms = round(seconds * 1000, 3)
            self._log.write(
                "info", "request", route=route, method=scope["method"], status=status, took_ms=took_ms, **trace.fields
            )


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


def _given_key(headers: Headers) -> bytes | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip().encode()
    key = headers.get("x-api-key")
    return key.encode() if key else None
