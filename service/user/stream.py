"""The stream of accepted events of all users, from which they are exported for training.

    {namespace}:events      stream; each entry has one field, "event": JSON, see event

Histories and stream are written together (see history). This module reads the stream, and erases entries of it.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import orjson

from service.store.client import Store
from service.store.reply import read_entries
from service.user.key import UserKeys

PAGE_ENTRIES = 1000
_ENTRY_BYTES = 4096
_FIRST = b"-"
Entry = tuple[bytes, bytes]
"""The id of an entry, and its event as JSON."""


class EventStream:
    """The accepted events of one namespace. Every method raises StoreError where the store does not do as asked."""

    def __init__(self, store: Store, keys: UserKeys) -> None:
        self._store, self._keys = store, keys

    async def pages(self, timeout_s: float) -> AsyncGenerator[list[Entry], None]:
        """Yield all entries, the oldest first, in pages of up to PAGE_ENTRIES. timeout_s: of each read."""
        start = _FIRST
        last = (-1, -1)
        while True:
            command = ("XRANGE", self._keys.stream, start, "+", "COUNT", PAGE_ENTRIES)
            found = read_entries(
                await self._store.call_one("user", command, timeout_s, most_bytes=PAGE_ENTRIES * _ENTRY_BYTES)
            )
            if found:
                place = _place_of(found[-1][0])
                if place <= last:
                    raise await self._store.undecodable()  # else the pages would never end
                last = place
            yield [(entry_id, fields.get(b"event", b"")) for entry_id, fields in found]
            if len(found) < PAGE_ENTRIES:
                return
            start = b"(" + found[-1][0]

    async def erase(self, entry_ids: Sequence[bytes], timeout_s: float) -> int:
        """Delete entries; return how many there were."""
        return int(await self._store.call_one("erase", ("XDEL", self._keys.stream, *entry_ids), timeout_s))

    async def erase_user(self, user_id: str, timeout_s: float, *, within_s: float) -> tuple[int, bool]:
        """Delete a user's entries as far as the time allows; return how many, and whether all entries were looked at.

        timeout_s: of each call. within_s: no page is looked at that comes later than this.
        """
        quoted = orjson.dumps(user_id)
        end = time.monotonic() + within_s
        n_erased = 0
        async with aclosing(self.pages(timeout_s)) as pages:
            async for page in pages:
                if time.monotonic() >= end:
                    return n_erased, False
                # Most entries are passed over without being parsed.
                mine = [key for key, event in page if quoted in event and orjson.loads(event)["user_id"] == user_id]
                if mine:
                    n_erased += await self.erase(mine, timeout_s)
        return n_erased, True


def _place_of(entry_id: bytes) -> tuple[int, int]:
    """Return where an entry stands among the others; (-1, -1) if the id is none."""
    milliseconds, _, number = entry_id.partition(b"-")
    return (int(milliseconds), int(number)) if milliseconds.isdigit() and number.isdigit() else (-1, -1)
