"""A shadow: a sample of the requests is answered by another version too, aside, once they were answered.

It takes spare time only. A request is taken up while the live version answers nobody, else it waits a little and is
then dropped; few may wait. One answer at a time is made, within a quarter of the default budget, and at most a tenth
of the time goes into them. So a request that comes meanwhile waits for one at most, as for that of anybody else.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from service.bundle import Float32
from service.experiment.comparison import overlap, rank_correlation
from service.metrics import Metrics
from service.recommendation.budget import Budget
from service.recommendation.job import Answer, Query
from service.release.generation import Generation
from service.search.protocol import Ranked
from service.task import end_task

MOST_WAITING = 8
_PATIENCE_S = 0.25
_LOOK_EVERY_S = 0.005
_STORE_S = 0.25
_BITS = 32
_REST = 9
"""So many times what an answer took nothing is begun."""
Make = Callable[[Generation], Query]


class _Asked(NamedTuple):
    make: Make
    answer: Answer
    took_s: float


class Shadow:
    """Compares the answers of the live version with those that another one would have given."""

    def __init__(
        self, live: Generation, other: Generation, share: float, *, longest_s: float, metrics: Metrics
    ) -> None:
        """share: percent of the requests. longest_s: what one answer of the other version may take."""
        self._live, self._other, self._end = live, other, round((1 << _BITS) * share / 100)
        self._longest_s, self._metrics = longest_s, metrics
        self._waiting: deque[_Asked] = deque()
        self._is_due = asyncio.Event()
        self._sides = {"live": _Side(live), "other": _Side(other)}
        self._task = asyncio.create_task(self._run())

    def offer(self, future: "asyncio.Future[Answer]", make: Make, arrived: float) -> None:
        """Take a request into the sample, or do not. make: makes its query for a version. arrived: when it did."""
        if random.getrandbits(_BITS) < self._end:
            future.add_done_callback(lambda done: self._take(done, make, arrived))

    def stop(self) -> None:
        """Answer nothing more."""
        self._task.cancel()

    async def close(self) -> None:
        """Answer nothing more, and wait until that is so."""
        await end_task(self._task)

    def _take(self, future: "asyncio.Future[Answer]", make: Make, arrived: float) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._metrics.shadow_requests["dropped"].inc()
            return
        self._waiting.append(_Asked(make, future.result(), time.monotonic() - arrived))
        self._is_due.set()

    async def _run(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            while self._waiting:
                asked, start = self._waiting.popleft(), time.thread_time()
                result = await self._compare(asked)
                self._metrics.shadow_requests[result].inc()
                await asyncio.sleep(_REST * max(0.0, time.thread_time() - start) if result != "dropped" else 0)

    async def _compare(self, asked: _Asked) -> str:
        """Answer a request again and compare; return a label of shadow_requests_total."""
        try:
            query = asked.make(self._other)
            past = await self._other.aside.read(query, _STORE_S)
            if not await self._is_idle():
                return "dropped"
            start = time.monotonic()
            answer = self._other.aside.answer(query, past, Budget(start, start + self._longest_s, start))
        except Exception:  # a border: a version that is only looked at harms nobody
            return "failed"
        if "deadline" in answer.reasons:
            return "too_slow"
        self._note(asked, answer, time.monotonic() - start)
        return "compared"

    async def _is_idle(self) -> bool:
        """Whether the live version answers nobody, within a while."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            await asyncio.sleep(0)  # what has come in meanwhile is read first
            if self._live.recommender.is_idle:
                return True
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)

    def _note(self, asked: _Asked, answer: Answer, took_s: float) -> None:
        metrics, sides = self._metrics, self._sides
        live, other = sides["live"].ids(asked.answer.ranked), sides["other"].ids(answer.ranked)
        metrics.shadow_overlap.observe(overlap(live, other))
        if (tau := rank_correlation(live, other)) is not None:
            metrics.shadow_same_order.observe((tau + 1) / 2)  # a histogram of negative values has no sum
        for role, each, seconds in (("live", asked.answer, asked.took_s), ("other", answer, took_s)):
            metrics.shadow_levels[role, each.level].inc()
            metrics.shadow_duration[role].observe(seconds)
            sides[role].note(each.ranked)
            metrics.shadow_coverage[role].set(sides[role].coverage)
            metrics.shadow_score[role].set(sides[role].mean_score)


class _Side:
    """What the answers of one version come to."""

    def __init__(self, generation: Generation) -> None:
        self._item_ids = generation.catalogue.item_ids
        self._shown = np.zeros(max(1, len(generation.catalogue)), dtype=np.bool_)
        self._n_shown = self._n_scores = 0
        self._sum = 0.0

    @property
    def coverage(self) -> float:
        """The share of the catalogue that was in some list."""
        return self._n_shown / len(self._shown)

    @property
    def mean_score(self) -> float:
        """The mean score of all items of all lists; 0 before the first."""
        return self._sum / max(1, self._n_scores)

    def ids(self, ranked: Ranked) -> list[str]:
        return [self._item_ids[row] for row in ranked[0]]

    def note(self, ranked: Ranked) -> None:
        scores: Float32 = np.asarray(ranked[1], dtype=np.float32)
        rows = [row for row in ranked[0] if row < len(self._shown)]  # items that came since are not counted
        self._n_shown += len(rows) - int(np.count_nonzero(self._shown[rows])) if rows else 0
        self._shown[rows] = True
        self._n_scores += len(scores)
        self._sum += float(scores.sum())
