"""uvicorn's connection with two things added: it tells a request when its caller is gone, and refuses cheaply.

A refusal is written before a task or a request object exists: at a rate far above what can be answered, that is the
difference between answering some and answering none.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """One connection of a caller. The application it is configured with must be a Gate."""

    _refusal: bytes | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request in progress, if any."""
        if self.cycle is not None and not self.cycle.response_complete:
            trace: Any = self.cycle.scope.get("retort")
            if trace is not None:
                trace.is_gone = True
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Begin a request, unless it is refused and nothing is in progress on this connection."""
        is_free = self.cycle is None or self.cycle.response_complete
        gate: Any = self.app
        self._refusal = gate.refuse(self.url) if is_free and not self.expect_100_continue else None
        if self._refusal is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take or skip a part of the body."""
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Start the request's work, or write the refusal."""
        if self._refusal is None:
            super().on_message_complete()
            return
        self.transport.write(self._refusal)
        if not self.parser.should_keep_alive():
            self.transport.close()
