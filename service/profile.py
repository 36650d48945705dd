"""What the store keeps of users: histories, cached embeddings, and the stream of accepted events.

    {namespace}:{user}:h    sorted set: member = tie_hash(user_id, item_id) item_id 0x00 (event_id or time in ms),
                            score = Unix seconds to the ms. ZRANGE gives the order that training saw, ties included
    {namespace}:{user}:e    bundle version (16) | fingerprint of the model's history (8) | float32 little-endian [dim]
    {namespace}:events      stream, field "event": JSON

History and stream are written by one small script per user: an event is in both or in neither, and a repeated one is in
neither twice. Both keys must therefore live on one node: a Cluster needs another way, and is not supported yet.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from service.bundle import MAX_ID_LENGTH, Float32, tie_hash
from service.errors import StoreError
from service.store import Command, Store

# ARGV: keep, ttl, stream cap, then score, member, stream entry for each event. Types are checked before any write:
# a script that fails half-way is not undone. A history key of another type is not ours to keep, and is replaced.
_APPEND = """
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'stream' then return redis.error_reply('WRONGTYPE the event stream is a ' .. kind) end
kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'zset' then redis.call('DEL', KEYS[1]) end
local added = {}
for i = 4, #ARGV, 3 do
  local new = redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1])
  if new == 1 then redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[i + 2]) end
  added[#added + 1] = new
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return added
"""
_MAX_MEMBER_BYTES = 4 + 4 * MAX_ID_LENGTH + 1 + 4 * MAX_ID_LENGTH
_VERSION_BYTES = 16
_FINGERPRINT_BYTES = 8


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event ready to be kept. timestamp_ms: Unix milliseconds."""

    user_id: str
    item_id: str
    timestamp_ms: int
    event_id: str | None = None
    type: str | None = None
    value: float | None = None
    recommendation_id: str | None = None

    @property
    def score(self) -> str:
        """Unix seconds to the millisecond, exactly as text."""
        return f"{self.timestamp_ms // 1000}.{self.timestamp_ms % 1000:03d}"

    @property
    def member(self) -> bytes:
        """What makes it the same event: the item, and its event id or else its time."""
        which = self.event_id if self.event_id is not None else str(self.timestamp_ms)
        return tie_hash(self.user_id, self.item_id) + self.item_id.encode() + b"\x00" + which.encode()

    def to_json(self) -> bytes:
        """The stream's entry: the columns that training reads, without those that are not there."""
        seconds = self.timestamp_ms / 1000
        fields = {
            "user_id": self.user_id,
            "item_id": self.item_id,
            "timestamp": int(seconds) if seconds.is_integer() else seconds,
            "event": self.type,
            "weight": self.value,
            "recommendation_id": self.recommendation_id,
            "event_id": self.event_id,
        }
        return orjson.dumps({name: value for name, value in fields.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Stored:
    """What one read of a user found: item ids oldest first, and the raw cached embedding."""

    item_ids: list[str]
    embedding: bytes


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept, and for how long."""

    events: int = 500
    history_ttl_s: int = 180 * 86_400
    embedding_ttl_s: int = 86_400
    stream: int = 1_000_000


def encode_user(user_id: str) -> str:
    """Return the user's part of a key: no two users share one, and no brace or colon is left in it."""
    return quote(user_id, safe="").replace("~", "%7E")


def fingerprint(rows: Sequence[int]) -> bytes:
    """Return 8 bytes that name a model history, so that an embedding of another one is never used for it."""
    return hashlib.blake2b(np.asarray(rows, dtype="<i8").tobytes(), digest_size=_FINGERPRINT_BYTES).digest()


def pack_embedding(version: str, rows: Sequence[int], user: Float32) -> bytes:
    """Return the cached form of a user vector, float32 [dim]."""
    return version.encode() + fingerprint(rows) + user.astype("<f4").tobytes()


def unpack_embedding(value: bytes, version: str, rows: Sequence[int], dim: int) -> tuple[str, Float32 | None]:
    """Return (hit | miss | stale | invalid, the vector on a hit)."""
    if not value:
        return "miss", None
    head = _VERSION_BYTES + _FINGERPRINT_BYTES
    if value[:_VERSION_BYTES] != version.encode():
        return ("stale" if len(value) >= head else "invalid"), None
    if len(value) != head + 4 * dim:
        return "invalid", None
    if value[_VERSION_BYTES:head] != fingerprint(rows):
        return "stale", None
    user = np.frombuffer(value, dtype="<f4", offset=head).astype(np.float32)
    return ("hit", user) if np.isfinite(user).all() else ("invalid", None)


def read_member(user_id: str, member: bytes) -> tuple[str, str] | None:
    """Return (item_id, event id or ms) of a member of a user's history, or None if it is not one."""
    item, separator, which = member[4:].partition(b"\x00")
    if not separator or not item or len(member) > _MAX_MEMBER_BYTES:
        return None
    try:
        item_id = item.decode()
        return (item_id, which.decode()) if tie_hash(user_id, item_id) == member[:4] else None
    except UnicodeDecodeError:
        return None


class Profile:
    """Histories and embeddings of users, in one store."""

    def __init__(self, store: Store, *, namespace: str, retention: Retention, dim: int) -> None:
        self._store = store
        self._namespace = namespace
        self._keep = retention
        self._embedding_bytes = _VERSION_BYTES + _FINGERPRINT_BYTES + 4 * dim

    async def read(self, user_id: str, timeout_s: float) -> Stored:
        """Read history and embedding in one round trip. Raises StoreError. Unreadable records count as missing."""
        history, embedding = await self._store.call(
            "read",
            [
                ("ZRANGE", self._history_key(user_id), -self._keep.events, -1, "WITHSCORES"),
                # One byte past the end: a longer value is seen to be wrong without being fetched whole.
                ("GETRANGE", self._embedding_key(user_id), 0, self._embedding_bytes),
            ],
            timeout_s,
        )
        raise_unless_wrongtype(self._store.explain(history))
        broken = self._store.explain(embedding) is not None
        pairs = [] if isinstance(history, Exception) else _pairs(history)
        return Stored(self._item_ids(user_id, pairs), b"?" if broken else embedding)

    async def write_embedding(self, user_id: str, value: bytes, timeout_s: float) -> None:
        """Cache a packed embedding. Raises StoreError."""
        (result,) = await self._store.call(
            "write_embedding",
            [("SET", self._embedding_key(user_id), value, "EX", self._keep.embedding_ttl_s)],
            timeout_s,
        )
        if kind := self._store.explain(result):
            raise StoreError(kind)

    async def append(self, events: Sequence[StoredEvent], timeout_s: float) -> list[bool]:
        """Keep events; return for each whether it was new. Raises StoreError unless every one is confirmed stored."""
        by_user: dict[str, list[int]] = {}
        for place, event in enumerate(events):
            by_user.setdefault(event.user_id, []).append(place)
        groups = [[events[place] for place in places] for places in by_user.values()]
        results = await self._store.call_script("append", _APPEND, map(self._append_arguments, groups), timeout_s)
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
                ("GETRANGE", self._embedding_key(user_id), 0, self._embedding_bytes),
                ("TTL", self._embedding_key(user_id)),
            ],
            timeout_s,
        )
        raise_unless_wrongtype(self._store.explain(history))
        self._store.explain(embedding)
        pairs = [] if isinstance(history, Exception) else _pairs(history)
        read = [(self._read_member(user_id, member), float(score)) for member, score in pairs]
        events = [{"item_id": found[0], "timestamp": score, "key": found[1]} for found, score in read if found]
        version = b"" if isinstance(embedding, Exception) else embedding[:_VERSION_BYTES]
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
            "erase", [("DEL", self._history_key(user_id)), ("DEL", self._embedding_key(user_id))], timeout_s
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
            ]
        results = await self._store.call("append", commands, timeout_s)
        for result in results:
            if kind := self._store.explain(result):
                raise StoreError(kind)
        return int(sum(results[::3]))

    def _append_arguments(self, group: Sequence[StoredEvent]) -> Command:
        parts: list[bytes | str] = []
        for event in group:
            parts += [event.score, event.member, event.to_json()]
        keep = (self._keep.events, self._keep.history_ttl_s, self._keep.stream)
        return (2, self._history_key(group[0].user_id), f"{self._namespace}:events", *keep, *parts)

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

    def _embedding_key(self, user_id: str) -> str:
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
