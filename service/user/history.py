"""The histories of users: what each did, in the order of time, and the writing of new events.

    {namespace}:{user}:h    sorted set: member = tie_hash(user_id, item_id) item_id 0x00 (event_id or time in ms),
                            score = Unix seconds to the ms. ZRANGE gives the order that training saw, ties included

History and stream are written by one small script a user, so that an event is in both or in neither, and a repeated
event is not in either twice. Whoever changes a history also puts a token in the place of the user's record, or deletes
it, because the embedding was made from the old history (see embedding).

In a Cluster history and stream lie on different nodes. New events are written to the stream first there, so that what
is in the history is always in the stream too. An event may then stand in the stream twice; export writes it once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import StoreError
from service.store.client import Store
from service.store.connection import Command
from service.store.guard import MOST_BYTES
from service.store.reply import Reply, read_scores, unless_wrong_type
from service.user.event import MAX_MEMBER_BYTES, StoredEvent, read_member
from service.user.key import UserKeys
from service.user.record import VERSION_BYTES, read_version

# KEYS: history, record, stream. ARGV: events kept, life of the history in s, entries kept in the stream, then score,
# member and stream entry for each event. Without a stream (in a Cluster) the id of the entry stands where the entry
# would. Types are checked before any write, because a script that fails half-way is not undone. A history key that
# holds another type is not this service's, and is replaced.
_APPEND = """
local kind = KEYS[3] and redis.call('TYPE', KEYS[3]).ok or 'none'
if kind ~= 'none' and kind ~= 'stream' then return redis.error_reply('WRONGTYPE the event stream is a ' .. kind) end
kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'zset' then redis.call('DEL', KEYS[1]) end
local added, token = {}, nil
for i = 4, #ARGV, 3 do
  local new = redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1])
  if new == 1 then
    token = KEYS[3] and redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[i + 2]) or ARGV[i + 2]
  end
  added[#added + 1] = new
end
if token then redis.call('SET', KEYS[2], 'x' .. token, 'EX', 3600) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return added
"""
_SCORE_BYTES = 64  # of a score and the lengths, as the server writes them


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

    async def append(self, events: Sequence[StoredEvent], timeout_s: float) -> list[bool]:
        """Keep events; return for each whether it was new. Raises StoreError unless every one is confirmed stored."""
        by_user: dict[str, list[int]] = {}
        for place, event in enumerate(events):
            by_user.setdefault(event.user_id, []).append(place)
        groups = [[events[place] for place in places] for places in by_user.values()]
        entries = [[event.to_json() for event in group] for group in groups]
        if self._store.is_cluster:
            entries = await self._write_stream(groups, entries, timeout_s)
        arguments = [self._append_arguments(*each) for each in zip(groups, entries, strict=True)]
        sizes = [len(group) for group in groups]
        replies = await self._store.call_script("append", _APPEND, arguments, timeout_s, n_numbers=sizes)
        added = [False] * len(events)
        for places, reply in zip(by_user.values(), replies, strict=True):
            for place, is_new in zip(places, reply, strict=True):
                added[place] = is_new == 1
        return added

    async def load(self, groups: Sequence[Sequence[StoredEvent]], timeout_s: float) -> int:
        """Keep events, each group of one user, without the stream; return how many were new. Raises StoreError."""
        commands: list[Command] = []
        for group in groups:
            key = self._keys.history(group[0].user_id)
            pairs = [part for event in group for part in (event.score, event.member)]
            commands += [
                ("ZADD", key, "NX", *pairs),
                ("ZREMRANGEBYRANK", key, 0, -1 - self._keep.events),
                ("EXPIRE", key, self._keep.history_ttl_s),
                ("DEL", self._keys.record(group[0].user_id)),
            ]
        replies = await self._store.call("append", commands, timeout_s)
        return int(sum(replies[::4]))

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

    async def _write_stream(
        self, groups: Sequence[Sequence[StoredEvent]], entries: Sequence[Sequence[bytes]], timeout_s: float
    ) -> list[list[bytes]]:
        """Write the entries of those events that are in no history; return the new entries' ids, else b""."""
        asked = [
            [("ZMSCORE", self._keys.history(group[0].user_id), *[event.member for event in group])] for group in groups
        ]
        known = await self._store.call_each("append", asked, timeout_s)
        listed = [unless_wrong_type(reply, [None] * len(group)) for group, (reply,) in zip(groups, known, strict=True)]
        if any(len(scores) != len(group) for scores, group in zip(listed, groups, strict=True)):
            raise await self._store.undecodable()
        head = ("XADD", self._keys.stream, "MAXLEN", "~", self._keep.stream, "*", "event")
        new = [
            (*head, entry)
            for scores, each in zip(listed, entries, strict=True)
            for score, entry in zip(scores, each, strict=True)
            if score is None
        ]
        ids = iter(await self._store.call("append", new, timeout_s) if new else [])
        return [[b"" if score is not None else next(ids) for score in scores] for scores in listed]

    def _append_arguments(self, group: Sequence[StoredEvent], entries: Sequence[bytes]) -> Command:
        parts: list[bytes | str] = []
        for event, entry in zip(group, entries, strict=True):
            parts += [event.score, event.member, entry]
        keys = [self._keys.history(group[0].user_id), self._keys.record(group[0].user_id)]
        if not self._store.is_cluster:
            keys.append(self._keys.stream)
        return (len(keys), *keys, self._keep.events, self._keep.history_ttl_s, self._keep.stream, *parts)

    def _read_member(self, user_id: str, member: bytes) -> tuple[str, str] | None:
        found = read_member(user_id, member)
        if found is None:
            self._store.count_undecodable()
        return found
