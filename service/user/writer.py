"""The writing of events: to the shelf of a user that they belong to, to the stream, and to the user's list of entries.

One small script a user writes all of it, so that an event is in all or in none, and a repeated one is not in any twice.
In a Cluster history and stream lie on different nodes. New events are written to the stream first there, so that what
is in the history is always in the stream too. An event may then stand in the stream twice; export writes it once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from service.bundle import Effect
from service.store.client import Store
from service.store.connection import Command
from service.store.reply import Reply, are_ids, are_numbers, read_scores, unless_wrong_type
from service.user.entry_index import make_mark
from service.user.event import StoredEvent
from service.user.key import UserKeys
from service.user.script import APPEND, LOAD, WRITE_STREAM

_SHELVES = {Effect.HISTORY: 1, Effect.HIDE: 4, Effect.UNDO: 4, Effect.STREAM: 5}
"""The place, among the keys of a script, of the shelf of an event."""


class Kept(IntEnum):
    """What became of an event. TOO_OLD: older than all of a full history, so not kept; perhaps it was there before."""

    TOO_OLD = -1
    KNOWN = 0
    NEW = 1


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept of events. events: of a user, the newest, on each shelf. stream: of all users, about.

    history_ttl_s: how long a history lives after its last new event. notes_ttl_s: how long it is known which events
    have come of those that only go to the stream, after the last one.
    """

    events: int = 500
    history_ttl_s: int = 180 * 86_400
    stream: int = 1_000_000
    notes_ttl_s: int = 86_400


class HistoryWriter:
    """Writes the events of all users of one namespace."""

    def __init__(self, store: Store, keys: UserKeys, retention: Retention) -> None:
        self._store, self._keys, self._keep = store, keys, retention

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
            keys = self._keys_of(group[0].user_id)
            parts = [
                part for event in group for part in (_SHELVES[event.effect], event.score, event.member, _type(event))
            ]
            arguments.append((len(keys), *keys, self._keep.events, self._keep.history_ttl_s, *parts))
        replies = await self._store.call_script("append", LOAD, arguments, timeout_s)
        await self._store.require(are_numbers(replies, len(groups)))
        return sum(replies)

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
            (written,) = await self._store.call_script("append", WRITE_STREAM, [(*head, *new)], timeout_s)
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
        replies = await self._store.call_script("append", APPEND, arguments, timeout_s)
        for reply, group in zip(replies, groups, strict=True):
            await self._store.require(are_numbers(reply, len(group)) and set(reply) <= set(Kept))
        return [[Kept(result) for result in reply] for reply in replies]

    def _asking(self, group: Sequence[StoredEvent], mark: bytes) -> list[Command]:
        """Return the commands that ask for what is known of a group's events, and mark their user's list."""
        keys, listed = self._keys_of(group[0].user_id), self._keys.entries(group[0].user_id)
        commands: list[Command] = [("RPUSH", listed, mark), ("EXPIRE", listed, self._keep.history_ttl_s)]
        for shelf, places in _by_shelf(group).items():
            key = keys[shelf - 1]
            commands += [
                ("ZMSCORE", key, *[group[place].member for place in places]),
                ("ZRANGE", key, -self._keep.events, -self._keep.events, "WITHSCORES"),
            ]
        return commands

    def _arguments(
        self,
        group: Sequence[StoredEvent],
        entries: Sequence[bytes],
        more_keys: Sequence[str],
        oldest: bytes = b"",
        mark: bytes = b"",
    ) -> Command:
        parts: list[bytes | str | int] = []
        for event, entry in zip(group, entries, strict=True):
            parts += [_SHELVES[event.effect], event.score, event.member, _type(event), entry]
        keys, keep = (*self._keys_of(group[0].user_id), *more_keys), self._keep
        return (
            len(keys), *keys, keep.events, keep.history_ttl_s, keep.notes_ttl_s, keep.stream, oldest, mark, *parts
        )  # fmt: skip

    def _keys_of(self, user_id: str) -> tuple[str, ...]:
        """Return the keys of a user in the order of the scripts."""
        keys = self._keys
        each = (keys.history, keys.record, keys.entries, keys.marks, keys.notes, keys.types)
        return tuple(key(user_id) for key in each)


def _type(event: StoredEvent) -> str:
    """Return the type that is kept of an event; nothing of one that only goes to the stream."""
    return "" if event.type is None or event.effect is Effect.STREAM else event.type


def _by_shelf(group: Sequence[StoredEvent]) -> dict[int, list[int]]:
    """Return the places of the events of a group, by their shelf."""
    shelves: dict[int, list[int]] = {}
    for place, event in enumerate(group):
        shelves.setdefault(_SHELVES[event.effect], []).append(place)
    return shelves


def _judge(group: Sequence[StoredEvent], replies: Sequence[Reply]) -> list[Kept]:
    """Say what is to become of a group's events, by the replies to what was asked of their user."""
    unless_wrong_type(replies[0], 0)  # a list of another type is replaced later; without a mark nothing may be written
    judged: dict[int, Kept] = {}
    for number, places in enumerate(_by_shelf(group).values(), start=1):
        scores, oldest = replies[2 * number : 2 * number + 2]
        known = unless_wrong_type(scores, [None] * len(places))
        bound = [(float(score), member) for member, score in read_scores(unless_wrong_type(oldest, []))]
        seen: set[bytes] = set()
        for place, score in zip(places, known, strict=False):
            event = group[place]
            is_known = score is not None or event.member in seen
            is_too_old = bool(bound) and (float(event.score), event.member) < bound[0]
            judged[place] = Kept.KNOWN if is_known else Kept.TOO_OLD if is_too_old else Kept.NEW
            seen.add(event.member)
    return [judged[place] for place in sorted(judged)]
