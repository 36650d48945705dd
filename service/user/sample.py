"""A sample of the users of whom something is kept: first those of the newest events, then any that have a history.

The newest events are one list in the store. Where they name too few users, as after an import, the keys of histories
are looked at, a bounded number of them; the nodes of a Cluster each know only their own, and are not asked.
"""

import random

from service.store.client import Store
from service.store.reply import read_entries
from service.user.entry_index import user_of
from service.user.key import UserKeys
from service.user.stream import ENTRY_BYTES, PAGE_ENTRIES

_ROUNDS = 20
_KEYS_AT_ONCE = 500


class UserSample:
    """The users of one namespace, of whom some are drawn."""

    def __init__(self, store: Store, keys: UserKeys) -> None:
        self._store, self._keys = store, keys

    async def draw(self, n: int, timeout_s: float) -> list[str]:
        """Return up to n users, in a random order. timeout_s: of each call. Raises StoreError."""
        recent = await self._recent(timeout_s)
        drawn = random.sample(recent, min(n, len(recent)))
        if len(drawn) < n and not self._store.is_cluster:
            known = set(drawn)
            others = [user_id for user_id in await self._any(n, timeout_s) if user_id not in known]
            drawn += random.sample(others, min(n - len(drawn), len(others)))
        return drawn

    async def _recent(self, timeout_s: float) -> list[str]:
        """Return the users of the newest events, each once."""
        command = ("XREVRANGE", self._keys.stream, "+", "-", "COUNT", PAGE_ENTRIES)
        reply = await self._store.call_one("user", command, timeout_s, most_bytes=PAGE_ENTRIES * ENTRY_BYTES)
        users = (user_of(fields) for _, fields in read_entries(reply))
        return list(dict.fromkeys(user for user in users if user is not None))

    async def _any(self, n: int, timeout_s: float) -> list[str]:
        """Return users whose histories are found first, at least n if there are so many among the keys looked at."""
        found: dict[str, None] = {}
        cursor = b"0"
        for _ in range(_ROUNDS):
            command = ("SCAN", cursor, "MATCH", self._keys.every_history, "COUNT", _KEYS_AT_ONCE)
            cursor, keys = await self._store.call_one("user", command, timeout_s)
            users = (self._keys.user_of_history(key) for key in keys)
            found.update({user: None for user in users if user is not None})
            if len(found) >= n or cursor == b"0":
                break
        return list(found)
