"""The usual request: a POST that comes in one piece, known as such without a parser of all of HTTP."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from service.wire.request_parser import HEAD_BYTES

_HEAD = re.compile(rb"POST (/[!-$&-~]*) HTTP/1\.1\r\n((?:[\w-]+: ?[!-~][ -~]*\r\n)+)\r\n")
_FIELD = re.compile(rb"([^:]+): ?([^\r]+)\r\n")
_UNUSUAL = {b"transfer-encoding", b"upgrade", b"expect", b"proxy-connection", b"content-encoding"}
_MAX_DIGITS = 9


@dataclass(slots=True)
class Post:
    """A POST request that came in one piece. headers: by their names in lower case."""

    url: bytes
    headers: Mapping[bytes, bytes]
    body: bytes


def read_post(data: bytes) -> Post | None:
    """Return the request where data are one whole POST request and nothing more; None where that is not sure."""
    head = _HEAD.match(data, 0, HEAD_BYTES)
    if head is None:
        return None
    fields = _FIELD.findall(head[2])
    headers = {name.lower(): value for name, value in fields}
    length = headers.get(b"content-length", b"")
    if len(headers) < len(fields) or not _UNUSUAL.isdisjoint(headers) or len(length) > _MAX_DIGITS:
        return None
    if headers.get(b"connection", b"keep-alive") != b"keep-alive" or not length.isdigit() or b"host" not in headers:
        return None
    return Post(head[1], headers, data[head.end() :]) if int(length) == len(data) - head.end() else None
