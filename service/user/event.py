"""An event as the store keeps it: as a member of a user's history, and as an entry of the stream.

Two events are the same if their members are, on one shelf: history, marks or notes. The server orders members of one
score by their bytes, which begin with a hash of user and item, so that events of one time stand in the order that
training gave them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from service.bundle import MAX_ID_LENGTH, Effect, tie_hash

MAX_MEMBER_BYTES = 4 + 4 * MAX_ID_LENGTH + 1 + 4 * MAX_ID_LENGTH
_MARKS = {b"hide": Effect.HIDE, b"undo": Effect.UNDO}
MAX_MARK_BYTES = MAX_MEMBER_BYTES + 5


EffectOf = Callable[[str | None], Effect]
"""Says what an event of a type does."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event ready to be kept.

    timestamp_ms: Unix milliseconds. position: the place in the answer where the item was shown, from 1. source: of the
    key that sent it, see source_of(). explored: whether the answer marked the item as explored. effect: what its type
    does.
    """

    user_id: str
    item_id: str
    timestamp_ms: int
    event_id: str | None = None
    type: str | None = None
    value: float | None = None
    recommendation_id: str | None = None
    position: int | None = None
    source: str | None = None
    explored: bool | None = None
    effect: Effect = Effect.HISTORY

    @property
    def score(self) -> str:
        """Unix seconds to the millisecond, exactly as text."""
        return f"{self.timestamp_ms // 1000}.{self.timestamp_ms % 1000:03d}"

    @property
    def member(self) -> bytes:
        """What makes it the same event as another: the item, and its event id or else its time.

        Events that hide or undo say so: they are never the same as one that enters the history.
        """
        which = self.event_id if self.event_id is not None else str(self.timestamp_ms)
        member = tie_hash(self.user_id, self.item_id) + self.item_id.encode() + b"\x00" + which.encode()
        is_mark = self.effect in (Effect.HIDE, Effect.UNDO)
        return member + b"\x00" + self.effect.encode() if is_mark else member

    def to_json(self) -> bytes:
        """Return the stream's entry: the columns that training reads, and the source; without what has no value."""
        seconds = self.timestamp_ms / 1000
        fields = {
            "user_id": self.user_id,
            "item_id": self.item_id,
            "timestamp": int(seconds) if seconds.is_integer() else seconds,
            "event": self.type,
            "weight": self.value,
            "recommendation_id": self.recommendation_id,
            "position": self.position,
            "event_id": self.event_id,
            "source": self.source,
            "explored": self.explored,
        }
        return orjson.dumps({name: value for name, value in fields.items() if value is not None})


def source_of(key: bytes) -> str:
    """Return the name of a key by which the trend tells keys apart. It does not give the key away."""
    return hashlib.blake2b(key, digest_size=4, person=b"retort trend").hexdigest()


def read_member(user_id: str, member: bytes) -> tuple[str, str] | None:
    """Return (item_id, event id or ms) of a member of a user's history, or None if it is not one."""
    item, separator, which = member[4:].partition(b"\x00")
    if not separator or not item or len(member) > MAX_MEMBER_BYTES:
        return None
    try:
        item_id = item.decode()
        return (item_id, which.decode()) if tie_hash(user_id, item_id) == member[:4] else None
    except UnicodeDecodeError:
        return None


def read_mark(user_id: str, member: bytes) -> tuple[str, str, Effect] | None:
    """Return (item_id, event id or ms, effect) of a member of a user's marks, or None if it is not one."""
    rest, _, effect = member.rpartition(b"\x00")
    found = read_member(user_id, rest)
    return (*found, _MARKS[effect]) if found is not None and effect in _MARKS else None
