"""Which entries of the stream are whose: the ids of each user's entries, so that an erasure finds them without a scan.

    {namespace}:{user}:s                        list: ids of the user's entries, the oldest first; it lives as long as
                                                the history. Ids of entries that the stream has dropped are trimmed
    {namespace}:{{namespace}:events}:account    hash. counted: entries written with their id in a list. offset: entries
                                                ever added, less counted, when all were listed last. cursor: the last
                                                entry then. life: the shortest life of a list, in s
    {namespace}:{{namespace}:events}:strays     list: ids of entries that name no user

Entries that another program has written, or a version of this service without the lists, are not counted. So it is
known whether there are any, and only then is the stream read from the cursor on, once, and its entries listed.

In a Cluster the stream lies on another node than the lists, and an entry is listed after it is written. Meanwhile a
mark stands in the list: "?", a time after which the entry has long been dropped, and digits. A mark that has stayed
there says that an entry of the user may not be listed.
"""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from service.store.client import Store
from service.store.connection import Command
from service.store.reply import are_ids, unless_wrong_type
from service.user.key import UserKeys

_AT_ONCE = 1000
_MARK_MS = 86_400_000
_ENTRY_ID = re.compile(rb"\d+-\d+")
Fields = dict[bytes, bytes]
"""The fields of an entry."""
# KEYS: stream, account. ARGV: life of a list in s, and the caller's clock in ms, for users of the store who may not ask
# for the server's. Returns nothing where there is no stream.
_STATE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('DEL', KEYS[2]) end
local info, of = redis.call('XINFO', 'STREAM', KEYS[1]), {}
for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
local account = redis.call('HMGET', KEYS[2], 'counted', 'offset', 'cursor', 'life')
local unlisted = of['entries-added'] and of['entries-added'] - (account[1] or 0)
local life, time = math.min(ARGV[1], account[4] or ARGV[1]), redis.pcall('TIME')
local now = time.err and math.floor(ARGV[2] / 1000) or time[1]
local is_listed = unlisted and unlisted == tonumber(account[2] or 0)
return {is_listed and 1 or 0, tostring(unlisted or 0), account[3] or '0-0', of['last-generated-id'],
  tostring(now - life + 1)}
"""
# KEYS: a list. ARGV: ids that were at its head; those that still are get removed.
_REMOVE = """
for _, id in ipairs(ARGV) do
  if redis.call('LINDEX', KEYS[1], 0) == id then redis.call('LPOP', KEYS[1]) end
end
return 1
"""


@dataclass(frozen=True, slots=True)
class IndexState:
    """How far the lists are true. is_listed: every entry is in the list of its user, or was until the list expired.

    unlisted: entries ever added that no writer has counted. cursor, last: the entries between these ids may not be
    listed. expired_ms: lists of users whose last entry is older, in Unix ms, may have expired.
    """

    is_listed: bool
    unlisted: int
    cursor: bytes
    last: bytes
    expired_ms: int


class EntryIndex:
    """The lists of one namespace. Every method raises StoreError where the store does not do as asked."""

    def __init__(self, store: Store, keys: UserKeys, life_s: int) -> None:
        """life_s: of a list, from its last entry on."""
        self._store, self._keys, self._life_s = store, keys, life_s

    async def state(self, timeout_s: float) -> IndexState | None:
        """Return how far the lists are true; None where there is no stream."""
        keys = (self._keys.stream, self._keys.account)
        (found,) = await self._store.call_script("erase", _STATE, [(2, *keys, self._life_s, now_ms())], timeout_s)
        if found == []:
            return None
        try:
            is_listed, unlisted, cursor, last, expired_s = found
            state = IndexState(is_listed == 1, int(float(unlisted)), cursor, last, int(float(expired_s)) * 1000 + 999)
        except (TypeError, ValueError, OverflowError):
            raise await self._store.undecodable() from None
        await self._store.require(are_ids([cursor, last]))
        return state

    async def add(self, entries: Sequence[tuple[bytes, Fields]], timeout_s: float) -> None:
        """List entries, each with its user, or among the strays if it names none."""
        lists: dict[str, list[bytes]] = {}
        for entry_id, fields in entries:
            user_id = user_of(fields)
            key = self._keys.strays if user_id is None else self._keys.entries(user_id)
            lists.setdefault(key, []).append(entry_id)
        commands: list[Command] = []
        for key, ids in lists.items():
            commands += [("RPUSH", key, *ids), ("EXPIRE", key, self._life_s)]
        if commands:
            replies = await self._store.call_each("erase", [commands], timeout_s)
            for reply in replies[0]:
                unless_wrong_type(reply, 0)  # a key that is not ours: its user's entries are found by a scan

    async def note(self, state: IndexState, timeout_s: float) -> None:
        """Note that all entries up to state.last are listed."""
        fields = ("offset", state.unlisted, "cursor", state.last)
        await self._store.call_one("erase", ("HSET", self._keys.account, *fields), timeout_s)

    async def note_part(self, cursor: bytes, timeout_s: float) -> None:
        """Note that the entries up to an id are listed, and that later ones may not be."""
        await self._store.call_one("erase", ("HSET", self._keys.account, "cursor", cursor), timeout_s)

    async def first(self, user_id: str, timeout_s: float) -> tuple[list[bytes], bool]:
        """Return what stands at the head of a user's list, and whether it is a list."""
        command = ("LRANGE", self._keys.entries(user_id), 0, _AT_ONCE - 1)
        ((reply,),) = await self._store.call_each("erase", [[command]], timeout_s)
        found: list[bytes] | None = unless_wrong_type(reply, None)
        return found or [], found is not None

    async def remove(self, user_id: str, ids: Sequence[bytes], timeout_s: float) -> None:
        """Remove what first() returned, as far as it still stands there."""
        await self._store.call_script("erase", _REMOVE, [(1, self._keys.entries(user_id), *ids)], timeout_s)

    async def drop(self, user_id: str, timeout_s: float) -> None:
        """Delete the key of a user's list."""
        await self._store.call_one("erase", ("DEL", self._keys.entries(user_id)), timeout_s)

    async def strays(self, timeout_s: float) -> list[bytes]:
        """Return the ids of entries that name no user."""
        command = ("LRANGE", self._keys.strays, 0, _AT_ONCE - 1)
        ((reply,),) = await self._store.call_each("erase", [[command]], timeout_s)
        found: list[bytes] = unless_wrong_type(reply, [])
        return found

    async def forget_strays(self, ids: Sequence[bytes], timeout_s: float) -> None:
        """Take entries off the list of those that name no user."""
        await self._store.call("erase", [("LREM", self._keys.strays, 0, each) for each in ids], timeout_s)


def make_mark() -> bytes:
    """Return a mark for a user whose entry is being written in a Cluster."""
    return b"?%d-%d" % (now_ms() + _MARK_MS, secrets.randbits(50))


def now_ms() -> int:
    """Return this machine's Unix time in ms."""
    return int(time.time() * 1000)


def is_entry_id(text: bytes) -> bool:
    """Return whether what stands in a list is the id of an entry, and not a mark."""
    return _ENTRY_ID.fullmatch(text) is not None


def user_of(fields: Fields) -> str | None:
    """Return the user whose event an entry is; None if it cannot be read, or names none."""
    try:
        event: Any = orjson.loads(fields.get(b"event", b""))
    except orjson.JSONDecodeError:
        return None
    user_id = event.get("user_id") if isinstance(event, dict) else None
    return user_id if isinstance(user_id, str) else None
