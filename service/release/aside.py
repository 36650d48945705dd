"""Answers queries once more, for a comparison: nothing of it is counted, cached or remembered.

What the user did is read from the store, because it is known there by the items' ids; the user's cached vector, which
another version has made, is left alone.
"""

import asyncio
from dataclasses import replace
from typing import Protocol, cast

import numpy as np

from service.errors import StoreError
from service.model.catalogue import Catalogue
from service.recommendation.budget import Budget
from service.recommendation.job import Answer, Found, Query, Taste, make_job
from service.recommendation.ranker import Ranker
from service.user.history import History
from service.user.record import Int32, Past


class Known(Protocol):
    """What a user did: item ids, the oldest first; those that are not to be shown; the Unix time of the last event."""

    item_ids: list[str]
    hidden: list[str]
    last_at: float


class Aside:
    """Answers from one model, apart from all that is asked of it otherwise."""

    def __init__(self, ranker: Ranker, catalogue: Catalogue, history: History) -> None:
        """ranker: of its own, which tells nobody of its work."""
        self._ranker, self._catalogue, self._history = ranker, catalogue, history

    async def read(self, query: Query, timeout_s: float) -> Past | None:
        """Return what the user of a query did; None where the query says it, or has no user. Raises StoreError."""
        if query.user_id is None or query.history is not None:
            return None
        (past,) = await self._history.read([query.user_id], timeout_s)
        if isinstance(past, StoreError):
            raise past
        return past

    def answer(self, query: Query, past: Known | None, budget: Budget) -> Answer:
        """Answer a query inside a budget of its own. past: as it was read."""
        query = replace(query, budget=budget, is_debug=False, is_explained=False, visit=None, span=None)
        job = make_job(query, self._catalogue, cast("asyncio.Future[Answer]", None))  # nobody waits for it
        taste = job.taste or Taste()
        if past is not None:
            taste = Taste(self._rows(past.item_ids), last_at=past.last_at, hidden=self._rows(past.hidden))
        (ranking,) = self._ranker.rank([Found(job, taste)])
        return ranking.answer

    def _rows(self, item_ids: list[str]) -> Int32:
        return np.array(self._catalogue.find_rows(item_ids)[0], dtype=np.int32)
