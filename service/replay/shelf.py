"""The answers that are kept, in the store: the newest, for so many hours and within so many bytes.

    {namespace}:{{namespace}:replay}:records   hash: id -> record of an answer, or of its surroundings; see record
    {namespace}:{{namespace}:replay}:order     sorted set: id and owner -> when it was written, in ms, after all others
    {namespace}:{{namespace}:replay}:owners    sorted set: owner and id, in the order of their letters
    {namespace}:{{namespace}:replay}:bytes     how many bytes the records have
    {namespace}:{{namespace}:replay}:erased    sorted set: shares of users of whom one was erased lately

Each write drops what is too old or too much, the oldest first; surroundings are as old as the newest answer in them. An
erased user's answers are found by the owner, a hash of the user's id. For a minute after an erasure nothing is kept of
the users of that share (see service/user/erasure.py), so that no worker brings back what it was about to write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from service.store.client import Store
from service.store.connection import Command
from service.store.reply import are_numbers
from service.user.entry_index import now_ms
from service.user.erasure import share_of

KEPT, ERASED, LONELY = 1, 0, -1
"""What becomes of a record: it is kept; its user was erased; its surroundings are not there any more."""
ERASED_FOR_S = 60
_OWNER_DIGITS = 16
_MOST_RECORD_BYTES = 64 << 20
_DROP = """
local function drop(member)
  local id, owner = member:sub(1, 32), member:sub(33)
  redis.call('INCRBY', KEYS[4], -redis.call('HSTRLEN', KEYS[1], id))
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], member)
  if owner ~= '' then redis.call('ZREM', KEYS[3], owner .. id) end
end
"""
# KEYS: records, order, owners, bytes, erased. ARGV: now and how long to keep, in ms, how many bytes to keep, and then
# of each record its id, its owner and the owner's share, empty where it has none, the id of its surroundings, empty
# where it is some, and its bytes. Returns what became of each.
_WRITE = (
    _DROP
    + """
local types = {'hash', 'zset', 'zset', 'string', 'zset'}
for i, key in ipairs(KEYS) do
  local type = redis.call('TYPE', key).ok
  if type ~= types[i] and type ~= 'none' then redis.call('DEL', key) end
end
local now, results = tonumber(ARGV[1]), {}
local newest = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
local at = math.max(now, (tonumber(newest[2]) or 0) + 0.001)
for i = 4, #ARGV, 5 do
  local id, owner, share, around, record = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local erased_at = share ~= '' and tonumber(redis.call('ZSCORE', KEYS[5], share) or '')
  local result = 1
  if erased_at and now - erased_at < 60000 then
    result = 0
  elseif around ~= '' and redis.call('HEXISTS', KEYS[1], around) == 0 then
    result = -1
  elseif redis.call('HSETNX', KEYS[1], id, record) == 1 then
    redis.call('INCRBY', KEYS[4], #record)
    redis.call('ZADD', KEYS[2], at, id .. owner)
    if owner ~= '' then redis.call('ZADD', KEYS[3], 0, owner .. id) end
    if around ~= '' then redis.call('ZADD', KEYS[2], 'XX', at + 0.001, around) end
    at = at + 0.002
  end
  results[#results + 1] = result
end
while true do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  local is_full = tonumber(redis.call('GET', KEYS[4]) or 0) > tonumber(ARGV[3])
  if not oldest[1] or not (is_full or tonumber(oldest[2]) < now - ARGV[2]) then break end
  drop(oldest[1])
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[2]) end
return results
"""
)
# KEYS: the same. ARGV: now in ms, an owner, the owner's share. Returns how many answers are gone.
_ERASE = (
    _DROP
    + """
local now = tonumber(ARGV[1])
if redis.call('TYPE', KEYS[5]).ok ~= 'zset' then redis.call('DEL', KEYS[5]) end
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - 60000)
redis.call('ZADD', KEYS[5], now, ARGV[3])
redis.call('PEXPIRE', KEYS[5], 60000)
if redis.call('TYPE', KEYS[3]).ok ~= 'zset' then return 0 end
local own = redis.call('ZRANGEBYLEX', KEYS[3], '[' .. ARGV[2], '[' .. ARGV[2] .. 'g')
for _, each in ipairs(own) do drop(each:sub(17) .. ARGV[2]) end
return #own
"""
)


@dataclass(frozen=True, slots=True)
class Bound:
    """How much is kept: for so many seconds, and so many bytes of records."""

    keep_s: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that is to be kept. around: the id of its surroundings; empty for surroundings themselves."""

    id: str
    user_id: str | None
    around: str
    packed: bytes


def _owner_of(user_id: str) -> str:
    name = blake2b(user_id.encode(errors="surrogatepass"), digest_size=_OWNER_DIGITS // 2, person=b"retort replay")
    return name.hexdigest()


class ReplayShelf:
    """The kept answers of one namespace. Methods raise StoreError where the store does not do as asked."""

    def __init__(self, store: Store, namespace: str, bound: Bound) -> None:
        self._store, self._bound = store, bound
        names = ("records", "order", "owners", "bytes", "erased")
        self._keys = [f"{namespace}:{{{namespace}:replay}}:{name}" for name in names]

    async def write(self, entries: Sequence[Entry], timeout_s: float) -> list[int]:
        """Keep records; return what became of each: KEPT, ERASED or LONELY."""
        parts: list[str | bytes | int] = []
        for entry in entries:
            owner, share = ("", "") if entry.user_id is None else (_owner_of(entry.user_id), share_of(entry.user_id))
            parts += [entry.id, owner, share, entry.around, entry.packed]
        bound = (now_ms(), round(self._bound.keep_s * 1000), self._bound.most_bytes)
        arguments: Command = (len(self._keys), *self._keys, *bound, *parts)
        (results,) = await self._store.call_script("replay", _WRITE, [arguments], timeout_s)
        await self._store.require(are_numbers(results, len(entries)))
        return list(results)

    async def read(self, record_id: str, timeout_s: float) -> bytes | None:
        """Return a record; None where there is none of that id."""
        command: Command = ("HGET", self._keys[0], record_id)
        reply = await self._store.call_one("replay", command, timeout_s, most_bytes=_MOST_RECORD_BYTES)
        return None if reply is None else bytes(reply)

    async def erase_user(self, user_id: str, timeout_s: float) -> int:
        """Drop the answers of a user, and keep none for a minute; return how many there were."""
        arguments: Command = (len(self._keys), *self._keys, now_ms(), _owner_of(user_id), share_of(user_id))
        replies = await self._store.call_script("erase", _ERASE, [arguments], timeout_s)
        await self._store.require(are_numbers(replies, 1))
        return int(replies[0])
