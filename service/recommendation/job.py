"""What passes between the rooms of a recommendation: the query, its job, what was found of its user, the answer.

Each is made by one room and only read by the next: the endpoint makes the `Query`, the recommender the `Job`, the
lookup the `Found`, the ranker the `Ranking` with the `Answer`. They are not frozen, which would cost each request some
microseconds; nothing writes to them.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from service.bundle import Float32
from service.catalogue.column import Mask
from service.recommendation.budget import Budget
from service.recommendation.rule import Rules
from service.search.addend import Addend
from service.search.protocol import Ranked
from service.user.record import Int32, Sight

NO_ROWS: Int32 = np.zeros(0, dtype=np.int32)


class Caller(Protocol):
    """Who asked. is_gone: hung up before the answer."""

    is_gone: bool


@dataclass(slots=True)
class Query:
    """A checked request, in the caller's ids.

    mask: the rows that its filter lets through, bool [n_items]; None without a filter. fields: what is returned of each
    item beside its id and score. rules: what is asked of the list, if anything.
    """

    user_id: str | None
    k: int
    history: Sequence[str] | None
    exclude: Sequence[str]
    exclude_seen: bool
    candidates: Sequence[str] | None
    caller: Caller
    budget: Budget
    is_debug: bool = False
    mask: Mask | None = None
    fields: Sequence[str] = ()
    rules: Rules | None = None


@dataclass(slots=True)
class Taste:
    """What is known of a user: all rows seen, oldest first, int32, and the vector, float32 [dim], once encoded.

    last_at: the Unix time of the last event; NaN where it is not known.
    """

    seen: Int32 = field(default_factory=lambda: NO_ROWS)
    user: Float32 | None = None
    last_at: float = math.nan


@dataclass(slots=True, eq=False)
class Job:
    """A query on its way through a batch, in rows of the catalogue.

    taste: of the history that was given with the request; None where the stored one is to be looked up. boost: what is
    added to each item's score, float32 [n_items], if anything. placed: position to row, of the pins that stand.
    dropped: the ids of the pins that do not, because their items are not to be shown.
    """

    query: Query
    future: "asyncio.Future[Answer]"
    taste: Taste | None
    candidates: Sequence[int] | None
    excluded: Sequence[int]
    ignored_ids: Sequence[str]
    boost: Float32 | None = None
    placed: Mapping[int, int] = field(default_factory=dict)
    dropped: Sequence[str] = ()

    def may_show(self, row: int) -> bool:
        """Whether a row can be pinned: not excluded, let through by the filter, and one of the candidates, if any."""
        mask = self.query.mask
        is_allowed = (mask is None or bool(mask[row])) and (self.candidates is None or row in self.candidates)
        return is_allowed and row not in self.excluded

    def hidden(self, seen: Int32) -> Sequence[int] | Int32:
        """Return the rows that must not be shown to a user who has seen those, but where they are pinned."""
        seen = seen if self.query.exclude_seen else NO_ROWS
        return [*self.excluded, *seen.tolist()] if self.excluded else seen

    def masked(self, seen: Int32) -> Sequence[int] | Int32:
        """Return the rows that must not be ranked: those that are hidden or pinned."""
        hidden = self.hidden(seen)
        return [*hidden, *self.placed.values()] if self.placed else hidden


@dataclass(slots=True, eq=False)
class Found:
    """What was found of a job's user.

    level, reasons: of the answer, as far as the lookup decides them. sight: of a user without a fresh record, so that
    one is worth keeping. store_s: how long the store took; None where it was not asked. n_erasures: how many erasures
    this process had seen before the store was asked; what was found is kept only while there was no other.
    """

    job: Job
    taste: Taste
    level: str = "full"
    reasons: tuple[str, ...] = ()
    sight: Sight | None = None
    store_s: float | None = None
    n_erasures: int = -1


@dataclass(slots=True)
class Answer:
    """The items, best first, and how they came about.

    funnel: how many items were left after each step, where it was asked for or the items are fewer than k. parts: of
    each item's score, if they were asked for. dropped_pins: ids of pinned items that are not to be shown.
    """

    ranked: Ranked = ((), np.zeros(0, dtype=np.float32))
    level: str = "full"
    reasons: list[str] = field(default_factory=list)
    ignored_ids: list[str] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)
    funnel: dict[str, int] = field(default_factory=dict)
    parts: list[dict[str, float]] = field(default_factory=list)
    dropped_pins: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class Ranking:
    """How a job is answered. Only the ranker writes to it.

    user: the vector, float32 [dim], once it is known. addend: what is added to the user's scores, once it is known.
    """

    found: Found
    answer: Answer
    user: Float32 | None
    is_done: bool = False
    addend: Addend | None = None

    @property
    def job(self) -> Job:
        """The job that is answered."""
        return self.found.job

    def masked(self) -> Sequence[int] | Int32:
        """Return the rows that must not be ranked."""
        return self.found.job.masked(self.found.taste.seen)
