"""The stream of accepted events of all users, from which they are exported for training.

    {namespace}:events      stream; each entry has one field, "event": JSON, see event

Histories and stream are written together (see history). This module reads the stream, and erases entries of it.
"""

import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import orjson

from service.store.client import Store
from service.store.reply import are_ids, read_entries
from service.user.entry_index import EntryIndex, Fields, IndexState, is_entry_id, user_of
from service.user.key import UserKeys
from service.user.position import StreamState, order, read_state

PAGE_ENTRIES = 1000
_FIRST, _LAST, _NOTHING = b"-", b"+", b"0-0"
ENTRY_BYTES = 4096
_MOST_ROUNDS = 2000  # with a list that never ends there would be no end
Entry = tuple[bytes, bytes]
"""The id of an entry, and its event as JSON."""


class EventStream:
    """The accepted events of one namespace. Every method raises StoreError where the store does not do as asked."""

    def __init__(self, store: Store, keys: UserKeys, index: EntryIndex) -> None:
        """index: of the entries of this stream."""
        self._store, self._keys, self._index = store, keys, index

    async def pages_after(
        self, entry_id: bytes, timeout_s: float, last: bytes = _LAST
    ) -> AsyncGenerator[list[Entry], None]:
        """Yield the entries after an id, the oldest first, in pages of up to PAGE_ENTRIES.

        timeout_s: of each read. last: the id of the last one that is wanted.
        """
        async with aclosing(self._read(b"(" + entry_id, last, timeout_s)) as pages:
            async for page in pages:
                yield [(each, fields.get(b"event", b"")) for each, fields in page]

    async def state(self, timeout_s: float) -> StreamState:
        """Return where the stream ends now, and what is its oldest entry."""
        return await read_state(self._store, self._keys.stream, timeout_s)

    async def erase_user(self, user_id: str, timeout_s: float, *, within_s: float) -> tuple[int, bool]:
        """Delete a user's entries; return how many, and whether there is no other.

        They are found in the user's list. Only entries that may be in no list are looked at one by one, as far as the
        time allows. timeout_s: of each call. within_s: no page is looked at that comes later than this.
        """
        end = time.monotonic() + within_s
        state = await self._index.state(timeout_s)
        if state is None:
            await self._index.drop(user_id, timeout_s)
            return 0, True
        is_complete = state.is_listed or await self._list_others(state, timeout_s, end)
        n_erased, is_whole = await self._erase_listed(user_id, timeout_s)
        n_erased += await self._erase_strays(user_id, timeout_s)
        last = b"%d" % state.expired_ms if is_whole else _LAST
        n_more, is_seen = await self._erase_matching(user_id, last, timeout_s, end)
        return n_erased + n_more, is_complete and is_seen

    async def _list_others(self, state: IndexState, timeout_s: float, end: float) -> bool:
        """List the entries that may be in no list; return whether there was time for all of them."""
        start = state.cursor if order(state.cursor) <= order(state.last) else _NOTHING
        async with aclosing(self._read(b"(" + start, state.last, timeout_s)) as pages:
            async for page in pages:
                if time.monotonic() >= end:
                    return False
                await self._index.add(page, timeout_s)
                if page:
                    await self._index.note_part(page[-1][0], timeout_s)
        await self._index.note(state, timeout_s)
        return True

    async def _erase_listed(self, user_id: str, timeout_s: float) -> tuple[int, bool]:
        """Delete the entries of a user's list; return how many there were, and whether the list was whole."""
        n_erased, is_whole = 0, True
        while True:
            listed, is_list = await self._index.first(user_id, timeout_s)
            if not is_list:
                await self._index.drop(user_id, timeout_s)
                return n_erased, False
            if not listed:
                return n_erased, is_whole
            ids = [each for each in listed if is_entry_id(each)]
            is_whole = is_whole and len(ids) == len(listed)
            n_erased += await self._erase(ids, timeout_s)
            await self._index.remove(user_id, listed, timeout_s)
        return n_erased, False

    async def _erase_strays(self, user_id: str, timeout_s: float) -> int:
        """Delete the entries which cannot be read, or name no user, and in which the user's id stands all the same."""
        holds, n_erased, done = _holder_of(user_id), 0, []
        for entry_id in filter(is_entry_id, await self._index.strays(timeout_s)):
            page = read_entries(
                await self._store.call_one("erase", ("XRANGE", self._keys.stream, entry_id, entry_id), timeout_s)
            )
            is_mine = any(holds(fields) for _, fields in page)
            if is_mine:
                n_erased += await self._erase([entry_id], timeout_s)
            if is_mine or not page:
                done.append(entry_id)
        if done:
            await self._index.forget_strays(done, timeout_s)
        return n_erased

    async def _erase_matching(self, user_id: str, last: bytes, timeout_s: float, end: float) -> tuple[int, bool]:
        """Look at every entry up to an id, and delete the user's; return how many, and whether all were looked at."""
        holds, n_erased = _holder_of(user_id), 0
        async with aclosing(self._read(_FIRST, last, timeout_s)) as pages:
            async for page in pages:
                if page and time.monotonic() >= end:
                    return n_erased, False
                users = [user_of(fields) for _, fields in page]
                n_erased += await self._erase(
                    [
                        entry_id
                        for (entry_id, fields), user in zip(page, users, strict=True)
                        if user == user_id or (user is None and holds(fields))
                    ],
                    timeout_s,
                )
        return n_erased, True

    async def _erase(self, entry_ids: Sequence[bytes], timeout_s: float) -> int:
        if not entry_ids:
            return 0
        return int(await self._store.call_one("erase", ("XDEL", self._keys.stream, *entry_ids), timeout_s))

    async def _read(self, start: bytes, last: bytes, timeout_s: float) -> AsyncGenerator[list[tuple[bytes, Fields]]]:
        """Yield pages of the entries between two ids, the oldest first."""
        before = (-1, -1)
        while True:
            command = ("XRANGE", self._keys.stream, start, last, "COUNT", PAGE_ENTRIES)
            most_bytes = PAGE_ENTRIES * ENTRY_BYTES
            found = read_entries(await self._store.call_one("user", command, timeout_s, most_bytes=most_bytes))
            ids = [entry_id for entry_id, _ in found]
            await self._store.require(are_ids(ids) and (not ids or order(ids[-1]) > before))  # else it might not end
            yield found
            if len(found) < PAGE_ENTRIES:
                return
            before, start = order(ids[-1]), b"(" + ids[-1]


def _holder_of(user_id: str) -> Callable[[Fields], bool]:
    """Return what says whether an entry that cannot be read, and so is no event, has a user's id anywhere in it."""
    written = (user_id.encode(), orjson.dumps(user_id)[1:-1], json.dumps(user_id)[1:-1].encode())

    def holds(fields: Fields) -> bool:
        parts = [*fields.keys(), *fields.values()]
        return any(each in part for each in written for part in parts)

    return holds
