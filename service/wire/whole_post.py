"""The usual request: a POST that comes in one piece, known as such without a parser of all of HTTP."""

import re
from dataclasses import dataclass

from service.wire.request_parser import HEAD_BYTES

_HEAD = re.compile(rb"POST (/[!-$&-~]*) HTTP/1\.1\r\n((?:[\w-]+: ?[!-~][ -~]*\r\n)+)\r\n")
_FIELD = re.compile(rb"([^:]+): ?([^\r]+)\r\n")
_UNUSUAL = {b"transfer-encoding", b"upgrade", b"expect", b"proxy-connection", b"content-encoding"}
_MAX_DIGITS = 9
_LONGEST_KEPT = 1024


@dataclass(slots=True)
class Post:
    """A POST request that came in one piece. headers: by their names in lower case."""

    url: bytes
    headers: dict[bytes, bytes]
    body: bytes


class PostReader:
    """Reads the usual requests of one connection.

    Most callers send the same head with each request: the same bytes say the same, and are not read again.
    """

    def __init__(self) -> None:
        self._head, self._n_body = b"", 0
        self._url, self._headers = b"", dict[bytes, bytes]()

    def read(self, data: bytes) -> Post | None:
        """Return what read_post() returns."""
        n_head = len(self._head)
        if n_head and data.startswith(self._head):
            is_whole = len(data) == n_head + self._n_body
            return Post(self._url, self._headers, data[n_head:]) if is_whole else None
        post = read_post(data)
        if post is not None and (n_head := len(data) - len(post.body)) <= _LONGEST_KEPT:
            self._head, self._n_body, self._url, self._headers = data[:n_head], len(post.body), post.url, post.headers
        return post


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
