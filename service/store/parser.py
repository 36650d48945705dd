"""redis-py's parser, with a limit to what a reply may be: see guard.

redis-py has no such limit of its own, and no way to hand one over with a command. So the caller's number reaches the
parser by REPLY_BYTES.
"""

from contextvars import ContextVar
from typing import Any

from redis._parsers.hiredis import _AsyncHiredisParser
from redis.exceptions import ConnectionError as LostError

from service.store.guard import ReplyGuard, UndecodableError

REPLY_BYTES: ContextVar[int] = ContextVar("reply_bytes", default=4 << 20)  # a Cluster's list of commands is long
"""How many bytes a reply may have to what is asked in this context."""


class GuardedParser(_AsyncHiredisParser):
    """Reads replies as redis-py's own parser does. Raises UndecodableError for one that is too large."""

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self._guard = ReplyGuard()

    def on_connect(self, connection: Any) -> None:
        """Begin with the first bytes of a new connection."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._hiredis_PushNotificationType = None  # RESP2 has none: it is then a reply of the wrong type
        self._guard = ReplyGuard()

    async def read_from_socket(self) -> bool:
        """Read some bytes and look at them before they are parsed."""
        stream, reader = self._stream, self._reader
        data = await stream.read(self._read_size) if stream is not None else b""
        if not data or reader is None:
            raise LostError("Connection closed by server.")
        self._guard.look(data, REPLY_BYTES.get())
        reader.feed(data)
        return True

    async def read_response(self, disable_decoding: bool = False, push_request: bool = False) -> Any:
        """Read one reply."""
        try:
            reply = await super().read_response(disable_decoding, push_request)
        except TypeError as exc:  # a map whose key is a list
            raise UndecodableError(str(exc)) from exc
        has_more = self._reader is not None and self._reader.has_data()
        self._guard.note_replies(self._read_size if has_more else 0)
        return reply
