"""Reading a request's body: only JSON, only up to a cap, only for so long."""

import asyncio

from starlette.types import Receive, Scope

from service.errors import RequestError

TIMEOUT_S = 10.0


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
        async with asyncio.timeout(TIMEOUT_S):
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
