"""The histories of users: what each did, in the order of time, and the writing of new events.

    {namespace}:{user}:h    sorted set: member = tie_hash(user_id, item_id) item_id 0x00 (event_id or time in ms),
                            score = Unix seconds to the ms. ZRANGE gives the order that training saw, ties included

History, stream and the user's list of stream entries (see entry_index) are written by one small script a user, so that
an event is in all or in none, and a repeated event is not in any twice. Whoever changes a history also puts a token in
the place of the user's record, or deletes it, because the embedding was made from the old history (see embedding).

A history keeps the newest events. Of one that is older than all of a full history nobody can know whether it was there
before; it is not kept, neither in the history nor in the stream, and its sender is told so.

In a Cluster history and stream lie on different nodes. New events are written to the stream first there, so that what
is in the history is always in the stream too. An event may then stand in the stream twice; export writes it once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from service.errors import StoreError
from service.store.client import Store
from service.store.connection import Command
from service.store.guard import MOST_BYTES
from service.store.reply import Reply, are_ids, are_numbers, read_scores, unless_wrong_type
from service.user.entry_index import make_mark
from service.user.event import MAX_MEMBER_BYTES, StoredEvent, read_member
from service.user.key import UserKeys
from service.user.record import VERSION_BYTES, read_version

# KEYS: history, record, list of entries; stream and account, but in a Cluster. ARGV: events kept, life of the history
# in s, entries kept in the stream, its oldest entry and the mark in the list (both only in a Cluster), then score,
# member and stream entry for each event. In a Cluster the id of the entry stands where the entry would, and nothing for
# an event that was not written to the stream. Types are checked before any write, because a script that fails half-way
# is not undone. A key of the user that holds another type is not this service's, and is replaced.
_APPEND = """
local function is_before(a, b)
  local a_ms, a_n, b_ms, b_n = a:match('(%d+)-(%d+)')
  b_ms, b_n = b:match('(%d+)-(%d+)')
  if not (a_ms and b_ms) then return false end
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_n) < tonumber(b_n))
end
local kind = KEYS[4] and redis.call('TYPE', KEYS[4]).ok or 'none'
if kind ~= 'none' and kind ~= 'stream' then return redis.error_reply('WRONGTYPE the event stream is a ' .. kind) end
for place, right in ipairs({'zset', false, 'list', false, 'hash'}) do
  kind = right and KEYS[place] and redis.call('TYPE', KEYS[place]).ok
  if kind and kind ~= 'none' and kind ~= right then redis.call('DEL', KEYS[place]) end
end
local kept, token, oldest, n_written = {}, nil, ARGV[4], 0
for i = 6, #ARGV, 3 do
  local result = 0
  if KEYS[4] or ARGV[i + 2] ~= '' then
    result = redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1])
    if result == 1 and redis.call('ZREVRANK', KEYS[1], ARGV[i + 1]) >= tonumber(ARGV[1]) then
      redis.call('ZREM', KEYS[1], ARGV[i + 1])
      result = -1
    end
    local id = not KEYS[4] and ARGV[i + 2]
    if KEYS[4] and result == 1 then
      id = redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[i + 2])
    end
    if id then
      redis.call('RPUSH', KEYS[3], id)
      n_written = n_written + 1
    end
    if result == 1 then token = id end
  end
  kept[#kept + 1] = result
end
if KEYS[4] and n_written > 0 then
  redis.pcall('HINCRBY', KEYS[5], 'counted', n_written)
  local life = redis.pcall('HGET', KEYS[5], 'life')
  if not (tonumber(life) and tonumber(life) <= tonumber(ARGV[2])) then redis.pcall('HSET', KEYS[5], 'life', ARGV[2]) end
  oldest = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1][1]
end
if ARGV[5] ~= '' then redis.call('LREM', KEYS[3], 0, ARGV[5]) end
for _ = 0, 2 * n_written do
  local head = redis.call('LINDEX', KEYS[3], 0)
  if not (head and is_before(head, oldest)) then break end
  redis.call('LPOP', KEYS[3])
end
if token then redis.call('SET', KEYS[2], 'x' .. token, 'EX', 3600) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[2])
return kept
"""
# KEYS: stream, account. ARGV: life of a list in s, entries kept in the stream, entries. Returns the oldest entry's id,
# and the new entries'.
_WRITE_STREAM = """
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'hash' then redis.call('DEL', KEYS[2]) end
local ids = {}
for i = 3, #ARGV do
  ids[#ids + 1] = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[i])
end
redis.pcall('HINCRBY', KEYS[2], 'counted', #ids)
local life = redis.pcall('HGET', KEYS[2], 'life')
if not (tonumber(life) and tonumber(life) <= tonumber(ARGV[1])) then redis.pcall('HSET', KEYS[2], 'life', ARGV[1]) end
table.insert(ids, 1, redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1])
return ids
"""
# KEYS: history, record. ARGV: events kept, life of the history in s, then score and member for each event.
_LOAD = """
local n_new = 0
for i = 3, #ARGV, 2 do
  if redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1]) == 1 then
    if redis.call('ZREVRANK', KEYS[1], ARGV[i + 1]) >= tonumber(ARGV[1]) then
      redis.call('ZREM', KEYS[1], ARGV[i + 1])
    else
      n_new = n_new + 1
    end
  end
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
return n_new
"""
_SCORE_BYTES = 64  # of a score and the lengths, as the server writes them


class Kept(IntEnum):
    """What became of an event. TOO_OLD: older than all of a full history, so not kept; perhaps it was there before."""

    TOO_OLD = -1
    KNOWN = 0
    NEW = 1


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept of events. events: of a user, the newest. stream: of all users, about.

    history_ttl_s: how long a history lives after its last new event.
    """

    events: int = 500
    history_ttl_s: int = 180 * 86_400
    stream: int = 1_000_000


class History:
    """The histories of all users of one namespace.

    max_events: kept of a user. most_bytes: of the reply to reading().
    """

    def __init__(self, store: Store, keys: UserKeys, retention: Retention) -> None:
        self._store, self._keys, self._keep = store, keys, retention
        self.max_events = retention.events
        self.most_bytes = MOST_BYTES + retention.events * (MAX_MEMBER_BYTES + _SCORE_BYTES)

    async def read(self, user_ids: Sequence[str], timeout_s: float) -> list[list[str] | StoreError]:
        """Read users' histories whole, in one round trip: item ids, the oldest first. Raises StoreError.

        A user whose node of a Cluster does not answer has a StoreError of its own.
        """
        groups = [[self.reading(user_id)] for user_id in user_ids]
        found = await self._store.call_each("read", groups, timeout_s, most_bytes=self.most_bytes)
        return [self.item_ids(user_id, reply) for user_id, (reply,) in zip(user_ids, found, strict=True)]

    def reading(self, user_id: str) -> Command:
        """Return the command that reads a user's history whole, for a round trip that reads other things too."""
        return ("ZRANGE", self._keys.history(user_id), -self._keep.events, -1, "WITHSCORES")

    def item_ids(self, user_id: str, reply: Reply) -> list[str] | StoreError:
        """Return the items that the reply to reading() names, the oldest first, or the error that it is.

        They are what training saw: events of one item at one time count once, whatever their event ids.
        """
        try:
            scores = read_scores(unless_wrong_type(reply, []))
        except StoreError as exc:
            return exc
        item_ids: list[str] = []
        last: tuple[str, bytes] | None = None
        for member, score in scores:
            found = self._read_member(user_id, member)
            if found is not None and (found[0], score) != last:
                last = (found[0], score)
                item_ids.append(found[0])
        return item_ids

    async def append(self, events: Sequence[StoredEvent], timeout_s: float) -> list[Kept]:
        """Keep events; return what became of each. Raises StoreError unless every one is confirmed stored."""
        by_user: dict[str, list[int]] = {}
        for place, event in enumerate(events):
            by_user.setdefault(event.user_id, []).append(place)
        groups = [[events[place] for place in places] for places in by_user.values()]
        found = await (self._append_apart if self._store.is_cluster else self._append_together)(groups, timeout_s)
        kept = [Kept.KNOWN] * len(events)
        for places, results in zip(by_user.values(), found, strict=True):
            for place, result in zip(places, results, strict=True):
                kept[place] = result
        return kept

    async def load(self, groups: Sequence[Sequence[StoredEvent]], timeout_s: float) -> int:
        """Keep events, each group of one user, without the stream; return how many were new. Raises StoreError."""
        arguments = []
        for group in groups:
            user_id = group[0].user_id
            pairs = [part for event in group for part in (event.score, event.member)]
            keys = (self._keys.history(user_id), self._keys.record(user_id))
            arguments.append((2, *keys, self._keep.events, self._keep.history_ttl_s, *pairs))
        replies = await self._store.call_script("append", _LOAD, arguments, timeout_s)
        await self._store.require(are_numbers(replies, len(groups)))
        return sum(replies)

    async def describe(self, user_id: str, timeout_s: float) -> dict[str, Any]:
        """Return what is kept of a user: events oldest first, times to live, the embedding. Raises StoreError."""
        history_key, record_key = self._keys.history(user_id), self._keys.record(user_id)
        commands = [
            ("ZRANGE", history_key, 0, -1, "WITHSCORES"),
            ("TTL", history_key),
            ("GETRANGE", record_key, 0, VERSION_BYTES - 1),
            ("TTL", record_key),
        ]
        ((history, history_ttl_s, head, record_ttl_s),) = await self._store.call_each(
            "user", [commands], timeout_s, most_bytes=self.most_bytes
        )
        scores = read_scores(unless_wrong_type(history, []))
        try:
            read = [(self._read_member(user_id, member), float(score)) for member, score in scores]
        except ValueError:
            raise await self._store.undecodable() from None
        events = [{"item_id": found[0], "timestamp": score, "key": found[1]} for found, score in read if found]
        version = read_version(unless_wrong_type(head, b""))
        ttl_s, record_ttl_s = unless_wrong_type(history_ttl_s, 0), unless_wrong_type(record_ttl_s, 0)
        return {
            "count": len(events),
            "history": events,
            "history_expires_in_s": ttl_s if ttl_s > 0 else None,
            "embedding": version and {"model_version": version, "expires_in_s": max(0, record_ttl_s)},
        }

    async def erase(self, user_id: str, timeout_s: float) -> int:
        """Delete a user's history, and the record made from it; return how many keys there were. Raises StoreError."""
        keys = [self._keys.history(user_id), self._keys.record(user_id)]
        return int(sum(await self._store.call("erase", [("DEL", key) for key in keys], timeout_s)))

    async def _append_together(self, groups: Sequence[Sequence[StoredEvent]], timeout_s: float) -> list[list[Kept]]:
        """Keep events, each group of one user, in history and stream at once."""
        more = (self._keys.stream, self._keys.account)
        arguments = [self._arguments(group, [event.to_json() for event in group], more) for group in groups]
        return await self._run_append(groups, arguments, timeout_s)

    async def _append_apart(self, groups: Sequence[Sequence[StoredEvent]], timeout_s: float) -> list[list[Kept]]:
        """Keep events, each group of one user, in the stream and then in the histories, which lie elsewhere."""
        mark = make_mark()
        known = await self._store.call_each("append", [self._asking(group, mark) for group in groups], timeout_s)
        judged = [_judge(group, replies) for group, replies in zip(groups, known, strict=True)]
        await self._store.require(*(len(each) == len(group) for each, group in zip(judged, groups, strict=True)))
        new = [
            event.to_json()
            for group, results in zip(groups, judged, strict=True)
            for event, result in zip(group, results, strict=True)
            if result is Kept.NEW
        ]
        oldest, ids = b"", iter(())
        if new:
            head = (2, self._keys.stream, self._keys.account, self._keep.history_ttl_s, self._keep.stream)
            (written,) = await self._store.call_script("append", _WRITE_STREAM, [(*head, *new)], timeout_s)
            await self._store.require(are_ids(written, len(new) + 1))
            oldest, ids = written[0], iter(written[1:])
        entries = [[next(ids) if result is Kept.NEW else b"" for result in results] for results in judged]
        arguments = [
            self._arguments(group, each, (), oldest, mark) for group, each in zip(groups, entries, strict=True)
        ]
        kept = await self._run_append(groups, arguments, timeout_s)
        return [
            [result if entry else before for result, entry, before in zip(found, each, results, strict=True)]
            for found, each, results in zip(kept, entries, judged, strict=True)
        ]

    async def _run_append(
        self, groups: Sequence[Sequence[StoredEvent]], arguments: Sequence[Command], timeout_s: float
    ) -> list[list[Kept]]:
        replies = await self._store.call_script("append", _APPEND, arguments, timeout_s)
        for reply, group in zip(replies, groups, strict=True):
            await self._store.require(are_numbers(reply, len(group)) and set(reply) <= set(Kept))
        return [[Kept(result) for result in reply] for reply in replies]

    def _asking(self, group: Sequence[StoredEvent], mark: bytes) -> list[Command]:
        """Return the commands that ask for what is known of a group's events, and mark their user's list."""
        history, listed = self._keys.history(group[0].user_id), self._keys.entries(group[0].user_id)
        return [
            ("RPUSH", listed, mark),
            ("EXPIRE", listed, self._keep.history_ttl_s),
            ("ZMSCORE", history, *[event.member for event in group]),
            ("ZRANGE", history, -self._keep.events, -self._keep.events, "WITHSCORES"),
        ]

    def _arguments(
        self,
        group: Sequence[StoredEvent],
        entries: Sequence[bytes],
        more_keys: Sequence[str],
        oldest: bytes = b"",
        mark: bytes = b"",
    ) -> Command:
        parts: list[bytes | str] = []
        for event, entry in zip(group, entries, strict=True):
            parts += [event.score, event.member, entry]
        user_id = group[0].user_id
        own = (self._keys.history(user_id), self._keys.record(user_id), self._keys.entries(user_id))
        keys = (*own, *more_keys)
        return (len(keys), *keys, self._keep.events, self._keep.history_ttl_s, self._keep.stream, oldest, mark, *parts)

    def _read_member(self, user_id: str, member: bytes) -> tuple[str, str] | None:
        found = read_member(user_id, member)
        if found is None:
            self._store.count_undecodable()
        return found


def _judge(group: Sequence[StoredEvent], replies: Sequence[Reply]) -> list[Kept]:
    """Say what is to become of a group's events, by the replies to what was asked of their user."""
    marked, _, scores, oldest = replies
    unless_wrong_type(marked, 0)  # a list of another type is replaced later; without a mark nothing may be written
    known = unless_wrong_type(scores, [None] * len(group))
    bound = [(float(score), member) for member, score in read_scores(unless_wrong_type(oldest, []))]
    seen: set[bytes] = set()
    judged: list[Kept] = []
    for event, score in zip(group, known, strict=False):
        is_known = score is not None or event.member in seen
        is_too_old = bool(bound) and (float(event.score), event.member) < bound[0]
        judged.append(Kept.KNOWN if is_known else Kept.TOO_OLD if is_too_old else Kept.NEW)
        seen.add(event.member)
    return judged
