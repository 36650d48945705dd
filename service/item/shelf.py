"""The records of live items in the store, and what has changed of them.

    {namespace}:items:{{namespace}:items:N}:records    hash: item id -> record, JSON, see service/catalogue/live_item.py
    {namespace}:items:{{namespace}:items:N}:changes    sorted set: item id -> the number of its last change
    {namespace}:items:{{namespace}:items:N}:state      hash: n, the number of changes; token, of these data alone

Items are spread over N_SHARDS shards by a hash of their ids, so that a Cluster spreads them over its nodes. A record
and the number of its change are written by one script. Whoever follows asks for what has changed after the number that
it knows, and finds each item once however often it was changed: nothing is ever trimmed, and nobody falls behind. A
token that is another one says that the data are other ones, and everything is read anew.
"""

import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.catalogue.live_item import MOST_RECORD_BYTES, LiveItem
from service.errors import StoreError
from service.store.client import Store
from service.store.connection import Command
from service.store.reply import WRONG_TYPE, are_numbers, read_hash, read_scores, unless_wrong_type

N_SHARDS = 8
_PAGE = 500
_AT_ONCE = 100
_ID_BYTES = 1024
_MOST_REPLY_BYTES = _AT_ONCE * (MOST_RECORD_BYTES + 64)
_MOST_NUMBER = 2**53
"""No change has a greater number: a member that somebody else has written with one must not hide those that come."""
_OP = "items"
_TYPES = ("hash", "zset", "hash")  # of the keys of a shard
_MOST_NAMED = 3
# KEYS: records, changes, state. ARGV: a token; then of each item its id, its record, and the record that must still be
# there, or "*" where any may be. Returns the number of each change, 0 where another record was there.
_WRITE = """
redis.call('HSETNX', KEYS[3], 'token', ARGV[1])
local numbers = {}
for i = 2, #ARGV, 3 do
  local n = 0
  if ARGV[i + 2] == '*' or (redis.call('HGET', KEYS[1], ARGV[i]) or '') == ARGV[i + 2] then
    n = redis.call('HINCRBY', KEYS[3], 'n', 1)
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call('ZADD', KEYS[2], n, ARGV[i])
  end
  numbers[#numbers + 1] = n
end
return numbers
"""

# KEYS: records, changes. ARGV: of each item its id, and the record that must still be there. Returns how many are gone.
_REMOVE = """
local gone = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    gone = gone + 1
  end
end
return gone
"""


@dataclass(frozen=True, slots=True)
class Place:
    """How far the changes of a shard are known. token: of which data; empty: of none."""

    token: bytes = b""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """What has changed of a shard. place: up to where. is_anew: it begins with the first change of other data."""

    place: Place
    item_ids: Sequence[str]
    is_anew: bool


def shard_of(item_id: str) -> int:
    """Return the shard that an item belongs to."""
    return zlib.crc32(item_id.encode()) % N_SHARDS


class ItemShelf:
    """The live items of one namespace. Methods raise StoreError where the store does not do as asked."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        tags = [f"{namespace}:items:{{{namespace}:items:{shard}}}" for shard in range(N_SHARDS)]
        self.keys = [(f"{tag}:records", f"{tag}:changes", f"{tag}:state") for tag in tags]

    async def write(self, records: Mapping[str, LiveItem], timeout_s: float) -> dict[str, int]:
        """Write records, whatever was there; return the number of each one's change."""
        return await self._write({item_id: (record, b"*") for item_id, record in records.items()}, timeout_s)

    async def replace(self, item_id: str, record: LiveItem, before: LiveItem | None, timeout_s: float) -> int | None:
        """Write a record in the place of the one that was there before; return the number of the change.

        None where another record is there by now.
        """
        expected = b"" if before is None else before.pack()
        numbers = await self._write({item_id: (record, expected)}, timeout_s)
        return numbers[item_id] or None

    async def _write(self, records: Mapping[str, tuple[LiveItem, bytes]], timeout_s: float) -> dict[str, int]:
        groups: dict[int, list[str]] = {}
        for item_id in records:
            groups.setdefault(shard_of(item_id), []).append(item_id)
        calls: list[Command] = []
        for shard, item_ids in groups.items():
            values = [part for each in item_ids for part in (each, records[each][0].pack(), records[each][1])]
            calls.append((3, *self.keys[shard], secrets.token_hex(8), *values))
        try:
            replies = await self._store.call_script(_OP, _WRITE, calls, timeout_s)
        except StoreError as exc:
            raise (await self._named(exc, groups, timeout_s)) from exc
        are_right = [are_numbers(reply, len(group)) for reply, group in zip(replies, groups.values(), strict=True)]
        await self._store.require(*are_right)
        each = zip(groups.values(), replies, strict=True)
        return {item_id: n for item_ids, numbers in each for item_id, n in zip(item_ids, numbers, strict=True)}

    async def _named(self, exc: StoreError, shards: Iterable[int], timeout_s: float) -> StoreError:
        """Return an error of shards; one of a key that holds something else names it, and what is to be done."""
        if exc.kind != WRONG_TYPE:
            return exc
        keys = [key for shard in shards for key in self.keys[shard]]
        found = await self._store.call(_OP, [("TYPE", key) for key in keys], timeout_s)
        types = [_text_of(each) if isinstance(each, bytes) else None for each in found]
        wrong = [
            f"{key} is a {kind}, and must be a {right}"
            for key, kind, right in zip(keys, types, _TYPES * len(keys), strict=False)
            if kind not in (right, "none")
        ]
        return StoreError(WRONG_TYPE, "; ".join([*wrong[:_MOST_NAMED], "rename or delete it"])) if wrong else exc

    async def remove(self, records: Mapping[str, bytes], timeout_s: float) -> None:
        """Let go of records that say nothing any more, unless others stand in their place by now. Nobody is told."""
        calls: list[Command] = []
        for shard in sorted({shard_of(item_id) for item_id in records}):
            own = [part for each, record in records.items() if shard_of(each) == shard for part in (each, record)]
            calls.append((2, *self.keys[shard][:2], *own))
        replies = await self._store.call_script(_OP, _REMOVE, calls, timeout_s)
        await self._store.require(are_numbers(replies, len(calls)))

    async def changes(self, places: Sequence[Place], timeout_s: float) -> list[Page]:
        """Return a page of what has changed in each shard after its place, in one round trip.

        A shard whose node of a Cluster does not answer has changed nothing as far as is known.
        """
        groups: list[list[Command]] = [
            [
                ("HGETALL", state),
                ("ZRANGEBYSCORE", changes, f"({place.number}", _MOST_NUMBER, "WITHSCORES", "LIMIT", 0, _PAGE),
            ]
            for (_, changes, state), place in zip(self.keys, places, strict=True)
        ]
        found = await self._store.call_each(_OP, groups, timeout_s, most_bytes=_PAGE * _ID_BYTES)
        if all(isinstance(reply, StoreError) for replies in found for reply in replies):
            raise found[0][0]
        return [self._page(place, *replies) for place, replies in zip(places, found, strict=True)]

    def _page(self, place: Place, state: object, changes: object) -> Page:
        try:
            token = read_hash(unless_wrong_type(state, [])).get(b"token", b"")
            pairs = read_scores(unless_wrong_type(changes, []))
            numbers = [int(float(score)) for _, score in pairs]
            item_ids = [found for member, _ in pairs if (found := _text_of(member)) is not None]
        except (StoreError, ValueError):
            return Page(place, [], is_anew=False)
        if token != place.token:
            return Page(Place(token), [], is_anew=bool(place.token) or not token)
        return Page(Place(token, max(numbers, default=place.number)), item_ids, is_anew=False)

    async def read(self, shard: int, item_ids: Sequence[str], timeout_s: float) -> dict[str, bytes]:
        """Return the records of items of one shard; what has none is left out. timeout_s: of each hundred."""
        found: dict[str, bytes] = {}
        for first in range(0, len(item_ids), _AT_ONCE):
            some = item_ids[first : first + _AT_ONCE]
            command = ("HMGET", self.keys[shard][0], *some)
            reply = await self._store.call_one(_OP, command, timeout_s, most_bytes=_MOST_REPLY_BYTES)
            is_list = isinstance(reply, list) and len(reply) == len(some)
            await self._store.require(is_list)
            found |= {each: value for each, value in zip(some, reply, strict=True) if isinstance(value, bytes)}
        return found


def _text_of(member: bytes) -> str | None:
    """Return an item id; None of what this service has not written."""
    try:
        return member.decode()
    except UnicodeDecodeError:
        return None
