"""Keeps a sample of the answers, after they were sent, so that they can be made again.

Whether an answer is in the sample is decided when it is asked for, because it is ranked alone then. What it was made of
is noted once it was sent, and written in the background, a few at a time: where the store cannot follow, they are
dropped. Of a large catalogue whose trend moves all the time the surroundings are kept once in a while only, and answers
that were made in others are not kept.
"""

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from service.errors import StoreError
from service.recommendation.job import Query, Ranking, Trail
from service.release.generation import Generation
from service.replay.record import KeptAnswer, Surroundings, without_times
from service.replay.shelf import KEPT, LONELY, Entry, ReplayShelf
from service.search.addend import Standing

_LOGGER = logging.getLogger(__name__)
_BITS = 32
_MOST_WAITING = 500
_AT_ONCE = 50
_CALL_S = 1.0
_ROWS_A_SECOND = 20_000
"""Surroundings of so many items are kept once a second at most, those of twice as many every other second."""
_NO_TIMES = frozenset({"scenario", "budget_ms"})
"""What of a request is not part of what is asked for, once its scenario is resolved."""


class Known(Protocol):
    """What is known of the live items. serial: of the last change. places: token and number of each shard."""

    @property
    def serial(self) -> int: ...

    @property
    def places(self) -> list[tuple[str, int]]: ...


class _Waiting(NamedTuple):
    id: str
    user_id: str | None
    around: str
    pack: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class _Around:
    """Surroundings that were kept. standing, serial: by which they are known again. at: when, in monotonic seconds."""

    id: str
    standing: Standing | None
    serial: int
    at: float


class Recorder:
    """Keeps answers of one process."""

    def __init__(self, shelf: ReplayShelf, known: Known, share: float, count: Callable[[str], None]) -> None:
        """share: of the answers, from 0 to 1. count: is told what became of each, a label of replay_records_total."""
        self._shelf, self._known, self._count = shelf, known, count
        self._end = round((1 << _BITS) * share)
        self._arounds: WeakKeyDictionary[Generation, _Around] = WeakKeyDictionary()
        self._waiting: deque[_Waiting] = deque()
        self._is_due = asyncio.Event()

    def mark(self, query: Query, generation: Generation) -> None:
        """Say in a query, before it is answered, whether its answer is to be kept."""
        if random.getrandbits(_BITS) < self._end:
            catalogue = generation.catalogue
            query.trail = Trail(catalogue.popular.standing, catalogue.live_serial)

    def take(self, path: str, query: Query, generation: Generation, body: bytes) -> None:
        """Keep an answer, if it was marked. path: of the request. body: of the answer."""
        if query.trail is None or query.trail.ranking is None:
            return
        try:
            result = self._take(path, query, generation, body)
        except Exception as exc:  # a border: the answer is good, kept or not
            _LOGGER.error("a bug in keeping an answer of %s", path, exc_info=exc)
            result = "failed"
        if result is not None:
            self._count(result)

    def _take(self, path: str, query: Query, generation: Generation, body: bytes) -> str | None:
        """Note what is to be kept, or return why it is not."""
        trail = query.trail
        assert trail is not None and trail.ranking is not None  # noqa: S101  # marked and answered
        if len(self._waiting) >= _MOST_WAITING:
            return "dropped"
        around = self._surround(generation, trail)
        if around is None:
            return "moved"
        kept = _describe(path, query, trail.ranking, generation, around, body)
        self._waiting.append(_Waiting(kept.recommendation_id, kept.user_id, around, kept.pack))
        self._is_due.set()
        return None

    async def follow(self) -> None:
        """Write what is to be kept, until cancelled."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            while self._waiting:
                few = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                await self._write(few)

    async def _write(self, few: list[_Waiting]) -> None:
        packed = await asyncio.to_thread(lambda: [each.pack() for each in few])
        entries = [Entry(each.id, each.user_id, each.around, body) for each, body in zip(few, packed, strict=True)]
        try:
            results = await self._shelf.write(entries, _CALL_S)
        except StoreError:
            results = [LONELY] * len(entries)  # the surroundings may not be there
        for entry, result in zip(entries, results, strict=True):
            if entry.around:
                self._count("kept" if result == KEPT else "failed" if result == LONELY else "erased")
        gone = {entry.around or entry.id for entry, result in zip(entries, results, strict=True) if result == LONELY}
        for generation, around in list(self._arounds.items()):
            if around.id in gone:
                del self._arounds[generation]

    def _surround(self, generation: Generation, trail: Trail) -> str | None:
        """Return the id of the surroundings of an answer, which are kept now unless they are; None: they cannot be."""
        catalogue, now = generation.catalogue, time.monotonic()
        standing, serial = catalogue.popular.standing, catalogue.live_serial
        if trail.standing is not standing or not trail.live_serial == serial == self._known.serial:
            return None
        last = self._arounds.get(generation)
        if last is not None and last.standing is standing and last.serial == serial:
            return last.id
        if last is not None and now - last.at < len(catalogue) / _ROWS_A_SECOND:
            return None
        counts = np.zeros(0, dtype=np.float32) if standing is None else standing.counts
        around = Surroundings(catalogue.item_ids[catalogue.n_made :], self._known.places, counts)
        self._arounds[generation] = _Around(secrets.token_hex(16), standing, serial, now)
        self._waiting.append(_Waiting(self._arounds[generation].id, None, "", around.pack))
        return self._arounds[generation].id


def _describe(
    path: str, query: Query, ranking: Ranking, generation: Generation, around: str, body: bytes
) -> KeptAnswer:
    item_ids, found = generation.catalogue.item_ids, ranking.found
    asked: Any = query.asked

    def ids(rows: Any) -> list[str]:
        return [item_ids[row] for row in rows.tolist()]

    return KeptAnswer(
        recommendation_id=query.recommendation_id,
        version=generation.version,
        path=path,
        asked=asked.model_dump_json(exclude_unset=True, by_alias=True, exclude=_NO_TIMES),
        at=ranking.at,
        user_id=query.user_id,
        seen=ids(found.taste.seen),
        hidden=ids(found.taste.hidden),
        last_at=float(found.taste.last_at),
        vector=found.taste.user,
        level=found.level,
        reasons=found.reasons,
        explore=query.explore,
        surroundings=around,
        answer=without_times(body),
    )
