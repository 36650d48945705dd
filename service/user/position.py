"""How far somebody has read the stream of events, as a text that is kept between two readings.

    1764405000000-3@1234    the id of the last entry read, and how many entries the stream had ever been given by then

The number tells a later reading how many entries have come since, so that it knows how many are gone.
"""

import re
from dataclasses import dataclass

from service.store.client import Store
from service.store.reply import are_ids

_TEXT = re.compile(r"(\d{1,20}-\d{1,20})@(\d{1,18})")
# KEYS: stream. Returns the id of its last entry ever, how many it was given, and the id of the oldest one that is left.
_STATE = """
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return {} end
local info, of = redis.call('XINFO', 'STREAM', KEYS[1]), {}
for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {of['last-generated-id'], string.format('%.0f', of['entries-added'] or -1), first and first[1] or ''}
"""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the stream. added: entries that it had been given up to there, -1 where the server does not say."""

    entry_id: bytes
    added: int

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read what str() wrote. Raises ValueError."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no position; give what an export printed, such as 1764405000000-3@1234")
        return cls(found[1].encode(), int(found[2]))

    @classmethod
    def start(cls) -> "Position":
        """Return the place before the first entry."""
        return cls(b"0-0", 0)

    def __str__(self) -> str:
        return f"{self.entry_id.decode()}@{max(self.added, 0)}"


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where the stream ends, and the id of the oldest entry that is left, None where none is."""

    end: Position
    oldest: bytes | None


async def read_state(store: Store, key: str, timeout_s: float) -> StreamState:
    """Return where a stream ends; one that is not there ends before its first entry. Raises StoreError."""
    (found,) = await store.call_script("user", _STATE, [(1, key)], timeout_s)
    if found == []:
        return StreamState(Position.start(), None)
    try:
        last, added, oldest = found
        count = int(added)
    except (TypeError, ValueError):
        raise await store.undecodable() from None
    await store.require(are_ids([last, *([oldest] if oldest else [])]))
    return StreamState(Position(last, count), oldest or None)


def order(entry_id: bytes) -> tuple[int, int]:
    """Return what ids of entries are ordered by."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number or 0)


def is_anew(after: Position, state: StreamState) -> bool:
    """Return whether the stream is another one than that in which a position was read: it has lost entries since.

    A store that lost its file, or the last second of it, begins its count again.
    """
    return order(state.end.entry_id) < order(after.entry_id) or 0 <= state.end.added < after.added


def count_gone(after: Position, end: Position, n_read: int, state: StreamState) -> int:
    """Return how many entries between two positions were cut off by the stream's cap before they were read, at most.

    n_read: how many were read. state: of the stream, after that. Entries of erased users are gone too; they are not
    counted while the stream still reaches back to `after`, because the cap takes the oldest first. From the start on
    nothing tells them from those that were cut, so they are counted.
    """
    reaches_back = state.oldest is not None and order(state.oldest) <= order(after.entry_id)
    is_unknown = end.added < 0 or (after.added <= 0 and after != Position.start())
    if is_unknown or reaches_back:
        return 0
    return max(0, end.added - after.added - n_read)
