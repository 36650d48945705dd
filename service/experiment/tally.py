"""What was counted in the experiment, in the store: each event once, whoever counts it and whenever that one ends.

    {namespace}:{{namespace}:events}:tally      hash: the experiment, how far the stream was counted, and the counts
    {namespace}:{{namespace}:events}:tallied    hash: a user -> what is known of that one, see Mark

Any process may count the next page of the stream. One small script adds what the page has, if the tally still is where
the page begins; so a page is counted whole or not at all, and never twice. A user is counted once, exactly, while no
more than MOST_USERS are known; later ones are left out in both versions alike, and their events are told. An erased
user is taken out of the counts of users.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from service.experiment.attribution import Attribution, Page, Version, name_user
from service.experiment.record import Experiment
from service.store.client import Store
from service.store.connection import Command
from service.store.reply import are_pairs, read_hash
from service.user.key import UserKeys
from service.user.position import Position, count_gone, order
from service.user.stream import Entry, EventStream

MOST_USERS = 1_000_000
KEEP_S = 180 * 86_400
"""How long counts live after the last change."""
_TRIES = 20
_AT_ONCE = 25
_MARKS = """
local names = {shown = 1, converted = 2, hit = 4}
local function add(old, new, sign)
  local version = bit.band(new, 8) > 0 and 'other' or 'live'
  for name, mark in pairs(names) do
    if bit.band(new, mark) > 0 and bit.band(old, mark) == 0 then
      redis.call('HINCRBY', KEYS[1], version .. ':' .. name, sign)
    end
  end
  if old == 0 then redis.call('HINCRBY', KEYS[1], version .. ':users', sign) end
end
"""
# KEYS: tally, tallied. ARGV: id, beginning and first position of an experiment. What was counted of one with the same
# beginning, which was published again, goes on; that of an earlier one is deleted; a later one is left alone, unless it
# begins in the future, as where a clock was set back: nothing would be counted until then. Returns the tally.
_BEGIN = """
for _, key in ipairs(KEYS) do
  local type = redis.call('TYPE', key).ok
  if type ~= 'hash' and type ~= 'none' then redis.call('DEL', key) end
end
local known, time = redis.call('HMGET', KEYS[1], 'id', 'started'), redis.pcall('TIME')
local begun, latest = tonumber(known[2] or '') or -1, time.err and math.huge or time[1] + 60
if known[1] ~= ARGV[1] and known[2] == ARGV[2] then
  redis.call('HSET', KEYS[1], 'id', ARGV[1])
elseif known[1] ~= ARGV[1] and (begun <= tonumber(ARGV[2]) or begun > latest) then
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[1], 'id', ARGV[1], 'started', ARGV[2], 'cursor', ARGV[3], 'erasures', 0, 'added', 0)
end
return redis.call('HGETALL', KEYS[1])
"""
# KEYS: tally, tallied. ARGV: id, cursor and erasures as they were read, the next cursor, how many users may be known,
# seconds to keep, the number of counts, each count's name and what it grows by, and then each user with its marks.
# Returns whether it was added.
_ADD = (
    _MARKS
    + """
local head = redis.call('HMGET', KEYS[1], 'id', 'cursor', 'erasures')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then return 0 end
local first = 8 + 2 * ARGV[7]
for i = 8, first - 1, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
local n = redis.call('HLEN', KEYS[2])
for i = first, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[2], ARGV[i])
  local old, new = tonumber(known or 0), tonumber(ARGV[i + 1])
  if known or n < tonumber(ARGV[5]) then
    n = known and n or n + 1
    add(old, new, 1)
    redis.call('HSET', KEYS[2], ARGV[i], bit.bor(old, new))
  else
    redis.call('HINCRBY', KEYS[1], 'left_out', 1)
  end
end
redis.call('HSET', KEYS[1], 'cursor', ARGV[4])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[6]) end
return 1
"""
)
# KEYS: tally, tallied. ARGV: id and cursor as they were read, how many entries the stream had been given up to there,
# and how many of them were gone before they were counted.
_SETTLE = """
local head = redis.call('HMGET', KEYS[1], 'id', 'cursor')
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'added', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'gone', ARGV[4])
return 1
"""
# KEYS: tally, tallied. ARGV: a user. Returns whether there was one. Whoever has read the user's events adds them no
# more: the number of erasures is another one.
_ERASE = (
    _MARKS
    + """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
redis.call('HINCRBY', KEYS[1], 'erasures', 1)
local known = redis.call('TYPE', KEYS[2]).ok == 'hash' and redis.call('HGET', KEYS[2], ARGV[1])
if not known then return 0 end
add(0, tonumber(known), -1)
return redis.call('HDEL', KEYS[2], ARGV[1])
"""
)


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of one experiment.

    cursor: of the stream. users, shown, converted, hit: users of each version; those who converted, and so on.
    impressions, clicks: of each version, by place: from 1, `more`, and `none` where none was named. astray: events
    that name an answer of the version that their user is not assigned to. elsewhere: those that name one of a third
    version. left_out: of users beyond MOST_USERS. older: events that came after the beginning with a time before it.
    gone: entries that the stream's cap had cut before they were counted, at most. added: entries that the stream had
    been given up to the cursor, 0 where it is not known.
    """

    cursor: bytes
    added: int
    erasures: int
    users: Mapping[Version, int]
    shown: Mapping[Version, int]
    converted: Mapping[Version, int]
    hit: Mapping[Version, int]
    impressions: Mapping[Version, Mapping[str, int]]
    clicks: Mapping[Version, Mapping[str, int]]
    astray: int
    elsewhere: int
    left_out: int
    gone: int
    older: int


class Tally:
    """The counts of one namespace. Every method raises StoreError where the store does not do as asked."""

    def __init__(self, store: Store, keys: UserKeys, stream: EventStream, *, most_users: int = MOST_USERS) -> None:
        self._store, self._stream, self._most_users = store, stream, most_users
        self._keys = (2, keys.tally, keys.tallied)

    async def catch_up(self, experiment: Experiment, attribution: Attribution, timeout_s: float) -> Counted | None:
        """Count what has come since somebody last did; return the counts, None where a later experiment is counted.

        timeout_s: of each call.
        """
        for _ in range(_TRIES):
            counted = await self._begin(experiment, timeout_s)
            if counted is None or await self._count_on(experiment, attribution, counted, timeout_s):
                break
        return await self._begin(experiment, timeout_s)

    async def erase_user(self, user_id: str, timeout_s: float) -> bool:
        """Take a user out of the counts, once the events are out of the stream; return whether there was one."""
        replies = await self._store.call_script("erase", _ERASE, [(*self._keys, name_user(user_id))], timeout_s)
        return bool(replies[0])

    async def _begin(self, experiment: Experiment, timeout_s: float) -> Counted | None:
        """Return the counts; those of an earlier experiment are replaced by none."""
        first = b"%d-0" % max(0, math.floor(experiment.started * 1000) - 1)
        arguments = (*self._keys, experiment.id, repr(experiment.started), first)
        (reply,) = await self._store.call_script("user", _BEGIN, [arguments], timeout_s)
        await self._store.require(are_pairs(reply))
        found = read_hash(reply)
        if found.get(b"id") != experiment.id.encode():
            return None
        try:
            return _read_counts(found)
        except (KeyError, ValueError):
            raise await self._store.undecodable() from None

    async def _count_on(
        self, experiment: Experiment, attribution: Attribution, counted: Counted, timeout_s: float
    ) -> bool:
        """Count page after page; return whether the end was reached, and nobody else has counted meanwhile."""
        state = await self._stream.state(timeout_s)
        last = state.end.entry_id
        if experiment.ended is not None:
            last = min(last, b"%d-0" % round(experiment.ended * 1000), key=order)
        if order(last) <= order(counted.cursor):
            return True
        cursor, n_read = counted.cursor, 0
        async with aclosing(self._stream.pages_after(cursor, timeout_s, last)) as pages:
            async for entries in pages:
                if not entries:
                    continue
                page, after = await _count_slowly(attribution, entries), entries[-1][0]
                added = self._adding(experiment, page, (cursor, after), counted.erasures)
                (is_added,) = await self._store.call_script("user", _ADD, [added], timeout_s)
                if not is_added:
                    return False
                cursor, n_read = after, n_read + len(entries)
        if cursor == state.end.entry_id:
            left = await self._stream.state(timeout_s)
            gone = count_gone(Position(counted.cursor, counted.added), state.end, n_read, left)
            settled = (*self._keys, experiment.id, cursor, max(0, state.end.added), gone)
            await self._store.call_script("user", _SETTLE, [settled], timeout_s)
        return True

    def _adding(self, experiment: Experiment, page: Page, between: tuple[bytes, bytes], erasures: int) -> Command:
        counts = [part for name, amount in page.events.items() for part in (name, amount)]
        users = [part for name, marks in page.users.items() for part in (name, int(marks))]
        before, after = between
        head = (experiment.id, before, erasures, after, self._most_users, KEEP_S, len(page.events))
        return (*self._keys, *head, *counts, *users)


async def _count_slowly(attribution: Attribution, entries: Sequence[Entry]) -> Page:
    """Count a page, a little in each turn of the loop: it may be one that answers requests."""
    page = Page()
    for first in range(0, len(entries), _AT_ONCE):
        attribution.count(entries[first : first + _AT_ONCE], page)
        await asyncio.sleep(0)
    return page


def _read_counts(found: Mapping[bytes, bytes]) -> Counted:
    """Return the counts of a tally. Raises KeyError and ValueError where it is none."""
    cursor = found[b"cursor"]
    order(cursor)

    def number(name: str) -> int:
        return int(found.get(name.encode(), 0))

    def users(name: str) -> dict[Version, int]:
        return {version: number(f"{version}:{name}") for version in Version}

    def places(what: str) -> dict[Version, dict[str, int]]:
        listed: dict[Version, dict[str, int]] = {version: {} for version in Version}
        for name, value in found.items():
            version, _, rest = name.decode().partition(":")
            if rest.startswith(f"{what}:"):
                listed[Version(version)][rest.removeprefix(f"{what}:")] = int(value)
        return listed

    return Counted(
        cursor, number("added"), int(found[b"erasures"]),
        users("users"), users("shown"), users("converted"), users("hit"), places("impressions"), places("clicks"),
        number("astray"), number("elsewhere"), number("left_out"), number("gone"), number("older"),
    )  # fmt: skip
