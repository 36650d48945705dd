"""Several lists for one user at one time, as the slots of a page, of which no item is shown twice.

Slots are filled in their order: what one shows is excluded from those after it. The first one is asked alone, and finds
what is known of the user. Lists without rules, if none of their places is explored, are then ranked together, each as
much deeper as the slots before it could take away; what they do take away is left out, which is the same as if it had
been excluded.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from service.model.catalogue import Catalogue
from service.recommendation.job import Answer, Query
from service.recommendation.recommender import Recommender

_MOST_DEPTH = 1000


async def fill_slots(
    queries: Sequence[Query], recommender: Recommender, catalogue: Catalogue, *, is_distinct: bool
) -> list[Answer]:
    """Return the answer of every slot. queries: of one visit. Raises RequestError."""
    filling = _Filling(queries, recommender, catalogue)
    first = await recommender.recommend(queries[0])
    if not is_distinct:
        return [first, *await asyncio.gather(*map(recommender.recommend, queries[1:]))]
    return [first, *await filling.rest(first)]


class _Filling:
    def __init__(self, queries: Sequence[Query], recommender: Recommender, catalogue: Catalogue) -> None:
        self._queries, self._recommender, self._catalogue = queries, recommender, catalogue
        self._shown: dict[int, None] = {}

    async def rest(self, first: Answer) -> list[Answer]:
        """Return the answers of all slots but the first."""
        self._show(first)
        early = self._begin_early()
        await asyncio.gather(*early.values(), return_exceptions=True)
        answers: list[Answer] = []
        for place, query in enumerate(self._queries[1:], start=1):
            answer = self._without_shown(early[place].result(), query.k) if place in early else None
            if answer is None:
                answer = await self._recommender.recommend(self._excluding(query))
            self._show(answer)
            answers.append(answer)
        return answers

    def _begin_early(self) -> "dict[int, asyncio.Future[Answer]]":
        """Ask for all lists without rules at once, deep enough."""
        early, n_before = {}, 0
        for place, query in enumerate(self._queries[1:], start=1):
            depth = query.k + n_before
            if query.rules is None and not query.explore and depth <= _MOST_DEPTH:
                early[place] = self._recommender.recommend(replace(self._excluding(query), k=depth))
            n_before += query.k
        return early

    def _excluding(self, query: Query) -> Query:
        ids = self._catalogue.item_ids
        return replace(query, exclude=[*query.exclude, *(ids[row] for row in self._shown)])

    def _without_shown(self, answer: Answer, k: int) -> Answer | None:
        """Return the best k of an answer that are not shown yet; None where these are fewer."""
        rows, scores = answer.ranked
        kept = [place for place, row in enumerate(rows) if int(row) not in self._shown][:k]
        if len(kept) < k:
            return None
        ranked = [rows[place] for place in kept], scores[kept]
        reasons = [reason for reason in answer.reasons if reason != "not_enough_items"]
        return replace(answer, ranked=ranked, reasons=reasons, funnel={})

    def _show(self, answer: Answer) -> None:
        self._shown.update(dict.fromkeys(int(row) for row in answer.ranked[0]))
