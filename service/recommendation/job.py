"""What is asked and what is answered: the values that pass between the endpoint and the recommender."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from service.recommendation.memory import NO_ROWS, Taste
from service.search.protocol import Ranked
from service.user.record import Int32


class Caller(Protocol):
    """Who asked. is_gone: hung up before the answer."""

    is_gone: bool


@dataclass(slots=True)
class Query:
    """A checked request. arrived, deadline: on the clock of time.monotonic."""

    user_id: str | None
    k: int
    history: Sequence[str] | None
    exclude: Sequence[str]
    exclude_seen: bool
    candidates: Sequence[str] | None
    caller: Caller
    arrived: float
    deadline: float
    budget_s: float
    is_debug: bool = False


@dataclass(slots=True)
class Answer:
    """The items, best first, and how they came about."""

    ranked: Ranked = ((), np.zeros(0, dtype=np.float32))
    level: str = "full"
    reasons: list[str] = field(default_factory=list)
    ignored_ids: list[str] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)
    funnel: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Job:
    """A query on its way through a batch. store_until: when the store's share of the budget is over."""

    query: Query
    future: "asyncio.Future[Answer]"
    store_until: float
    candidates: list[int] | None
    excluded: list[int]
    answer: Answer
    taste: Taste | None = None

    def masked(self) -> Sequence[int] | Int32:
        """The rows that must not be shown."""
        seen = self.taste.seen if self.taste is not None and self.query.exclude_seen else NO_ROWS
        return [*self.excluded, *seen.tolist()] if self.excluded else seen
