"""The JSON that comes in and goes out: bodies are read under a cap, replies and errors have one form.

A reply is sent over ASGI, or written as bytes of a connection where a request is answered without ASGI.
"""

import asyncio
from typing import Any

import orjson
from fastapi import Response
from starlette.types import Receive, Scope

from service.errors import RequestError, StoreError

BODY_TIMEOUT_S = 10.0
STORE_TIMEOUT_S = 1.0
"""How long a route other than /recommend waits for the store."""


async def read_json(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the body of a JSON request. Raises RequestError: 415, 413 as soon as the cap is passed, 408."""
    kind, declared, encoding = b"", b"0", b"identity"
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            declared = value
        elif name == b"content-encoding":
            encoding = value.strip().lower()
    if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise RequestError("unsupported_media_type", "send the header 'Content-Type: application/json'")
    if encoding not in (b"identity", b""):
        raise RequestError("unsupported_media_type", "send the body as it is, without 'Content-Encoding'")
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


def store_unavailable(exc: StoreError | None = None) -> RequestError:
    """Return the error of a route that needs the store and did not get its confirmation.

    exc: why, if that is known. Of a key that holds something else the error says what is to be done.
    """
    if exc is not None and exc.kind == "wrongtype":
        return RequestError(
            "store_unavailable", f"the store cannot keep it, and trying again will not help: {exc.words}"
        )
    return RequestError("store_unavailable", "the store did not confirm; try again", headers={"Retry-After": "1"})


def json_response(body: Any, status: int = 200) -> Response:
    """Return a JSON response of a FastAPI route."""
    return Response(orjson.dumps(body), status, media_type="application/json")
