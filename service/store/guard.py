"""What the server may send: bytes are looked at before a parser keeps them.

A parser keeps an unfinished reply until it is whole, and makes room for as many elements as a list is said to have. So
a server that has gone wrong, or one that is not ours, could fill this process's memory with a single reply. Here a
reply may have so many bytes as its caller has use for, and so many elements as fit into memory many times over.
"""

import re

MOST_BYTES = 1 << 20
"""Of one reply, where its caller says no other number."""
_MANY_ELEMENTS = re.compile(rb"\n[*~>%][+\d]{7}")
_HEADER_BYTES = 16
_SLACK_BYTES = 512 << 10
"""Of the last bytes, how many may belong to replies that were whole already: more than a socket hands over at once."""


class UndecodableError(Exception):
    """The server has sent what is no reply, or more than was asked for. Its connection is of no use any more."""


class ReplyGuard:
    """The bytes of one connection."""

    def __init__(self) -> None:
        self._n_unfinished = 0
        self._tail = b"\r\n"

    def look(self, data: bytes, most_bytes: int) -> None:
        """Look at the next bytes, before they are parsed. Raises UndecodableError.

        most_bytes: of the reply that is being read.
        """
        self._n_unfinished += len(data)
        if self._n_unfinished > most_bytes + _SLACK_BYTES:
            raise UndecodableError("a reply is longer than what was asked for can be")
        if _MANY_ELEMENTS.search(self._tail + data):
            raise UndecodableError("a reply claims to have a million elements")
        self._tail = data[-_HEADER_BYTES:] if len(data) >= _HEADER_BYTES else (self._tail + data)[-_HEADER_BYTES:]

    def note_replies(self, n_left: int) -> None:
        """Note that a reply was whole. n_left: of the last bytes, how many at most belong to the next one."""
        self._n_unfinished = n_left
