"""One request after another out of a connection's bytes: h11's strict parser, one message at a time, heads bounded.

h11 refuses what two parsers could read in two ways: folded headers, bare line ends, spaces before a colon, a missing
or second Host, unlike lengths. A request with both Content-Length and Transfer-Encoding is refused here. An `Upgrade`
is ignored, as HTTP allows, so the body is read as the body. Bytes of the next request wait, unread, until `next()`.
"""

import re
from typing import Protocol

import h11

HEAD_BYTES = 16 << 10
MAX_HEADERS = 100
_CHUNKS_AT_ONCE, _BODY_AT_ONCE = 512, 64 << 10
"""Bytes of a body that are parsed in one step. Of a chunked one it is few: a chunk of one byte costs 10 us."""
_SMALL_REST = 64 << 10
_ODD_LINES = re.compile(rb"(?<!\r)\n|\n[ \t]|\r(?!\n|\Z)")


class MalformedRequestError(Exception):
    """Bytes that are no request, or a head that is too large. status: of the reply, after which the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Receiver(Protocol):
    """Is told what is parsed, in the terms of httptools."""

    def on_message_begin(self) -> None:
        """A head was read whole; it follows."""

    def on_url(self, url: bytes) -> None:
        """The target of the request line."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, its name in lower case."""

    def on_headers_complete(self) -> None:
        """The head is over."""

    def on_body(self, body: bytes) -> None:
        """A part of the body."""

    def on_message_complete(self) -> None:
        """The request is over."""


class RequestParser:
    """Parses the requests of one connection.

    h11 is given the bytes of one message alone, so that it never copies what waits behind it.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._h11: h11.Connection | None = None
        self._waiting = bytearray()  # not yet given to h11
        self._n_left = 0  # bytes of the body to come; where it is chunked, how much is given at once
        self._is_chunked = False
        self._method, self._version, self._is_to_stay = b"", "1.1", True
        self.is_in_body = False
        """A head has come, and its body not whole."""
        self._is_over = False

    @property
    def is_in_head(self) -> bool:
        """Whether some bytes of a head have come, and not all of it."""
        return bool(self._waiting) and not self.is_in_body and not self._is_over

    @property
    def is_behind(self) -> bool:
        """Whether bytes of the body that is being read lie here, for the next step."""
        return bool(self._waiting) and self.is_in_body

    @property
    def has_waiting(self) -> bool:
        """Whether bytes lie here that belong to a request behind the one that is over."""
        return bool(self._waiting) and self._is_over

    @property
    def is_between(self) -> bool:
        """Whether nothing has come of a request that is not over."""
        return not self._waiting and not self.is_in_body

    @property
    def is_rest_small(self) -> bool:
        """Whether what is left of the body is not worth a new connection."""
        return not self._is_chunked and self._n_left <= _SMALL_REST

    def get_method(self) -> bytes:
        """Return the method of the request that is being read."""
        return self._method

    def get_http_version(self) -> str:
        """Return its version: 1.1 or 1.0."""
        return self._version

    def should_keep_alive(self) -> bool:
        """Whether its caller wants to go on with this connection."""
        return self._is_to_stay

    def should_upgrade(self) -> bool:
        """No: an upgrade is ignored."""
        return False

    def hold(self, data: bytes) -> None:
        """Take bytes of the next request while the one before it is being answered, to be parsed at next()."""
        self._waiting += data
        self._is_over = True

    def take(self, data: bytes) -> None:
        """Take bytes of the request that is being read, to be parsed at next()."""
        self._waiting += data

    def next(self) -> None:
        """Parse one step of the bytes that wait: a head, or a part of a body. Raises MalformedRequestError."""
        self._is_over = False
        try:
            if not self.is_in_body and self._waiting:
                self._read_head()
            if self.is_in_body and self._waiting:
                self._read_body()
        except h11.RemoteProtocolError as exc:
            raise MalformedRequestError(exc.error_status_hint, str(exc)) from exc

    def _read_head(self) -> None:
        end = self._waiting.find(b"\r\n\r\n", 0, HEAD_BYTES)
        head = bytes(self._waiting[: end + 4 if end >= 0 else HEAD_BYTES])
        _check_lines(head, is_whole=end >= 0)
        if end < 0 and len(self._waiting) < HEAD_BYTES:
            return
        if end < 0:
            raise MalformedRequestError(431, f"the head is larger than {HEAD_BYTES} bytes")
        del self._waiting[: end + 4]
        self._h11 = h11.Connection(h11.SERVER, HEAD_BYTES)
        self._h11.receive_data(head)
        request = self._h11.next_event()
        assert isinstance(request, h11.Request)  # noqa: S101  # the head is whole
        self._tell_head(request)
        self._tell_events()

    def _read_body(self) -> None:
        assert self._h11 is not None  # noqa: S101  # a head has come
        n_bytes = _CHUNKS_AT_ONCE if self._is_chunked else min(self._n_left, _BODY_AT_ONCE)
        piece = bytes(self._waiting[:n_bytes])
        del self._waiting[: len(piece)]
        self._n_left -= len(piece)
        self._h11.receive_data(piece)
        self._tell_events()

    def _tell_events(self) -> None:
        assert self._h11 is not None  # noqa: S101  # a head has come
        while (event := self._h11.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Data):
                self._receiver.on_body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._waiting[:0] = self._h11.trailing_data[0]
                self.is_in_body, self._is_over = False, True
                self._receiver.on_message_complete()
                return

    def _tell_head(self, request: h11.Request) -> None:
        _check_head(request)
        headers = dict(request.headers)
        self._method, self._version = request.method, request.http_version.decode("ascii")
        self._is_chunked = b"transfer-encoding" in headers
        self._n_left = int(headers.get(b"content-length", b"0"))
        tokens = {
            token.strip().lower()
            for name, value in request.headers
            if name == b"connection"
            for token in value.split(b",")
        }
        self._is_to_stay = self._version == "1.1" and b"close" not in tokens and request.method != b"CONNECT"
        self.is_in_body = True
        self._receiver.on_message_begin()
        self._receiver.on_url(request.target)
        for name, value in request.headers:
            self._receiver.on_header(name, value)
        self._receiver.on_headers_complete()


def _check_lines(head: bytes, *, is_whole: bool) -> None:
    """Raises MalformedRequestError for a head whose lines end or go on in a way that parsers disagree about."""
    if head[0] < 0x21 or _ODD_LINES.search(head, 0, len(head) - (2 if is_whole else 0)):
        raise MalformedRequestError(400, "this is no head of HTTP/1.1: a line is folded, or does not end in CR LF")


def _check_head(request: h11.Request) -> None:
    """Raises MalformedRequestError for a head that is too large or says two things about its body."""
    names = [name for name, _ in request.headers]
    if len(names) > MAX_HEADERS:
        raise MalformedRequestError(431, f"the head has more than {MAX_HEADERS} headers")
    if request.http_version not in (b"1.1", b"1.0"):
        raise MalformedRequestError(505, "this is HTTP/1.1")
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        raise MalformedRequestError(400, "the length of the body is said twice")
