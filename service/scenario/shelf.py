"""The scenarios in the store, for every process that shares it.

    {namespace}:scenarios    hash: name -> the scenario, JSON as it was put; "" -> a mark, another after each change

Whoever follows asks for the mark, which is a few bytes, and reads the hash where it is not the one that it knows.
"""

import secrets
from enum import IntEnum

from service.errors import RequestError
from service.store.client import Store
from service.store.reply import read_hash, unless_wrong_type

MOST_SCENARIOS = 1000
MOST_BYTES = 4 << 20
"""Of all scenarios together, names included."""
_REPLY_BYTES = 2 * MOST_BYTES
# KEYS: scenarios. ARGV: the new mark, name, scenario, how many there may be, and bytes.
_PUT = """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
local kept = redis.call('HGETALL', KEYS[1])
local n, bytes = 1, #ARGV[2] + #ARGV[3]
for i = 1, #kept, 2 do
  if kept[i] ~= '' and kept[i] ~= ARGV[2] then
    n, bytes = n + 1, bytes + #kept[i] + #kept[i + 1]
  end
end
if n > tonumber(ARGV[4]) then return 1 end
if bytes > tonumber(ARGV[5]) then return 2 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3], '', ARGV[1])
return 0
"""
# KEYS: scenarios. ARGV: the new mark, name. Returns whether there was one.
_DELETE = """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
local n = redis.call('HDEL', KEYS[1], ARGV[2])
if n == 1 then redis.call('HSET', KEYS[1], '', ARGV[1]) end
return n
"""


class _Put(IntEnum):
    DONE, TOO_MANY, TOO_LARGE = range(3)


class ScenarioShelf:
    """The scenarios of one namespace. Methods raise StoreError where the store does not do as asked."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store, self._key = store, f"{namespace}:scenarios"

    async def put(self, name: str, body: bytes, timeout_s: float) -> None:
        """Keep a scenario, JSON, in place of the one of that name. Raises RequestError where there are too many."""
        arguments = (1, self._key, secrets.token_hex(8), name, body, MOST_SCENARIOS, MOST_BYTES)
        (result,) = await self._store.call_script("scenarios", _PUT, [arguments], timeout_s)
        await self._store.require(result in list(_Put))
        if result == _Put.TOO_MANY:
            raise RequestError("malformed", f"there are {MOST_SCENARIOS:,} scenarios already: delete one first")
        if result == _Put.TOO_LARGE:
            raise RequestError("malformed", f"all scenarios together would have more than {MOST_BYTES:,} bytes")

    async def delete(self, name: str, timeout_s: float) -> bool:
        """Delete a scenario; return whether there was one."""
        arguments = (1, self._key, secrets.token_hex(8), name)
        (n_deleted,) = await self._store.call_script("scenarios", _DELETE, [arguments], timeout_s)
        await self._store.require(n_deleted in (0, 1))
        return bool(n_deleted)

    async def mark(self, timeout_s: float) -> bytes | None:
        """Return what is another after each change; None where nothing was ever put."""
        ((reply,),) = await self._store.call_each("scenarios", [[("HGET", self._key, "")]], timeout_s)
        mark = unless_wrong_type(reply, None)
        await self._store.require(mark is None or isinstance(mark, bytes))
        return mark if mark is None else bytes(mark)

    async def read(self, timeout_s: float) -> tuple[bytes | None, dict[str, bytes]]:
        """Return the mark, and every scenario by its name, JSON unchecked."""
        command = ("HGETALL", self._key)
        ((reply,),) = await self._store.call_each("scenarios", [[command]], timeout_s, most_bytes=_REPLY_BYTES)
        found = read_hash(unless_wrong_type(reply, []))
        mark = found.pop(b"", None)
        return mark, {name.decode(errors="replace"): body for name, body in found.items()}
