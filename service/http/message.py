"""The JSON that comes in and goes out: bodies are read under a cap, replies and errors have one form.

A reply is sent over ASGI, or written as bytes of a connection where a request is answered without ASGI.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from service.errors import RequestError

STATUS = {
    "malformed": 422, "unsupported_media_type": 415, "too_large": 413, "body_timeout": 408, "no_key": 401,
    "wrong_key": 403, "admin_key_needed": 403, "not_found": 404, "method_not_allowed": 405, "not_built": 501,
    "overloaded": 503, "rate_limited": 429, "caller_gone": 499, "store_unavailable": 503, "not_ready": 503,
    "internal": 500,
}  # fmt: skip
BODY_TIMEOUT_S = 10.0
STORE_TIMEOUT_S = 1.0
"""How long a route other than /recommend waits for the store."""
BUG = RequestError("internal", "a bug: see the log")
RawHeaders = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values."""
Reply = Callable[[int, bytes, RawHeaders], None]
"""Takes status, JSON and further headers."""


def error_body(exc: RequestError) -> bytes:
    """Return the envelope of an error."""
    error: dict[str, Any] = {"code": exc.code, "message": exc.message}
    if exc.details is not None:
        error["details"] = exc.details
    return orjson.dumps({"error": error})


def error_reply(exc: RequestError) -> tuple[int, bytes, RawHeaders]:
    """Return status, JSON and headers of an error."""
    headers = [(name.lower().encode(), value.encode()) for name, value in exc.headers.items()]
    return STATUS[exc.code], error_body(exc), headers


async def send_reply(send: Send, status: int, body: bytes, headers: RawHeaders = ()) -> None:
    """Send JSON over ASGI."""
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


def write_reply(status_line: bytes, body: bytes, headers: RawHeaders = ()) -> bytes:
    """Return a whole HTTP/1.1 response of JSON."""
    lines = [b"%s: %s\r\n" % pair for pair in headers]
    own = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return b"".join([status_line, *lines, own, body])


async def read_json(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body of a JSON request. Raises RequestError: 415, 413 as soon as the cap is passed, 408."""
    kind, declared = b"", b"0"
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            declared = value
    if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise RequestError("unsupported_media_type", "send the header 'Content-Type: application/json'")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(receive, limit)
    except TimeoutError:
        raise RequestError("body_timeout", "the body took too long", headers={"Connection": "close"}) from None


async def _read(receive: Receive, limit: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("malformed", "the body ended early")
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> RequestError:
    return RequestError("too_large", f"the body is larger than {limit} bytes", headers={"Connection": "close"})


def store_unavailable() -> RequestError:
    """Return the error of a route that needs the store and did not get its confirmation."""
    return RequestError("store_unavailable", "the store did not confirm; try again", headers={"Retry-After": "1"})


def json_response(body: Any, status: int = 200) -> Response:
    """Return a JSON response of a FastAPI route."""
    return Response(orjson.dumps(body), status, media_type="application/json")
