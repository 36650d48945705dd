"""The use case: the best answer that can still be given inside the budget, and its honest name.

full: the stored (or given) history, the model, the whole catalogue. degraded: the same with what this worker remembers
of the user. fallback: the most popular items. Every reason is one of a closed list, in order of importance.

Queries are answered in batches (see batcher): what is known of their users is looked up, then all are ranked. Callers
who give their history with the request are ranked first, and never wait for the store.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence

from service.errors import RequestError
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.student import BUCKETS
from service.recommendation.batcher import Batcher
from service.recommendation.budget import QUEUE
from service.recommendation.explanation import Explainer
from service.recommendation.job import Answer, Found, Job, Query, Ranking, known, make_job
from service.recommendation.lookup import Lookup
from service.recommendation.ranker import Ranker

_MAX_RUNNING = 4
_PATIENCE_S = 0.002
_MAX_BATCH_S = 0.01


class Recommender:
    """Answers queries from one model and one store."""

    def __init__(
        self, catalogue: Catalogue, lookup: Lookup, ranker: Ranker, explainer: Explainer, metrics: Metrics
    ) -> None:
        self._catalogue, self._lookup, self._ranker, self._metrics = catalogue, lookup, ranker, metrics
        self._explainer = explainer
        self._batcher: Batcher[Job] = Batcher(
            self._run, max_batch=BUCKETS[-1], max_running=_MAX_RUNNING, patience_s=_PATIENCE_S
        )
        self._explaining: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    @property
    def depth(self) -> int:
        """How many queries wait for a batch."""
        return self._batcher.depth

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer, explained ones included."""
        return self._batcher.is_idle and not self._explaining

    def recommend(self, query: Query) -> "asyncio.Future[Answer]":
        """Answer inside the budget, whatever fails."""
        future = asyncio.get_running_loop().create_future()
        self._batcher.submit(make_job(query, self._catalogue, future))
        return future

    async def forget(self, user_id: str) -> None:
        """Drop what this worker remembers of a user, and let no write that began before bring it back."""
        await self._lookup.forget(user_id)

    def forget_share(self, share: int | None) -> None:
        """Drop what this worker remembers of the users of a share, or of everybody."""
        self._lookup.forget_share(share)

    async def flush(self) -> None:
        """Wait for the records being written."""
        await self._lookup.flush()

    async def rest(self) -> None:
        """Finish what was begun, and remember nobody: this version may not be asked again for long."""
        await self._batcher.drain()
        while self._explaining:
            await asyncio.wait(self._explaining)
        await self._lookup.rest()

    async def close(self) -> None:
        """Finish what was begun, and let go of the model: its memory is free as soon as nobody refers to this."""
        await self.rest()
        self._batcher.close()

    def warm(self) -> None:
        """Run every batch size, and bound batches by what they were seen to cost."""
        costs = self._ranker.warm()
        self._explainer.warm(costs)
        for bucket, cost_s in costs.items():
            if bucket > 1 and cost_s > _MAX_BATCH_S:
                break
            self._batcher.max_batch = bucket

    async def _run(self, jobs: list[Job]) -> None:
        """Answer every job of a batch."""
        try:
            await self._answer(jobs)
        except Exception as exc:  # a border: a bug must reach the callers, or they would wait for ever
            _fail(jobs, exc)

    async def _answer(self, jobs: list[Job]) -> None:
        now = time.monotonic()
        jobs = [job for job in jobs if self._is_worth_it(job, now)]
        self._finish(self._rank([known(job) for job in jobs if job.taste is not None]))
        asking = [job for job in jobs if job.taste is None]
        if asking:
            async for found in self._lookup.find(asking):
                rankings = self._rank(found)
                self._finish(rankings)
                self._lookup.keep(rankings)

    def _rank(self, found: Sequence[Found]) -> list[Ranking]:
        """Rank together, but those alone whose answers are kept; in no order."""
        alone = [each for each in found if each.job.query.trail is not None]
        if not alone:
            return self._ranker.rank(found)
        rankings = self._ranker.rank([each for each in found if each.job.query.trail is None])
        for each in alone:
            rankings += self._ranker.rank([each])
        return rankings

    def _finish(self, rankings: Sequence[Ranking]) -> None:
        """Hand out the answers; those that are to be explained later, while other batches run."""
        explained = [ranking for ranking in rankings if ranking.job.query.is_explained]
        self._hand_out([ranking for ranking in rankings if ranking not in explained] if explained else rankings)
        if explained:
            task = asyncio.create_task(self._explain(explained))
            self._explaining.add(task)
            task.add_done_callback(self._explaining.discard)

    async def _explain(self, rankings: Sequence[Ranking]) -> None:
        """Explain answers and hand them out: one at a time of all, so that many of them hold up nobody else."""
        for ranking in rankings:
            try:
                async with self._turn:
                    await asyncio.sleep(0)
                    await self._explainer.explain(ranking)
            except Exception as exc:  # a border, as in _run
                _fail([ranking.job], exc)
            self._hand_out([ranking])

    def _hand_out(self, rankings: Iterable[Ranking]) -> None:
        for ranking in rankings:
            if ranking.job.query.trail is not None:
                ranking.job.query.trail.ranking = ranking
            if ranking.job.query.visit is not None:
                ranking.job.query.visit.note(ranking.found, ranking.user)
            if not ranking.job.future.done():
                ranking.job.future.set_result(ranking.answer)

    def _is_worth_it(self, job: Job, now: float) -> bool:
        """Whether somebody still waits for the answer, and there is time for more than the cheapest one."""
        query = job.query
        self._metrics.stage["queue"].observe(now - query.budget.arrived)
        if query.span is not None:
            query.span.follow("queue", now)
        if query.caller.is_gone:
            self._metrics.shed["gone"].inc()
            job.future.set_exception(RequestError("caller_gone", "the caller hung up"))
            return False
        if not query.budget.has_time_for(QUEUE):
            self._hand_out([self._ranker.fall_back(known(job), QUEUE)])
            return False
        return True


def _fail(jobs: Iterable[Job], exc: Exception) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(exc)
