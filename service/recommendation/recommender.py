"""The use case: the best answer that can still be given inside the budget, and its honest name.

full: the stored (or given) history, the model, the whole catalogue. degraded: the same with what this worker remembers
of the user. fallback: the most popular items. Every reason is one of a closed list, in order of importance.

Queries are answered in batches (see batcher): what is known of their users is looked up, then all are ranked.
"""

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from service.errors import RequestError
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.student import BUCKETS, Student
from service.recommendation.batcher import Batcher
from service.recommendation.job import Answer, Job, Query
from service.recommendation.lookup import Lookup
from service.recommendation.memory import Memory, Taste
from service.recommendation.ranker import RESERVE_S, Ranker
from service.user.history import Profile

_MAX_RUNNING = 4
_PATIENCE_S = 0.002
_MAX_BATCH_S = 0.01


class Recommender:
    """Answers queries from one model and one store."""

    def __init__(
        self,
        student: Student,
        catalogue: Catalogue,
        profile: Profile,
        metrics: Metrics,
        *,
        max_history: int,
        store_share: float,
        memory_users: int,
    ) -> None:
        self._catalogue, self._metrics, self._store_share = catalogue, metrics, store_share
        self._ranker = Ranker(student, catalogue, metrics, max_history=max_history)
        self._memory = Memory(memory_users)
        self._lookup = Lookup(profile, catalogue, self._memory, metrics, self._ranker.rank)
        self._batcher: Batcher[Job] = Batcher(
            self._run, max_batch=BUCKETS[-1], max_running=_MAX_RUNNING, patience_s=_PATIENCE_S
        )

    @property
    def depth(self) -> int:
        """How many queries wait for a batch."""
        return self._batcher.depth

    def recommend(self, query: Query) -> "asyncio.Future[Answer]":
        """Answer inside the budget, whatever fails."""
        answer = Answer()
        job = Job(
            query,
            asyncio.get_running_loop().create_future(),
            min(query.arrived + query.budget_s * self._store_share, query.deadline - RESERVE_S),
            None if query.candidates is None else list(dict.fromkeys(self._find(query.candidates, answer))),
            self._find(query.exclude, answer),
            answer,
        )
        if query.history is not None:
            job.taste = Taste(np.array(self._find(query.history, answer), dtype=np.int32))
        self._batcher.submit(job)
        return job.future

    async def forget(self, user_id: str) -> None:
        """Drop what this worker remembers of a user, and let no write that began before bring it back."""
        await self._lookup.forget(user_id)

    async def flush(self) -> None:
        """Wait for the records being written."""
        await self._lookup.flush()

    async def rest(self) -> None:
        """Finish what was begun, and remember nobody: a way back may lie far ahead."""
        await self._batcher.drain()
        await self.flush()
        self._memory.clear()

    async def close(self) -> None:
        """Finish what was begun, and let go of the model: its memory is free as soon as nobody refers to this."""
        await self.rest()
        self._batcher.close()

    def warm(self) -> None:
        """Run every batch size, and bound batches by what they were seen to cost."""
        for bucket, cost_s in self._ranker.warm().items():
            if bucket > 1 and cost_s > _MAX_BATCH_S:
                break
            self._batcher.max_batch = bucket

    def _find(self, item_ids: Sequence[str], answer: Answer) -> list[int]:
        if not item_ids:
            return []
        rows, unknown = self._catalogue.find_rows(item_ids)
        answer.ignored_ids += unknown
        return rows

    async def _run(self, jobs: list[Job]) -> None:
        """Answer every job of a batch."""
        try:
            await self._answer(jobs)
        except Exception as exc:  # a border: a bug must reach the callers, or they would wait for ever
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(exc)

    async def _answer(self, jobs: list[Job]) -> None:
        started = time.monotonic()
        jobs = [job for job in jobs if self._is_worth_it(job, started)]
        asking = [job for job in jobs if job.taste is None and job.query.user_id is not None]
        unseen = []
        if asking:
            unseen = await self._lookup.find(asking)
            self._ranker.note_stage("store", started, asking)
        self._ranker.rank(job for job in jobs if not job.future.done())
        self._lookup.keep_later(unseen)

    def _is_worth_it(self, job: Job, now: float) -> bool:
        """Whether somebody still waits for the answer, and there is time for more than the cheapest one."""
        self._metrics.stage["queue"].observe(now - job.query.arrived)
        if job.query.caller.is_gone:
            self._metrics.shed["gone"].inc()
            job.future.set_exception(RequestError("caller_gone", "the caller hung up"))
            return False
        return self._ranker.has_time(job, "queue", 0.0)
