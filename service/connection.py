"""uvicorn's connection with two things added: it tells a request when its caller is gone, and refuses cheaply.

A refusal is written before a task or a request object exists, and, for the usual request that comes in one piece,
before it is parsed: at a rate far above what can be answered, that is the difference between answering some and none.
"""

import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LINE = re.compile(rb"POST (/[^ \r\n]*) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)
_UNUSUAL = re.compile(
    rb"\r\n(?:connection[ \t]*:(?! *keep-alive\r\n)|(?:expect|transfer-encoding|upgrade)[ \t]*:)", re.IGNORECASE
)


class Connection(HttpToolsProtocol):
    """One connection of a caller. The application it is configured with must be a Gate."""

    _refusal: bytes | None = None
    _is_between = True  # nothing of a request has come that is not whole
    _is_used = False  # something was refused since the timer of an idle connection began

    def data_received(self, data: bytes) -> None:
        """Refuse what is one request too many, or let it be parsed."""
        gate: Any = self.app
        if gate.is_full and self._is_between and self._is_free():
            url = whole_post(data)
            refusal = None if url is None else gate.refuse(url, "POST")
            if refusal is not None:
                self.transport.write(refusal)
                self._is_used = True
                return
        super().data_received(data)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one that was only refused since then is not idle."""
        if self._is_used and not self.transport.is_closing():
            self._is_used = False
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            return
        super().timeout_keep_alive_handler()

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        self._is_between = False
        super().on_message_begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request in progress, if any."""
        if self.cycle is not None and not self.cycle.response_complete:
            trace: Any = self.cycle.scope.get("retort")
            if trace is not None:
                trace.is_gone = True
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Begin a request, unless it is refused and nothing is in progress on this connection."""
        gate: Any = self.app
        is_free = self._is_free()
        is_to_ask = is_free and not self.expect_100_continue
        self._refusal = gate.refuse(self.url, self.parser.get_method().decode("ascii")) if is_to_ask else None
        if self._refusal is None:
            super().on_headers_complete()
            if is_free:  # its task is made; that of another waits for the answer before it, or is never made
                gate.admit(self.scope)

    def on_body(self, body: bytes) -> None:
        """Take or skip a part of the body."""
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Start the request's work, or write the refusal."""
        self._is_between = True
        if self._refusal is None:
            super().on_message_complete()
            return
        self.transport.write(self._refusal)
        if not self.parser.should_keep_alive():
            self.transport.close()
        else:
            self.on_response_complete()

    def _is_free(self) -> bool:
        """Whether nothing is in progress."""
        return self.cycle is None or self.cycle.response_complete


def whole_post(data: bytes) -> bytes | None:
    """Return the URL where data are one whole POST request and nothing more; None where that is not sure."""
    line = _LINE.match(data)
    end = data.find(b"\r\n\r\n") + 4
    if line is None or end < 4:
        return None
    length = _LENGTH.search(data, line.end() - 2, end - 2)
    if length is None or len(data) != end + int(length[1]) or _UNUSUAL.search(data, line.end() - 2, end - 2):
        return None
    return line[1]
