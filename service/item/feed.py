"""How a process follows the live items: it asks for what has changed five times a second, and keeps every record.

The catalogues of all versions at hand are given the changes, each in its own time, between two requests. Changes are
numbered as they come here; a catalogue that knows them up to a number is given those after it, each item once.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol

from service.catalogue.live_item import LiveItem, read_live_item
from service.errors import StoreError
from service.item.shelf import N_SHARDS, ItemShelf, Place, shard_of

EVERY_S = 0.2
_CALL_S = 1.0
_FIRST_S = 30.0
_AT_ONCE = 50
_MOST_ROUNDS, _MOST_DROPPED = 10, 1000


class Follower(Protocol):
    """What is given the changes. live_serial: the number of the last one that it knows."""

    live_serial: int

    def take_live(self, changes: Mapping[str, LiveItem | None], now: float) -> None:
        """Take records of items, None for one that is gone from the store. now: Unix seconds."""


class ItemFeed:
    """The live items as one process knows them.

    shelf: where they are. heard_at: the monotonic time when the store last said what has changed.
    """

    def __init__(
        self,
        shelf: ItemShelf,
        on_changes: Callable[[float], None] = lambda n: None,
    ) -> None:
        """on_changes: is told how many changes were taken in."""
        self.shelf, self._on_changes = shelf, on_changes
        self._followers: Callable[[], Iterable[Follower]] = list
        self._places = [Place()] * N_SHARDS
        self._records: dict[str, bytes] = {}
        self._changed: dict[str, int] = {}  # by the number of the change, ascending
        self._serial = 0
        self._spent: dict[str, None] = {}  # withdrawn or expired, in the order in which that was heard of
        self._expiring: list[tuple[float, str]] = []
        self._turn = asyncio.Lock()
        self.heard_at = time.monotonic()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def serial(self) -> int:
        """The number of the last change that this process knows, by its own count."""
        return self._serial

    @property
    def places(self) -> list[tuple[str, int]]:
        """How far the changes of each shard are known: of which data, and the number of the last one."""
        return [(place.token.decode(errors="replace"), place.number) for place in self._places]

    def find(self, item_id: str) -> LiveItem | None:
        """Return the record of an item; None where there is none."""
        packed = self._records.get(item_id)
        return None if packed is None else read_live_item(packed)

    async def make_room(self, now: float, is_kept: Callable[[str], bool]) -> None:
        """Let go of a thousand items that were withdrawn or have expired by a Unix time. Raises StoreError.

        is_kept: of which items that must be remembered.
        """
        while self._expiring and self._expiring[0][0] <= now:
            _, item_id = heapq.heappop(self._expiring)
            record = self.find(item_id)
            if record is not None and not record.is_shown(now):
                self._spent[item_id] = None
        found = list(itertools.islice((each for each in self._spent if not is_kept(each)), _MOST_DROPPED))
        spent = {each: self._records[each] for each in found}
        if spent:
            await self.shelf.remove(spent, _CALL_S)
        for item_id, packed in spent.items():
            if self._records.get(item_id) == packed:  # else it was put again meanwhile
                del self._records[item_id]
                self._spent.pop(item_id, None)

    async def begin(self) -> None:
        """Read everything that is there at the start, as far as the store answers."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_FIRST_S):
                await self.advance()

    async def follow(self, followers: Callable[[], Iterable[Follower]]) -> None:
        """Follow until cancelled. followers: returns the catalogues at hand."""
        self._followers = followers
        while True:
            with suppress(StoreError):
                await self.advance()
            await self.hand_on()
            await asyncio.sleep(EVERY_S)

    async def reach(self, numbers: Mapping[str, int]) -> bool:
        """Take in the changes of those numbers, by item, and hand them on; return whether that went well.

        Raises StoreError.
        """
        for _ in range(_MOST_ROUNDS):
            if all(self._places[shard_of(item_id)].number >= number for item_id, number in numbers.items()):
                await self.hand_on()
                return True
            await self.advance()
        return False

    async def advance(self) -> None:
        """Take in all that has changed. Raises StoreError."""
        async with self._turn:
            is_more = True
            while is_more:
                pages = await self.shelf.changes(self._places, _CALL_S)
                is_more = False
                for shard, page in enumerate(pages):
                    is_more |= page.place != self._places[shard]
                    if page.is_anew:
                        self._note({each: None for each in self._records if shard_of(each) == shard})
                    if page.item_ids:
                        found = await self.shelf.read(shard, page.item_ids, _CALL_S)
                        self._note({each: found.get(each) for each in page.item_ids})
                    self._places[shard] = page.place
            self.heard_at = time.monotonic()

    async def hand_on(self) -> None:
        """Give every catalogue what it does not know, a little in each turn of the loop."""
        for follower in self._followers():
            for _ in self.bring(follower):
                await asyncio.sleep(0)

    def bring(self, follower: Follower) -> Iterable[None]:
        """Give a catalogue what it does not know, some items at each step. It may be called from another thread."""
        serial, later = self._serial, self._later_than(follower.live_serial)
        now = time.time()
        for first in range(0, max(1, len(later)), _AT_ONCE):
            follower.take_live({each: self.find(each) for each in later[first : first + _AT_ONCE]}, now)
            yield
        follower.live_serial = max(serial, follower.live_serial)

    def _later_than(self, serial: int) -> list[str]:
        """Return the items that have changed after a number."""
        if serial == 0:
            return list(self._changed)  # in one step, because another thread may be asking
        later = []
        for item_id, number in reversed(self._changed.items()):
            if number <= serial:
                break
            later.append(item_id)
        return later[::-1]

    def _note(self, found: Mapping[str, bytes | None]) -> None:
        for item_id, packed in found.items():
            if packed is None:
                self._records.pop(item_id, None)
            else:
                self._records[item_id] = packed
            self._watch(item_id)
            self._serial += 1
            self._changed.pop(item_id, None)
            self._changed[item_id] = self._serial
        self._on_changes(len(found))

    def _watch(self, item_id: str) -> None:
        """Note whether an item may be let go of, now or later."""
        self._spent.pop(item_id, None)
        record = self.find(item_id)
        if record is not None and record.kind == "gone":
            self._spent[item_id] = None
        elif record is not None and record.expires_at is not None:
            heapq.heappush(self._expiring, (record.expires_at, item_id))
