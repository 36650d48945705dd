"""What is sent back: JSON with a status and headers; errors in one envelope. Over ASGI, or as bytes of a connection."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
from starlette.types import Send

from service.errors import RequestError

STATUS = {
    "malformed_request": 400, "head_timeout": 408, "head_too_large": 431,
    "malformed": 422, "unsupported_media_type": 415, "too_large": 413, "body_timeout": 408, "no_key": 401,
    "wrong_key": 403, "wrong_scope": 403,
    "wrong_host": 403, "admin_key_needed": 403, "not_found": 404, "method_not_allowed": 405,
    "overloaded": 503, "rate_limited": 429, "caller_gone": 499, "store_unavailable": 503, "not_ready": 503,
    "too_many_items": 409, "version_refused": 409, "internal": 500,
}  # fmt: skip


NOT_KEPT = (b"cache-control", b"no-store")
SECURITY_HEADERS: "RawHeaders" = ((b"x-content-type-options", b"nosniff"), NOT_KEPT)
"""Of every response: an answer is one user's, and JSON whatever a browser thinks of it."""
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


def write_reply(head: bytes, body: bytes, headers: RawHeaders = ()) -> bytes:
    """Return a whole HTTP/1.1 response of JSON. head: the status line, and headers that are written already."""
    return b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        head, write_headers(headers) if headers else b"", len(body), body,
    )  # fmt: skip


def write_headers(headers: RawHeaders) -> bytes:
    """Return the lines of headers."""
    return b"".join([b"%s: %s\r\n" % pair for pair in headers])


class CommonHead:
    """The status line and the headers that all replies have, put together once for each list of these.

    uvicorn makes a new list every second, for the date.
    """

    def __init__(self) -> None:
        self._headers: RawHeaders = ()
        self._heads: dict[bytes, bytes] = {}

    def of(self, status_line: bytes, headers: RawHeaders) -> bytes:
        """Return the bytes. headers: the list that uvicorn has now."""
        if headers is not self._headers:
            self._headers, self._heads = headers, {}
        head = self._heads.get(status_line)
        if head is None:
            head = self._heads[status_line] = status_line + write_headers(headers)
        return head
