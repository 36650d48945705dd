"""What the store keeps of users: histories, cached embeddings, and the stream of accepted events.

    {namespace}:{user}:h    sorted set: member = tie_hash(user_id, item_id) item_id 0x00 (event_id or time in ms),
                            score = Unix seconds to the ms. ZRANGE gives the order that training saw, ties included
    {namespace}:{user}:e    the cached embedding, see record
    {namespace}:events      stream, field "event": JSON

History and stream are written by one small script per user: an event is in both or in neither, and a repeated one is in
neither twice. In a Cluster they lie on different nodes: new events go to the stream first there, so that what is in the
history is always in the stream too; in the stream it may stand twice, and export writes it once.

:e saves a request the history: reading it whole, checking every member and looking every item up costs ten times the
ranking. It is believed only if its mark (count, newest member and score) is that of the history now, and that member
bears this user's hash: no answer is built from another user's reply. What a mark cannot see, a late event in a full
history, our own append sees: it puts a token in place of the record, and a record is only written over what its maker
had read before the history.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from service.errors import StoreError
from service.store.client import Store
from service.store.connection import Command
from service.user.event import StoredEvent, read_member
from service.user.record import HEAD_BYTES, TOKEN, VERSION_BYTES, Record, Sight, make_mark, pack_record, unpack_record

# KEYS: history, record, stream. ARGV: keep, ttl, stream cap, then score, member, stream entry for each event. Without
# the stream (in a Cluster) the id of the entry stands where the entry would.
# Types are checked before any write: a script that fails half-way is not undone. A history key of another type is not
# ours to keep, and is replaced.
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
# KEYS: history, record. ARGV: the record's head as it was before the history was read, the new record, ttl.
_REPLACE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('TYPE', KEYS[2]).ok == 'string' and redis.call('GETRANGE', KEYS[2], 0, 23) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1
"""
_SAFE_USER = re.compile(r"[A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept, and for how long."""

    events: int = 500
    history_ttl_s: int = 180 * 86_400
    embedding_ttl_s: int = 86_400
    stream: int = 1_000_000


def encode_user(user_id: str) -> str:
    """Return the user's part of a key: no two users share one, and no brace or colon is left in it."""
    return user_id if _SAFE_USER.fullmatch(user_id) else quote(user_id, safe="").replace("~", "%7E")


class Profile:
    """Histories and embeddings of users, in one store."""

    def __init__(self, store: Store, *, namespace: str, retention: Retention, dim: int, version: str = "") -> None:
        """dim, version: of the model whose records are read and written."""
        self._store = store
        self._namespace = namespace
        self._keep = retention
        self._dim, self._version = dim, version.encode()
        self._record_bytes = HEAD_BYTES + 2 + 4 * retention.events + 4 * dim + 4

    async def look(
        self, user_ids: Sequence[str], timeout_s: float, *, is_whole: bool = False
    ) -> list[Sight | StoreError]:
        """Look at users' records and at the state of their histories, in one round trip. Raises StoreError.

        A user whose node of a Cluster did not answer has an error of its own. is_whole: read the histories in the same
        round trip, in case there is no fresh record.
        """
        commands: list[Command] = []
        for user_id in user_ids:
            key = f"{self._namespace}:{{{encode_user(user_id)}}}:"
            # One byte past the end: a longer value is seen to be wrong without being fetched whole.
            commands.append(("GETRANGE", key + "e", 0, self._record_bytes))
            commands.append(("ZCARD", key + "h"))
            commands.append(("ZRANGE", key + "h", -1, -1, "WITHSCORES"))
            if is_whole:  # after the mark: an event in between makes a record of both stale, not wrong
                commands.append(("ZRANGE", key + "h", -self._keep.events, -1, "WITHSCORES"))
        replies = await self._store.call("read", commands, timeout_s)
        if not is_whole:
            return [self._see(user_id, *replies[3 * i : 3 * i + 3]) for i, user_id in enumerate(user_ids)]
        return [self._see_whole(user_id, *replies[4 * i : 4 * i + 4]) for i, user_id in enumerate(user_ids)]

    def _see_whole(self, user_id: str, value: Any, count: Any, newest: Any, whole: Any) -> Sight | StoreError:
        sight = self._see(user_id, value, count, newest)
        if isinstance(sight, StoreError) or sight.result in ("none", "hit"):
            return sight
        history = self._read_history(user_id, whole)
        return history if isinstance(history, StoreError) else replace(sight, item_ids=history)

    def _see(self, user_id: str, value: Any, count: Any, newest: Any) -> Sight | StoreError:
        if isinstance(count, Exception):
            return self._error_of(count) or Sight("none")
        if isinstance(newest, Exception) or not newest:
            return Sight("none")
        (member, score), *_ = _pairs(newest)
        mark = make_mark(count, member, score if isinstance(score, bytes) else repr(score).encode())
        if isinstance(value, Exception):
            self._store.explain(value)
            return Sight("invalid", mark=mark)
        if read_member(user_id, member) is None:
            return Sight("invalid", mark=mark)  # another user's: reading it whole checks and counts every member
        result, record = unpack_record(value, self._version, mark, self._dim)
        return Sight(result, record, value[:HEAD_BYTES], mark)

    async def read(self, user_ids: Sequence[str], timeout_s: float) -> list[list[str] | StoreError]:
        """Read users' histories whole, in one round trip: item ids, oldest first. Raises StoreError; see look."""
        replies = await self._store.call(
            "read",
            [("ZRANGE", self._history_key(user_id), -self._keep.events, -1, "WITHSCORES") for user_id in user_ids],
            timeout_s,
        )
        return [self._read_history(user_id, reply) for user_id, reply in zip(user_ids, replies, strict=True)]

    def _read_history(self, user_id: str, reply: Any) -> list[str] | StoreError:
        if isinstance(reply, Exception):
            return self._error_of(reply) or []
        return self._item_ids(user_id, _pairs(reply))

    def _error_of(self, result: Exception) -> StoreError | None:
        """Count an error; a key of the wrong type is a missing record."""
        kind = self._store.explain(result)
        return None if kind is None or kind == "wrongtype" else StoreError(kind)

    async def keep(self, records: Sequence[tuple[str, Sight, Record]], timeout_s: float) -> None:
        """Cache records made from what was seen, unless something changed since. Raises StoreError."""
        arguments = [
            (
                2, self._history_key(user_id), self._record_key(user_id), sight.head,
                pack_record(self._version.decode(), sight.mark, record), self._keep.embedding_ttl_s,
            )
            for user_id, sight, record in records
        ]  # fmt: skip
        for result in await self._store.call_script("write_embedding", _REPLACE, arguments, timeout_s):
            if kind := self._store.explain(result):
                raise StoreError(kind)

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
        results = await self._store.call_script("append", _APPEND, arguments, timeout_s)
        added = [False] * len(events)
        for places, result in zip(by_user.values(), results, strict=True):
            if kind := self._store.explain(result):
                raise StoreError(kind)
            for place, is_new in zip(places, result, strict=True):
                added[place] = is_new == 1
        return added

    async def describe(self, user_id: str, timeout_s: float) -> dict[str, Any]:
        """Return what is kept of a user: events oldest first, times to live, the embedding. Raises StoreError."""
        history, history_ttl, embedding, embedding_ttl = await self._store.call(
            "user",
            [
                ("ZRANGE", self._history_key(user_id), 0, -1, "WITHSCORES"),
                ("TTL", self._history_key(user_id)),
                ("GETRANGE", self._record_key(user_id), 0, VERSION_BYTES - 1),
                ("TTL", self._record_key(user_id)),
            ],
            timeout_s,
        )
        raise_unless_wrongtype(self._store.explain(history))
        self._store.explain(embedding)
        pairs = [] if isinstance(history, Exception) else _pairs(history)
        read = [(self._read_member(user_id, member), float(score)) for member, score in pairs]
        events = [{"item_id": found[0], "timestamp": score, "key": found[1]} for found, score in read if found]
        is_record = not isinstance(embedding, Exception) and embedding[:1] != TOKEN
        version = embedding if is_record else b""
        return {
            "count": len(events),
            "history": events,
            "history_expires_in_s": history_ttl if history_ttl > 0 else None,
            "embedding": {"model_version": version.decode(errors="replace"), "expires_in_s": max(0, embedding_ttl)}
            if version
            else None,
        }

    async def erase(self, user_id: str, timeout_s: float) -> int:
        """Delete a user's history and embedding; return how many keys there were. Raises StoreError."""
        results = await self._store.call(
            "erase", [("DEL", self._history_key(user_id)), ("DEL", self._record_key(user_id))], timeout_s
        )
        for result in results:
            if kind := self._store.explain(result):
                raise StoreError(kind)
        return sum(results)

    async def read_stream(self, after: bytes, count: int, timeout_s: float) -> list[tuple[bytes, bytes]]:
        """Return up to count (entry id, event JSON) of the stream past an entry id; b"-" begins. Raises StoreError."""
        start = after if after == b"-" else b"(" + after
        (entries,) = await self._store.call(
            "user", [("XRANGE", f"{self._namespace}:events", start, "+", "COUNT", count)], timeout_s
        )
        if kind := self._store.explain(entries):
            raise StoreError(kind)
        return [(entry[0], _event_of(entry[1])) for entry in entries]

    async def erase_from_stream(self, entry_ids: Sequence[bytes], timeout_s: float) -> int:
        """Delete stream entries; return how many. Raises StoreError."""
        (n_erased,) = await self._store.call("erase", [("XDEL", f"{self._namespace}:events", *entry_ids)], timeout_s)
        if kind := self._store.explain(n_erased):
            raise StoreError(kind)
        return int(n_erased)

    async def load(self, groups: Sequence[Sequence[StoredEvent]], timeout_s: float) -> int:
        """Keep events, each group of one user, without the stream; return how many were new. Raises StoreError."""
        commands: list[Command] = []
        for group in groups:
            key = self._history_key(group[0].user_id)
            pairs = [part for event in group for part in (event.score, event.member)]
            commands += [
                ("ZADD", key, "NX", *pairs),
                ("ZREMRANGEBYRANK", key, 0, -1 - self._keep.events),
                ("EXPIRE", key, self._keep.history_ttl_s),
                ("DEL", self._record_key(group[0].user_id)),
            ]
        results = await self._store.call("append", commands, timeout_s)
        for result in results:
            if kind := self._store.explain(result):
                raise StoreError(kind)
        return int(sum(results[::4]))

    async def _write_stream(
        self, groups: Sequence[Sequence[StoredEvent]], entries: Sequence[Sequence[bytes]], timeout_s: float
    ) -> list[list[bytes]]:
        """Write the entries of events that are not in the histories; return the new entries' ids, else b""."""
        asked = [
            ("ZMSCORE", self._history_key(group[0].user_id), *[event.member for event in group]) for group in groups
        ]
        known = await self._store.call("append", asked, timeout_s)
        for reply in known:
            raise_unless_wrongtype(self._store.explain(reply))
        listed = [
            [None] * len(group) if isinstance(scores, Exception) else scores
            for group, scores in zip(groups, known, strict=True)
        ]
        head = ("XADD", f"{self._namespace}:events", "MAXLEN", "~", self._keep.stream, "*", "event")
        new = [
            (*head, entry)
            for scores, each in zip(listed, entries, strict=True)
            for score, entry in zip(scores, each, strict=True)
            if score is None
        ]
        ids = iter(await self._store.call("append", new, timeout_s) if new else [])
        found = [[b"" if score is not None else next(ids) for score in scores] for scores in listed]
        for each in found:
            for entry_id in each:
                if kind := self._store.explain(entry_id):
                    raise StoreError(kind)
        return found

    def _append_arguments(self, group: Sequence[StoredEvent], entries: Sequence[bytes]) -> Command:
        parts: list[bytes | str] = []
        for event, entry in zip(group, entries, strict=True):
            parts += [event.score, event.member, entry]
        keys = [self._history_key(group[0].user_id), self._record_key(group[0].user_id)]
        if not self._store.is_cluster:
            keys.append(f"{self._namespace}:events")
        return (len(keys), *keys, self._keep.events, self._keep.history_ttl_s, self._keep.stream, *parts)

    def _item_ids(self, user_id: str, pairs: Sequence[tuple[bytes, Any]]) -> list[str]:
        """The items as training saw them: events of one item and one time count once, whatever their event ids."""
        item_ids: list[str] = []
        last: tuple[str, Any] | None = None
        for member, score in pairs:
            found = self._read_member(user_id, member)
            if found is not None and (found[0], score) != last:
                last = (found[0], score)
                item_ids.append(found[0])
        return item_ids

    def _read_member(self, user_id: str, member: bytes) -> tuple[str, str] | None:
        found = read_member(user_id, member)
        if found is None:
            self._store.count_undecodable()
        return found

    def _history_key(self, user_id: str) -> str:
        return f"{self._namespace}:{{{encode_user(user_id)}}}:h"

    def _record_key(self, user_id: str) -> str:
        return f"{self._namespace}:{{{encode_user(user_id)}}}:e"


def raise_unless_wrongtype(kind: str | None) -> None:
    """A key of the wrong type is a missing record; any other error is the store's."""
    if kind is not None and kind != "wrongtype":
        raise StoreError(kind)


def _pairs(flat: Sequence[Any]) -> list[tuple[bytes, Any]]:
    """Pair a WITHSCORES reply, which redis-py leaves flat under some command names."""
    if flat and isinstance(flat[0], (tuple, list)):
        return [(pair[0], pair[1]) for pair in flat]
    return list(zip(flat[::2], flat[1::2], strict=True))


def _event_of(fields: Any) -> bytes:
    if isinstance(fields, dict):
        return bytes(fields.get(b"event", b""))
    return bytes(dict(zip(fields[::2], fields[1::2], strict=True)).get(b"event", b""))
