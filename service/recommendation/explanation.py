"""Why these items: which items of the history carried each of them, and what the list would be without one.

For each of the newest distinct items of the history the request is answered once more: with the history less all events
of that item, and with the item excluded. All these histories are encoded in one run and scored in one run, each as if
its caller had sent it; so every `without` is what POST /recommend answers to that history, where no place of the list
is explored. It says nothing of the time of the last event, as no request with a history of its own does.

An item's share is its part of how much the score falls without the items that it falls without. An explanation that
would not fit what is left of the budget is not begun.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from service.errors import DegradedError, ModelError
from service.model.student import BUCKETS, Student
from service.recommendation.budget import QUEUE, Estimate, Stage
from service.recommendation.job import Cause, Explanation, Found, Job, Ranking, Taste
from service.recommendation.observer import RankingMetrics
from service.recommendation.ranker import Ranker

MOST_EXPLORED = 20
"""So many of the history's newest distinct items are left out, one at a time."""
MOST_NAMED = 3
"""So many items of the history are named for each item of the answer."""


class Explainer:
    """Explains answers of one ranker."""

    def __init__(self, ranker: Ranker, student: Student, metrics: RankingMetrics) -> None:
        self._ranker, self._student, self._metrics = ranker, student, metrics
        self._least = dict.fromkeys(BUCKETS, 0.0)
        self._costs: dict[tuple[int, bool], Estimate] = {}

    def warm(self, costs: Mapping[int, float]) -> None:
        """Take note of what encoding and scoring a batch of each size takes at least, in seconds."""
        self._least.update(costs)

    async def explain(self, ranking: Ranking) -> None:
        """Explain a finished answer, or note in it why it is not; of popular items that is noted already."""
        answer = ranking.answer
        if answer.explanation is not None:
            return
        explored = _newest(ranking.found.taste)
        stage, cost = self._stage(ranking, len(explored))
        start = time.monotonic()
        try:
            if not ranking.job.query.budget.has_time_for(stage):
                raise _TooLateError
            variants = await self._rank_without(ranking, explored)
            answer.explanation = self._compare(ranking, dict(zip(explored, variants, strict=True)))
        except DegradedError as exc:
            answer.explanation = Explanation(left_out=exc.reason)
            if isinstance(exc, _TooLateError):
                self._metrics.deadline_exceeded[stage.name].inc()
            return
        seconds = time.monotonic() - start
        cost.note(seconds)
        self._metrics.stage[stage.name].observe(seconds)
        answer.stages_ms[stage.name] = round(seconds * 1000, 3)
        if ranking.job.query.span is not None:
            ranking.job.query.span.add(stage.name, start, start + seconds)

    def _stage(self, ranking: Ranking, n_variants: int) -> tuple[Stage, Estimate]:
        """Return the stage that explains an answer by so many variants, and what is known of what that takes lately."""
        size = min(size for size in BUCKETS if size >= n_variants)
        cost = self._costs.setdefault((size, ranking.job.query.rules is not None), Estimate())
        least_s = self._least[size] + n_variants * ranking.shape_s
        return Stage("explain", max(cost.p99(), least_s)), cost

    async def _rank_without(self, ranking: Ranking, explored: Sequence[int]) -> list[Ranking]:
        """Return what is answered without each of some items of the history. Raises DegradedError."""
        seen = ranking.found.taste.seen
        rest = [seen[seen != row] for row in explored]
        users = self._student.encode([rows[-self._ranker.max_history :].tolist() for rows in rest])
        found = [
            Found(_without(ranking.job, row), Taste(rows, user if len(rows) else None, math.nan, _hidden(ranking)))
            for row, rows, user in zip(explored, rest, users, strict=True)
        ]
        ranked: dict[int, Ranking] = {}
        for places in _together(found):
            if ranked:
                await asyncio.sleep(0)  # others are answered meanwhile
            if not ranking.job.query.budget.has_time_for(QUEUE):
                raise _TooLateError
            ranked |= zip(places, self._ranker.rank([found[place] for place in places]), strict=True)
        for place, variant in ranked.items():
            if variant.answer.level == "fallback" and len(rest[place]):
                raise _TooLateError if "deadline" in variant.answer.reasons else ModelError("a variant has no answer")
        return [ranked[place] for place in range(len(found))]

    def _compare(self, ranking: Ranking, variants: Mapping[int, Ranking]) -> Explanation:
        """Return what an answer owes to each item of the history. Raises ModelError.

        variants: the answers without each of them.
        """
        without = {row: [int(each) for each in variant.answer.ranked[0]] for row, variant in variants.items()}
        rows = [int(row) for row in ranking.answer.ranked[0]]
        falls = self._falls(ranking, rows, variants)
        rules = ranking.job.query.rules
        first = 1 if rules is None else 1 + rules.offset
        because = []
        for place, row in enumerate(rows):
            shares = _shares({other: float(fall[place]) for other, fall in falls.items()})
            ranks = {other: first + without[other].index(row) if row in without[other] else None for other in shares}
            because.append([Cause(other, share, ranks[other]) for other, share in shares.items()])
        return Explanation(because, without)

    def _falls(self, ranking: Ranking, rows: Sequence[int], variants: Mapping[int, Ranking]) -> dict[int, Any]:
        """Return by how much the score of each row falls without each item, float [len(rows)]. Raises ModelError.

        The scores of the one item of a history are not held against those of a stranger, which are of another kind:
        everything is owed to it.
        """
        if len(variants) == 1 and not len(next(iter(variants.values())).found.taste.seen):
            return dict.fromkeys(variants, np.ones(len(rows)))
        taste = replace(ranking.found.taste, last_at=math.nan)
        whole = self._scores(
            Ranking(replace(ranking.found, taste=taste), ranking.answer, ranking.user, ranking.at), rows
        )
        return {row: whole - self._scores(variant, rows) for row, variant in variants.items()}

    def _scores(self, ranking: Ranking, rows: Sequence[int]) -> Any:
        found = self._ranker.scores_of(ranking, rows)
        return np.array([found[row] for row in rows], dtype=np.float64)


class _TooLateError(DegradedError):
    reason = "deadline"


def _shares(falls: Mapping[int, float]) -> dict[int, float]:
    """Return the greatest parts of what a score falls by without some items, the greatest first."""
    positive = {row: fall for row, fall in falls.items() if fall > 0}
    total = math.fsum(positive.values())
    greatest = sorted(positive, key=lambda row: -positive[row])[:MOST_NAMED]
    return {row: round(positive[row] / total, 4) for row in greatest}


def _newest(taste: Taste) -> list[int]:
    """Return the newest distinct rows of a history, the newest first."""
    return list(dict.fromkeys(taste.seen[::-1].tolist()))[:MOST_EXPLORED]


def _hidden(ranking: Ranking) -> Any:
    return ranking.found.taste.hidden


def _without(job: Job, row: int) -> Job:
    """Return the job of the same request with a row excluded."""
    return replace(
        job,
        query=replace(job.query, is_debug=False, is_explained=False, span=None, explore=(), trail=None),
        excluded=[*job.excluded, row],
        placed={position: pinned for position, pinned in job.placed.items() if pinned != row},
    )


def _together(found: Sequence[Found]) -> list[list[int]]:
    """Return the places of those that are ranked together: as each would be alone, and none holds up others for long.

    How deep an approximate search looks follows from how many rows are masked.
    """
    if found and found[0].job.query.rules is not None:
        return [[place] for place in range(len(found))]
    groups: dict[int, list[int]] = {}
    for place, each in enumerate(found):
        groups.setdefault(len(each.job.masked(each.taste)), []).append(place)
    return list(groups.values())
