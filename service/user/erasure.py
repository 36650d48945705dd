"""Erasures of users: every process that shares the store hears of them, and drops what it remembers of the user.

    {namespace}:erasures                            stream: an erasure each, until everybody has heard of it. share:
                                                    which users; before: the id of the entry before
    {namespace}:{{namespace}:erasures}:listeners    hash: a process -> the last entry that it has heard of, and until
                                                    when it may answer from memory, in ms of the server's clock

An entry names no user, but one of N_SHARES shares of all users: whoever hears of it forgets that share. So nothing of
an erased user stands in the store.

A process that hears nothing answers from memory for no longer than its lease. Whoever erases waits until every
listener has heard of it, or its lease is over: then nobody answers from what was remembered. Listeners wait at the
server for the next entry, so this takes as long as a few round trips.
"""

import asyncio
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import StoreError
from service.store.client import Store
from service.store.connection import Command
from service.store.reply import are_ids, are_numbers
from service.user.entry_index import now_ms
from service.user.key import UserKeys

N_SHARES = 4096
MAX_WAIT_S = 10.0
"""How long an erasure waits for listeners at most."""
_WAIT_AT_SERVER_MS = 1000
_CALL_S = 1.0
_RETRY_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05
_LAST_ID = """
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then redis.call('DEL', KEYS[1]) end
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do if info[i] == 'last-generated-id' then last = info[i + 1] end end
end
"""
# The last of ARGV is the caller's clock in ms, for users of the store who may not ask for the server's.
_NOW = """
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('DEL', KEYS[2]) end
local time = redis.pcall('TIME')
local now = time.err and tonumber(ARGV[#ARGV]) or time[1] * 1000 + math.floor(time[2] / 1000)
"""
# KEYS: erasures, listeners. ARGV: the listener, the last entry that it has heard of, its lease in ms. Returns the last
# entry, and the shares of those that it has not heard of; or -1 where it is not known which these are, because the
# listener is new here, or was away for too long, or the server's data are other ones.
_HEAR = (
    _LAST_ID
    + _NOW
    + """
local is_known = redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[3]))
if not is_known then return {last, '-1'} end
local heard, before = {last}, ARGV[2]
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], '+')) do
  local of = {}
  for i = 1, #entry[2], 2 do of[entry[2][i]] = entry[2][i + 1] end
  if of.before ~= before then return {last, '-1'} end
  before = entry[1]
  heard[#heard + 1] = of.share or '-1'
end
return before == last and heard or {last, '-1'}
"""
)
# KEYS: erasures. ARGV: the share. Returns the id of the new entry.
_ANNOUNCE = (
    _LAST_ID
    + """
return redis.call('XADD', KEYS[1], 'MAXLEN', 1000, '*', 'share', ARGV[1], 'before', last)
"""
)
# KEYS: erasures, listeners. ARGV: an entry, the next possible one, the listener that asks. Returns in how many ms the
# last lease ends of those that have not heard of the entry. Once everybody has, it is deleted.
_UNHEARD = (
    _NOW
    + """
local ms, n = ARGV[1]:match('(%d+)-(%d+)')
local longest, listeners = 0, redis.call('HGETALL', KEYS[2])
for i = 1, #listeners, 2 do
  local its_ms, its_n, ends = listeners[i + 1]:match('^(%d+)-(%d+) (%d+)$')
  local left = ends and ends - now or 0
  local is_behind = ends and (its_ms + 0 < ms + 0 or (its_ms == ms and its_n + 0 < n + 0))
  if left <= 0 then
    redis.call('HDEL', KEYS[2], listeners[i])
  elseif is_behind and listeners[i] ~= ARGV[3] then
    longest = math.max(longest, left)
  end
end
if longest == 0 then redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2]) end
return math.ceil(longest)
"""
)
Forget = Callable[[int | None], None]
"""Forgets the users of a share; None: everybody."""


@dataclass(frozen=True, slots=True)
class Unheard:
    """What was left when an erasure stopped waiting: memory that is not used any more in so many seconds; else 0."""

    gone_within_s: float


def share_of(user_id: str) -> int:
    """Return the share that a user belongs to."""
    return zlib.crc32(user_id.encode()) % N_SHARES


class Erasures:
    """The erasures of one namespace, as one process announces them and hears of them."""

    def __init__(
        self, store: Store, keys: UserKeys, *, name: str, lease_s: float, clock: Callable[[], float] | None = None
    ) -> None:
        """name: of this process, like no other's. lease_s: how long it may answer from memory after it last heard.

        clock: seconds that go on while the machine sleeps.
        """
        self._store, self._keys, self._name, self._lease_s = store, (keys.erasures, keys.listeners), name, lease_s
        self._clock = clock or _seconds
        self._heard_at = -float("inf")

    @property
    def is_heard(self) -> bool:
        """Whether this process would have heard of any erasure that is over."""
        return self._clock() - self._heard_at < self._lease_s

    async def announce(self, user_id: str, timeout_s: float) -> bytes:
        """Tell every process that a user is erased; return the id of the entry. Raises StoreError.

        Called once nothing is left of the user in the store: whoever reads later reads nothing.
        """
        arguments = [(1, self._keys[0], share_of(user_id))]
        entry_ids = await self._store.call_script("erase", _ANNOUNCE, arguments, timeout_s)
        await self._store.require(are_ids(entry_ids))
        return bytes(entry_ids[0])

    async def wait_until_heard(self, entry_id: bytes, timeout_s: float, *, within_s: float = MAX_WAIT_S) -> Unheard:
        """Wait until every process has heard of an erasure or must not use its memory. Raises StoreError.

        timeout_s: of each call. within_s: what is still unheard by then is told, and not waited for.
        """
        end, pause_s = time.monotonic() + within_s, _FIRST_PAUSE_S
        ms, _, number = entry_id.partition(b"-")
        arguments = (2, *self._keys, entry_id, b"%b-%d" % (ms, int(number) + 1), self._name)
        while True:
            replies = await self._store.call_script("erase", _UNHEARD, [(*arguments, now_ms())], timeout_s)
            await self._store.require(are_numbers(replies, 1))
            (left_ms,) = replies
            if left_ms == 0 or time.monotonic() >= end:
                return Unheard(left_ms / 1000)
            await asyncio.sleep(min(pause_s, left_ms / 1000))
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    async def follow(self, forget: Forget) -> None:
        """Hear of erasures until cancelled."""
        position = b"0-0"
        try:
            while True:
                sent = self._clock()
                try:
                    last, shares = await self._hear(position)
                    if last == position and not shares:
                        self._heard_at = sent
                        await self._wait(position)
                except StoreError:
                    await asyncio.sleep(_RETRY_S)
                    continue
                for share in shares:
                    forget(share if share >= 0 else None)
                position = last
        finally:
            await self._leave()

    async def _hear(self, position: bytes) -> tuple[bytes, list[int]]:
        """Return the last entry, and the shares of the entries since that position; -1: it is not known which."""
        arguments = (2, *self._keys, self._name, position, round(self._lease_s * 1000), now_ms())
        reply = await self._store.ask_aside(("EVAL", _HEAR, *arguments), _CALL_S)
        try:
            last, *shares = reply
            heard = [int(share) for share in shares]
        except (TypeError, ValueError):
            raise await self._store.undecodable() from None
        await self._store.require(are_ids([last]))
        return last, heard

    async def _wait(self, position: bytes) -> None:
        """Wait at the server for the next entry, but not for long."""
        command: Command = ("XREAD", "BLOCK", _WAIT_AT_SERVER_MS, "STREAMS", self._keys[0], position)
        await self._store.ask_aside(command, _CALL_S + _WAIT_AT_SERVER_MS / 1000)

    async def _leave(self) -> None:
        """Be no listener any more, so that nobody waits for this process."""
        try:
            await self._store.ask_aside(("HDEL", self._keys[1], self._name), _CALL_S)
        except StoreError:
            return  # its lease ends by itself


def _seconds() -> float:
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
