"""The histories of users: what each did, in the order of time, and what each has hidden or taken back.

    {namespace}:{user}:h    sorted set: member = tie_hash(user_id, item_id) item_id 0x00 (event_id or time in ms),
                            score = Unix seconds to the ms. ZRANGE gives the order that training saw, ties included
    {namespace}:{user}:x    the marks, a sorted set: as above, and at the end of a member 0x00 and hide or undo
    {namespace}:{user}:n    the notes, a sorted set with members as above, of events that only go to the stream: a day
    {namespace}:{user}:t    hash: member of history or marks -> the event's type, where it has one

What an event does is settled by its type when it is written (see service/bundle/history_type.py). What the history is,
and which items are hidden, follows from history and marks when they are read: an event that undoes another one takes
back the newest event of its item up to its own time, whatever order they came in. What is undone stays where it is, so
that sending it again changes nothing. Repeated events that only go to the stream are known by their notes.

Whoever changes history or marks also puts a token in the place of the user's record, or deletes it, because the
embedding was made from the old history (see embedding). See writer for the writing.

Each shelf keeps the newest events. Of one that is older than all of a full shelf nobody can know whether it was there
before; it is not kept, not in the stream either, and its sender is told so.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from service.bundle import Effect, settle
from service.errors import StoreError
from service.store.client import Store
from service.store.connection import Command
from service.store.guard import MOST_BYTES
from service.store.reply import UNDECODABLE, Reply, read_hash, read_scores, unless_wrong_type
from service.user.event import MAX_MARK_BYTES, MAX_MEMBER_BYTES, StoredEvent, read_mark, read_member
from service.user.key import UserKeys
from service.user.record import VERSION_BYTES, Past, read_version
from service.user.writer import HistoryWriter, Kept, Retention

_SCORE_BYTES = 64  # of a score and the lengths, as the server writes them
_TYPE_BYTES = 4 * 64 + 16


@dataclass(frozen=True, slots=True)
class _Kept:
    """An event as it lies on a shelf. key: its event id, or its time in ms."""

    item_id: str
    at: float
    key: str
    effect: Effect
    member: bytes

    @property
    def claim(self) -> tuple[str, float, Effect]:
        return self.item_id, self.at, self.effect


class History:
    """The histories of all users of one namespace.

    max_events: kept of a user. most_bytes: of the replies to reading().
    """

    def __init__(self, store: Store, keys: UserKeys, retention: Retention) -> None:
        self._store, self._keys, self._keep = store, keys, retention
        self._writer = HistoryWriter(store, keys, retention)
        self.max_events = retention.events
        self.most_bytes = MOST_BYTES + retention.events * (MAX_MEMBER_BYTES + MAX_MARK_BYTES + 2 * _SCORE_BYTES)

    async def append(self, events: Sequence[StoredEvent], timeout_s: float) -> list[Kept]:
        """Keep events; return what became of each. Raises StoreError unless every one is confirmed stored."""
        return await self._writer.append(events, timeout_s)

    async def load(self, groups: Sequence[Sequence[StoredEvent]], timeout_s: float) -> int:
        """Keep events, each group of one user, without the stream; return how many were new. Raises StoreError."""
        return await self._writer.load(groups, timeout_s)

    async def read(self, user_ids: Sequence[str], timeout_s: float) -> list[Past | StoreError]:
        """Read what users did, whole, in one round trip. Raises StoreError.

        A user whose node of a Cluster does not answer has a StoreError of its own.
        """
        groups = [self.reading(user_id) for user_id in user_ids]
        found = await self._store.call_each("read", groups, timeout_s, most_bytes=self.most_bytes)
        return [self.past(user_id, *replies) for user_id, replies in zip(user_ids, found, strict=True)]

    def reading(self, user_id: str) -> list[Command]:
        """Return the commands that read what a user did, for a round trip that reads other things too."""
        newest = (-self._keep.events, -1, "WITHSCORES")
        return [("ZRANGE", self._keys.history(user_id), *newest), ("ZRANGE", self._keys.marks(user_id), *newest)]

    def past(self, user_id: str, history: Reply, marks: Reply) -> Past | StoreError:
        """Return what the replies to reading() say, or the error that one of them is.

        It is what training saw: events of one item at one time count once, whatever their event ids.
        """
        try:
            scores, marked = read_scores(unless_wrong_type(history, [])), unless_wrong_type(marks, [])
        except StoreError as exc:
            return exc
        hidden: list[str] = []
        undone: set[bytes] = set()
        if marked:
            try:
                entered, marks_read = self._read_shelves(user_id, history, marks)
            except ValueError:
                return self._undecodable()
            valid = _valid([*entered, *marks_read])
            undone = {each.member for each in entered if each not in valid}
            hidden = [each.item_id for each in marks_read if each.effect is Effect.HIDE and each in valid]
        item_ids, last_at = self._item_ids(user_id, [pair for pair in scores if pair[0] not in undone])
        return Past(item_ids, list(dict.fromkeys(hidden)), last_at)

    def _item_ids(self, user_id: str, scores: Sequence[tuple[bytes, bytes]]) -> tuple[list[str], float]:
        """Return the items of (member, score) pairs, and the time of the last one; NaN where there is none."""
        item_ids: list[str] = []
        last: tuple[str, bytes] | None = None
        for member, score in scores:
            found = self._read_member(user_id, member)
            if found is not None and (found[0], score) != last:
                last = (found[0], score)
                item_ids.append(found[0])
        return item_ids, math.nan if last is None else read_seconds(last[1])

    async def describe(self, user_id: str, timeout_s: float) -> dict[str, Any]:
        """Return what is kept of a user: events oldest first, times to live, the embedding. Raises StoreError."""
        history_key, record_key = self._keys.history(user_id), self._keys.record(user_id)
        commands: list[Command] = [
            ("ZRANGE", history_key, 0, -1, "WITHSCORES"),
            ("ZRANGE", self._keys.marks(user_id), 0, -1, "WITHSCORES"),
            ("HGETALL", self._keys.types(user_id)),
            ("ZCARD", self._keys.notes(user_id)),
            ("TTL", history_key),
            ("TTL", self._keys.marks(user_id)),
            ("GETRANGE", record_key, 0, VERSION_BYTES - 1),
            ("TTL", record_key),
        ]
        most_bytes = 2 * self.most_bytes + 2 * self._keep.events * _TYPE_BYTES
        ((history, marks, types, n_notes, *lives, head, record_ttl_s),) = await self._store.call_each(
            "user", [commands], timeout_s, most_bytes=most_bytes
        )
        try:
            shelves = self._read_shelves(user_id, history, marks)
        except ValueError:
            raise await self._store.undecodable() from None
        version = read_version(unless_wrong_type(head, b""))
        ttl_s, record_ttl_s = max(unless_wrong_type(each, 0) for each in lives), unless_wrong_type(record_ttl_s, 0)
        return {
            **_describe(*shelves, read_hash(unless_wrong_type(types, []))),
            "stream_only": unless_wrong_type(n_notes, 0),
            "history_expires_in_s": ttl_s if ttl_s > 0 else None,
            "embedding": version and {"model_version": version, "expires_in_s": max(0, record_ttl_s)},
        }

    async def erase(self, user_id: str, timeout_s: float) -> int:
        """Delete all keys of a user but the list of entries; return how many there were. Raises StoreError."""
        keys = self._keys.of_user(user_id)
        return int(sum(await self._store.call("erase", [("DEL", key) for key in keys], timeout_s)))

    def _read_shelves(self, user_id: str, history: Reply, marks: Reply) -> tuple[list[_Kept], list[_Kept]]:
        """Return the events of history and marks, each oldest first. Raises StoreError, and ValueError for a time."""
        entered, marked = [], []
        for member, score in read_scores(unless_wrong_type(history, [])):
            if (found := self._read_member(user_id, member)) is not None:
                entered.append(_Kept(found[0], float(score), found[1], Effect.HISTORY, member))
        for member, score in read_scores(unless_wrong_type(marks, [])):
            if (mark := read_mark(user_id, member)) is None:
                self._store.count_undecodable()
            else:
                marked.append(_Kept(mark[0], float(score), mark[1], mark[2], member))
        return entered, marked

    def _read_member(self, user_id: str, member: bytes) -> tuple[str, str] | None:
        found = read_member(user_id, member)
        if found is None:
            self._store.count_undecodable()
        return found

    def _undecodable(self) -> StoreError:
        self._store.count_undecodable()
        return StoreError(UNDECODABLE)


def read_seconds(score: bytes) -> float:
    """Return the time that a score is; NaN of what is none."""
    try:
        return float(score)
    except ValueError:
        return math.nan


def _valid(kept: Sequence[_Kept]) -> set[_Kept]:
    """Return those that are not undone."""
    return {each for each, is_valid in zip(kept, settle([each.claim for each in kept]), strict=True) if is_valid}


def _describe(entered: Sequence[_Kept], marked: Sequence[_Kept], types: dict[bytes, bytes]) -> dict[str, Any]:
    valid = _valid([*entered, *marked])

    def shown(kept: Iterable[_Kept], effect: Effect | None, *, is_undone: bool = False) -> list[dict[str, Any]]:
        return [
            {
                "item_id": each.item_id,
                "timestamp": each.at,
                "key": each.key,
                "type": types[each.member].decode(errors="replace") if each.member in types else None,
            }
            for each in kept
            if (effect is None or each.effect is effect) and (each not in valid) is is_undone
        ]

    history = shown(entered, Effect.HISTORY)
    everything = sorted([*entered, *marked], key=lambda each: each.at)
    return {
        "count": len(history),
        "history": history,
        "hidden": shown(marked, Effect.HIDE),
        "removed": shown(everything, None, is_undone=True),
        "removals": shown(marked, Effect.UNDO),
    }
