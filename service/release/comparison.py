"""What making another version live would change: it and the live one answer the same users, and the lists are compared.

The other version is loaded beside those that serve, in the way that a swap loads it, unless it is the one before; after
the comparison its memory is freed. There is one comparison at a time in a process, and callers come first: after each
answer it rests for several times as long. Nothing is written of the users, and nothing remembered.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.errors import RequestError
from service.recommendation.budget import Budget
from service.recommendation.job import Answer, Query
from service.release.aside import Known
from service.release.generation import Generation, Generations
from service.release.loader import VersionLoader, retire
from service.release.record import Live
from service.task import end_task

_REST = 4
"""So many times as long as an answer took nothing is asked."""
_MOST_NAMED = 10
_EXAMPLES = 5
_SHOWN_HISTORY = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """The users that are asked about. source: store, or golden for those of the live bundle's golden answers."""

    source: str
    pasts: Sequence[Known]


@dataclass(slots=True)
class GoldenPast:
    """A history of a bundle's golden answers."""

    item_ids: list[str]
    hidden: list[str] = field(default_factory=list)
    last_at: float = math.nan


class Comparing:
    """Compares published versions with the live one."""

    def __init__(self, generations: Generations, loader: VersionLoader) -> None:
        """loader: loads a version that is not at hand, as for a swap."""
        self._generations, self._loader = generations, loader
        self._task: asyncio.Task[dict[str, Any]] | None = None

    async def compare(self, version: str, k: int, draw: Callable[[], Awaitable[Sample]]) -> dict[str, Any]:
        """Return how the lists of a version differ from the live one's.

        draw: returns the users. A comparison whose caller hangs up goes on to its end. Raises RequestError where one is
        going on, or the versions change meanwhile; StoreError; and RefusedError for a version that is not fit to serve.
        """
        if self._task is not None and not self._task.done():
            text = "another comparison is going on; there is one at a time"
            raise RequestError("overloaded", text, headers={"Retry-After": "5"})
        self._task = asyncio.create_task(self._compare(version, k, draw))
        return await asyncio.shield(self._task)

    async def close(self) -> None:
        """End the comparison that is going on, if any."""
        if self._task is not None:
            await end_task(self._task)

    async def _compare(self, version: str, k: int, draw: Callable[[], Awaitable[Sample]]) -> dict[str, Any]:
        start = time.monotonic()
        sample, live = await draw(), self._generations.live
        kept = next((each for each in self._generations.all() if each.version == version), None)
        other = kept or await self._loader.obtain(Live(version, 0, None, 0.0))
        try:
            if kept is None and other.trend is not None:
                await other.trend.advance()
            lists = [await self._ask_both(live, other, past, k) for past in sample.pasts]
            found = _describe(live, other, k, lists)
        finally:
            if kept is None:
                await retire(other)
        return {**found, "source": sample.source, "took_s": round(time.monotonic() - start, 3)}

    async def _ask_both(self, live: Generation, other: Generation, past: Known, k: int) -> "_Lists":
        return _Lists(past, await self._ask(live, past, k), await self._ask(other, past, k, live))

    async def _ask(self, generation: Generation, past: Known, k: int, live: Generation | None = None) -> Answer:
        """Return the answer of a version, and rest. live: where this one may be loaded for the comparison alone."""
        if (live or generation) not in self._generations.all():
            raise _changed()
        start = time.monotonic()
        answer = generation.aside.answer(_query(generation, k), past, Budget(start, math.inf, math.inf))
        await asyncio.sleep(_REST * (time.monotonic() - start))
        return answer


@dataclass(frozen=True, slots=True)
class _Lists:
    past: Known
    live: Answer
    other: Answer


@dataclass(slots=True)
class _Caller:
    is_gone: bool = False


def _changed() -> RequestError:
    text = "the versions that serve have changed meanwhile; ask again"
    return RequestError("overloaded", text, headers={"Retry-After": "5"})


def _query(generation: Generation, k: int) -> Query:
    """Return what each user asks a version."""
    return Query(
        user_id=None,
        k=k,
        history=None,
        exclude=(),
        exclude_seen=generation.exclude_seen,
        candidates=None,
        caller=_Caller(),
        budget=Budget(0.0, math.inf, math.inf),
    )


def _describe(live: Generation, other: Generation, k: int, lists: Sequence[_Lists]) -> dict[str, Any]:
    """Return the figures of all users, and examples of those whose lists differ most."""
    pairs = [(_ids(live, each.live), _ids(other, each.other)) for each in lists]
    n, coming, going = len(pairs), Counter[str](), Counter[str]()
    overlaps = []
    for before, after in pairs:
        coming.update(set(after) - set(before))
        going.update(set(before) - set(after))
        longest = max(len(before), len(after))
        overlaps.append(len({*before} & {*after}) / longest if longest else 1.0)
    title = _Titles(other, live)
    most_changed = sorted(range(n), key=overlaps.__getitem__)[:_EXAMPLES]
    return {
        "live": live.version,
        "version": other.version,
        "k": k,
        "users": n,
        "overlap": _mean(overlaps),
        "first_changes": _mean([before[:1] != after[:1] for before, after in pairs]),
        "same": _mean([before == after for before, after in pairs]),
        "coverage": {
            "live": len({item_id for before, _ in pairs for item_id in before}),
            "version": len({item_id for _, after in pairs for item_id in after}),
        },
        "popular": {
            "live": sum(each.live.level == "fallback" for each in lists),
            "version": sum(each.other.level == "fallback" for each in lists),
        },
        "coming": title.count(coming),
        "going": title.count(going),
        "examples": [
            {
                "history": title.name(lists[place].past.item_ids[-_SHOWN_HISTORY:]),
                "live": title.name(pairs[place][0]),
                "version": title.name(pairs[place][1]),
            }
            for place in most_changed
            if pairs[place][0] != pairs[place][1]
        ],
    }  # fmt: skip


def _ids(generation: Generation, answer: Answer) -> list[str]:
    return [generation.catalogue.item_ids[row] for row in answer.ranked[0]]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


class _Titles:
    """The titles of items, by the first version that knows them."""

    def __init__(self, *generations: Generation) -> None:
        self._catalogues = [generation.catalogue for generation in generations]

    def name(self, item_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return ids with their titles."""
        return [{"item_id": item_id, "title": self._title(item_id)} for item_id in item_ids]

    def count(self, counts: Counter[str]) -> list[dict[str, Any]]:
        """Return the ids that were counted most often, with their titles and counts."""
        ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:_MOST_NAMED]
        return [{"item_id": item_id, "title": self._title(item_id), "users": n} for item_id, n in ordered]

    def _title(self, item_id: str) -> str | None:
        for catalogue in self._catalogues:
            if (row := catalogue.find_row(item_id)) is not None and (title := catalogue.item(row).title):
                return title
        return None
