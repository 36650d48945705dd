"""The cached embeddings of users: the vector that a model made of a history, and the rows of that history.

A record saves a request most of its work: reading the history whole, checking every member and finding every item costs
more than ranking does. A record is believed only if its mark (the number of events, the newest one and its time) is
that of the history as it is now, and if the newest member bears this user's hash. So no answer is made from the reply
to another user's request. Of a user who has hidden or undone something (see history), the mark is made of the number of
such marks and of the user's id too.

The mark does not show an event that comes late into a full history. The writer of histories does know: with every new
event it puts a token in the place of the record (see history). A new record is written only if the stored record's
first 24 bytes are still those that its maker had read before it read the history.
"""

from collections.abc import Sequence
from dataclasses import replace

from service.errors import StoreError
from service.store.client import Store
from service.store.connection import Command
from service.store.reply import Reply, unless_wrong_type
from service.user.event import read_member
from service.user.history import History, read_seconds
from service.user.key import UserKeys
from service.user.record import (
    HEAD_BYTES,
    VERSION_BYTES,
    Record,
    Sight,
    largest_record,
    make_mark,
    make_marked_mark,
    mark_partial,
    pack_record,
    unpack_record,
)

# KEYS: history, record, marks. ARGV: the record's head as it was before the history was read, the new record, its life
# in s.
_REPLACE = """
if redis.call('EXISTS', KEYS[1], KEYS[3]) == 0 then return 0 end
local is_text = redis.call('TYPE', KEYS[2]).ok == 'string'
if (is_text and redis.call('GETRANGE', KEYS[2], 0, 23) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1
"""


class EmbeddingCache:
    """The records of users, as one version of a model makes and reads them.

    believes_partial: whether records are read of users who did something with an item that the bundle does not have.
    """

    believes_partial = True

    def __init__(self, store: Store, keys: UserKeys, history: History, *, ttl_s: int, dim: int, version: str) -> None:
        """ttl_s: how long a record lives. dim, version: of the model."""
        self._store, self._keys, self._history = store, keys, history
        self._partial = mark_partial(version.encode())
        self._ttl_s, self._dim, self._version = ttl_s, dim, version.encode()
        self._largest = largest_record(history.max_events, dim)

    async def look(
        self, user_ids: Sequence[str], timeout_s: float, *, is_whole: bool = False
    ) -> list[Sight | StoreError]:
        """Read users' records and the state of their histories, in one round trip. Raises StoreError.

        A user whose node of a Cluster does not answer has a StoreError of its own. is_whole: read the histories in the
        same round trip, in case there is no fresh record.
        """
        groups = [self._looking(user_id, is_whole=is_whole) for user_id in user_ids]
        most_bytes = self._history.most_bytes + self._largest
        found = await self._store.call_each("read", groups, timeout_s, most_bytes=most_bytes)
        return [self._see(user_id, *replies) for user_id, replies in zip(user_ids, found, strict=True)]

    async def keep(self, records: Sequence[tuple[str, Sight, Record]], timeout_s: float) -> None:
        """Write the records that were made from what was seen, but where something has changed since.

        Raises StoreError.
        """
        arguments = [
            (
                3, *self._keys.looked_at(user_id), sight.head,
                pack_record(self._version.decode(), sight.mark, record, self._dim), self._ttl_s,
            )
            for user_id, sight, record in records
        ]  # fmt: skip
        await self._store.call_script("write_embedding", _REPLACE, arguments, timeout_s)

    def _looking(self, user_id: str, *, is_whole: bool) -> list[Command]:
        history, record, marks = self._keys.looked_at(user_id)
        commands: list[Command] = [
            # One byte past the end: a longer value is seen to be wrong without being fetched whole.
            ("GETRANGE", record, 0, self._largest),
            ("ZCARD", history),
            ("ZRANGE", history, -1, -1, "WITHSCORES"),
            ("ZCARD", marks),
        ]
        if is_whole:  # after the mark: an event in between makes a record of both stale, not wrong
            commands += self._history.reading(user_id)
        return commands

    def _see(
        self, user_id: str, value: Reply, count: Reply, newest: Reply, n_marks: Reply, *whole: Reply
    ) -> Sight | StoreError:
        try:
            n_events, scores = unless_wrong_type(count, 0), unless_wrong_type(newest, [])
            n_marks = unless_wrong_type(n_marks, 0)
        except StoreError as exc:
            return exc
        if not scores and not n_marks:
            return Sight("none")
        member, score = scores[:2] if scores else (b"", b"")
        if n_marks:
            mark = make_marked_mark(user_id, n_events, member, score, n_marks)
        else:
            mark = make_mark(n_events, member, score)
        sight = self._judge(value, mark, score, is_ours=not scores or read_member(user_id, member) is not None)
        if n_marks:
            sight = replace(sight, has_marks=True)
        if not whole or sight.record is not None:
            return sight
        past = self._history.past(user_id, *whole)
        return past if isinstance(past, StoreError) else replace(sight, past=past)

    def _judge(self, value: Reply, mark: bytes, score: bytes, *, is_ours: bool) -> Sight:
        """Say what a user's stored record is worth, given the mark and the newest score of the history now.

        is_ours: whether the newest member is this user's, if there is one.
        """
        if isinstance(value, StoreError):
            return Sight("invalid", mark=mark)
        if not is_ours:
            return Sight("invalid", mark=mark)  # another user's: reading it whole checks and counts every member
        stamp = self._partial if self.believes_partial and value[:VERSION_BYTES] == self._partial else self._version
        result, record = unpack_record(value, stamp, mark, self._dim)
        last_at = read_seconds(score) if record is None or record.hidden is None else record.last_at
        return Sight(result, record, value[:HEAD_BYTES], mark, last_at=last_at)
