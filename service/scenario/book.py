"""The scenarios as one process knows them: those of a file, and over them those of the store, which it follows.

A scenario is parsed when it is first asked for. While the store is away, what was known last goes on.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal

from service.errors import StoreError
from service.request.scenario import Scenario, parse_scenario
from service.scenario.shelf import ScenarioShelf

EVERY_S = 0.3
_CALL_S = 1.0
Source = Literal["file", "store"]


class ScenarioBook:
    """All scenarios that requests may name."""

    def __init__(self, shelf: ScenarioShelf, of_file: Mapping[str, bytes]) -> None:
        """of_file: scenarios by name, JSON; one of the store wins over one of that name."""
        self._shelf, self._of_file = shelf, dict(of_file)
        self._of_store: dict[str, bytes] = {}
        self._mark: bytes | None = None
        self._parsed: dict[str, tuple[bytes, Scenario]] = {}
        self._turn = asyncio.Lock()

    def __len__(self) -> int:
        return len(self.names())

    def names(self) -> list[str]:
        """Return the names of all scenarios, in order."""
        return sorted({*self._of_file, *self._of_store})

    def source(self, name: str) -> Source:
        """Return where a known scenario comes from."""
        return "store" if name in self._of_store else "file"

    def body(self, name: str) -> bytes | None:
        """Return a scenario as JSON; None where there is none of that name."""
        return self._of_store.get(name, self._of_file.get(name))

    def find(self, name: str) -> Scenario | None:
        """Return a scenario; None where there is none. Raises RequestError for one that somebody else has written."""
        body = self.body(name)
        if body is None:
            return None
        known = self._parsed.get(name)
        if known is None or known[0] != body:
            known = self._parsed[name] = (body, parse_scenario(body))
        return known[1]

    async def put(self, name: str, body: bytes, timeout_s: float) -> None:
        """Keep a scenario in the store, and know it at once. Raises StoreError, and RequestError for one too many."""
        await self._shelf.put(name, body, timeout_s)
        await self.advance()

    async def delete(self, name: str, timeout_s: float) -> bool:
        """Delete a scenario of the store; return whether there was one. Raises StoreError."""
        is_deleted = await self._shelf.delete(name, timeout_s)
        await self.advance()
        return is_deleted

    async def advance(self) -> None:
        """Read what has changed in the store. Raises StoreError."""
        async with self._turn:
            if await self._shelf.mark(_CALL_S) != self._mark:
                self._mark, self._of_store = await self._shelf.read(_CALL_S)
                self._parsed = {name: each for name, each in self._parsed.items() if self.body(name) == each[0]}

    async def begin(self) -> None:
        """Read what is there at the start, as far as the store answers."""
        with suppress(StoreError):
            await self.advance()

    async def follow(self) -> None:
        """Follow the store until cancelled."""
        while True:
            await self.begin()
            await asyncio.sleep(EVERY_S)
