"""The use case: the best answer that can still be given inside the budget, and its honest name.

full: the stored (or given) history, the model, the whole catalogue. degraded: the same with what this worker remembers
of the user. fallback: the most popular items. Every reason is one of a closed list, in order of importance.

Queries are answered in batches (see batcher): one round trip to the store, and a second for those whose record is not
fresh; one run of the encoder for those without a vector; one matrix product for all.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence

import numpy as np

from service.batcher import Batcher
from service.bundle import Float32
from service.errors import DegradedError, ModelError, NonFiniteError, RequestError, StoreError, StoreTimeoutError
from service.estimate import Estimate
from service.index import Index
from service.memory import NO_ROWS, Memory, Taste
from service.metrics import REASONS, Metrics
from service.profile import Int32, Profile, Record, Sight
from service.query import Answer, Job, Query
from service.search import Ranked
from service.student import BUCKETS, Student

_MAX_RUNNING = 4
_PATIENCE_S = 0.002
_MAX_WRITES = 4
_WRITE_TIMEOUT_S = 0.25
_RESERVE_S = 0.001
_MAX_BATCH_S = 0.01


class Recommender:
    """Answers queries from one model and one store."""

    def __init__(
        self,
        student: Student,
        index: Index,
        profile: Profile,
        metrics: Metrics,
        *,
        max_history: int,
        store_share: float,
        memory_users: int,
    ) -> None:
        self._student, self._index, self._profile, self._metrics = student, index, profile, metrics
        self._max_history, self._store_share = max_history, store_share
        self._memory = Memory(memory_users)
        self._writes: set[asyncio.Task[None]] = set()
        self._erasures = 0
        self._encode_s = {bucket: Estimate() for bucket in BUCKETS}
        self._score_s = {bucket: Estimate() for bucket in BUCKETS}
        metrics.watch(metrics.queue_depth, lambda: self._batcher.depth)
        self._batcher: Batcher[Job] = Batcher(
            self._run, max_batch=BUCKETS[-1], max_running=_MAX_RUNNING, patience_s=_PATIENCE_S
        )

    async def recommend(self, query: Query) -> Answer:
        """Answer inside the budget, whatever fails."""
        answer = Answer()
        job = Job(
            query,
            asyncio.get_running_loop().create_future(),
            min(query.arrived + query.budget_s * self._store_share, query.deadline - _RESERVE_S),
            None if query.candidates is None else list(dict.fromkeys(self._find(query.candidates, answer))),
            self._find(query.exclude, answer),
            answer,
        )
        if query.history is not None:
            job.taste = Taste(np.array(self._find(query.history, answer), dtype=np.int32))
        self._batcher.submit(job)
        return await job.future

    async def forget(self, user_id: str) -> None:
        """Drop what this worker remembers of a user, and let no write that began before bring it back."""
        self._erasures += 1
        self._memory.forget(user_id)
        await self.flush()

    async def flush(self) -> None:
        """Wait for the records being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    def warm(self) -> None:
        """Run every bucket, and bound batches by what they were seen to cost."""
        self._student.warm()
        for bucket in BUCKETS:
            for _ in range(3):
                start = time.monotonic()
                users = self._student.encode([[0]] * bucket)
                middle = time.monotonic()
                self._index.best(self._index.score(users, 10, 1), 10, [[0]] * bucket)
                cost_s = time.monotonic() - start
            self._encode_s[bucket].note(middle - start)
            self._score_s[bucket].note(cost_s - (middle - start))
            if bucket == 1 or cost_s <= _MAX_BATCH_S:
                self._batcher.max_batch = bucket

    def _find(self, item_ids: Sequence[str], answer: Answer) -> list[int]:
        if not item_ids:
            return []
        rows, unknown = self._index.find_rows(item_ids)
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
        if asking:
            await self._ask_store(asking)
            self._note_stage("store", started, asking)
        self._rank(job for job in jobs if not job.future.done())

    def _is_worth_it(self, job: Job, now: float) -> bool:
        """Whether somebody still waits for the answer, and there is time for more than the cheapest one."""
        self._metrics.stage["queue"].observe(now - job.query.arrived)
        if job.query.caller.is_gone:
            self._metrics.shed["gone"].inc()
            job.future.set_exception(RequestError("caller_gone", "the caller hung up"))
            return False
        return self._has_time(job, "queue", 0.0)

    async def _ask_store(self, jobs: list[Job]) -> None:
        """Find every job's taste, or the reason why not. A job whose time is over is answered while others wait."""
        now = time.monotonic()
        until = max(job.store_until for job in jobs)
        hurried = [job for job in jobs if job.store_until < until - _RESERVE_S]
        timer = None
        if hurried:
            first = min(job.store_until for job in hurried)
            timer = asyncio.get_running_loop().call_later(first - now, self._give_up, hurried)
        try:
            if until <= now:
                raise _NoTimeError
            await self._find_tastes(jobs, until)
        except StoreError as exc:
            if isinstance(exc, _NoTimeError):
                self._metrics.deadline_exceeded["store"].inc(len(jobs))
            for job in jobs:
                if not job.future.done() and job.taste is None:
                    self._recall(job, exc)
        finally:
            if timer is not None:
                timer.cancel()

    def _give_up(self, jobs: list[Job]) -> None:
        """Answer the jobs whose time for the store is over without it."""
        now = time.monotonic()
        late = [job for job in jobs if job.store_until <= now and not job.future.done() and job.taste is None]
        for job in late:
            self._metrics.store_errors["timeout"].inc()
            self._recall(job, StoreTimeoutError())
        if late:
            self._rank(late)
        if left := [job for job in jobs if not job.future.done() and job.taste is None]:
            first = min(job.store_until for job in left)
            asyncio.get_running_loop().call_later(max(0.0, first - now), self._give_up, left)

    async def _find_tastes(self, jobs: list[Job], until: float) -> None:
        erasures = self._erasures
        sights = await self._profile.look(_users(jobs), until - time.monotonic())
        stale: list[tuple[Job, Sight]] = []
        for job, sight in zip(jobs, sights, strict=True):
            if sight.record is not None:
                job.taste = Taste(sight.record.rows, sight.record.user)
            elif sight.result == "none":
                self._memory.forget(str(job.query.user_id))  # erased, perhaps, by way of another worker
                job.taste = Taste(NO_ROWS)
            else:
                stale.append((job, sight))
            if sight.result != "none":
                self._metrics.embedding_cache[sight.result].inc()
        if stale:
            await self._read_histories(stale, until)
        if erasures == self._erasures:
            for job in jobs:
                if job.taste is not None and len(job.taste.seen):
                    self._memory.note(str(job.query.user_id), job.taste)

    async def _read_histories(self, stale: list[tuple[Job, Sight]], until: float) -> None:
        """Read whole histories, encode them, and cache the records after the answers."""
        jobs = [job for job, _ in stale]
        histories = await self._profile.read(_users(jobs), max(0.0, until - time.monotonic()))
        for job, item_ids in zip(jobs, histories, strict=True):
            rows, _ = self._index.find_rows(item_ids)
            job.taste = Taste(np.array(rows, dtype=np.int32))
        self._encode([job for job in jobs if not job.future.done()])
        self._keep_later(
            [
                (str(job.query.user_id), sight, Record(job.taste.seen, job.taste.user))
                for job, sight in stale
                if job.taste is not None and job.taste.user is not None
            ]
        )

    def _recall(self, job: Job, exc: StoreError) -> None:
        job.answer.reasons.append(exc.reason)
        taste = self._memory.recall(str(job.query.user_id))
        if taste is None:
            job.answer.level = "fallback"
            job.taste = Taste(NO_ROWS)
        else:
            job.answer.level = "degraded"
            job.answer.reasons.append("stale_profile")
            job.taste = taste

    def _rank(self, jobs: Iterable[Job]) -> None:
        """Answer jobs by the model where there is a history, time and a vector; else by popularity."""
        known: list[Job] = []
        for job in jobs:
            if job.taste is None or not len(job.taste.seen):
                if job.answer.level == "full":
                    job.answer.reasons.append("cold_user")
                self._answer_popular(job)
            else:
                known.append(job)
        self._encode([job for job in known if job.taste is not None and job.taste.user is None])
        needed_s = self._score_s[_bucket(len(known))].p99()
        ready = [job for job in known if not job.future.done() and self._has_time(job, "score", needed_s)]
        for job in [job for job in ready if job.candidates is not None]:
            self._rank_candidates(job)
        self._rank_all([job for job in ready if job.candidates is None])

    def _encode(self, jobs: list[Job]) -> None:
        """Give every job its vector, or answer it without."""
        bucket = _bucket(len(jobs))
        needed_s = self._encode_s[bucket].p99() + self._score_s[bucket].p99()
        jobs = [job for job in jobs if len(_seen(job)) and self._has_time(job, "encode", needed_s)]
        if not jobs:
            return
        start = time.monotonic()
        try:
            users = self._student.encode([_seen(job)[-self._max_history :].tolist() for job in jobs])
        except ModelError as exc:
            for job in jobs:
                self._fall_back(job, exc)
            return
        self._metrics.batch_size.observe(len(jobs))
        self._encode_s[bucket].note(self._note_stage("encode", start, jobs))
        for job, user, is_finite in zip(jobs, users, _finite_lines(users), strict=True):
            if is_finite and job.taste is not None:
                job.taste.user = user
            else:
                self._fall_back(job, NonFiniteError("the encoder returned NaN or infinity"))

    def _rank_all(self, jobs: list[Job]) -> None:
        """Rank the whole catalogue for every job at once."""
        if not jobs:
            return
        start = time.monotonic()
        k, masked = max(job.query.k for job in jobs), [job.masked() for job in jobs]
        try:
            users = _vector(jobs[0])[None] if len(jobs) == 1 else np.stack([_vector(job) for job in jobs])
            scores = self._index.score(users, k, max(map(len, masked)))
        except ModelError as exc:
            for job in jobs:
                self._fall_back(job, exc)
            return
        middle_s = self._note_stage("score", start, jobs)
        start = time.monotonic()
        found = self._index.best(scores, k, masked)
        self._score_s[_bucket(len(jobs))].note(middle_s + self._note_stage("rules", start, jobs))
        for job, ranked in zip(jobs, found, strict=True):
            if ranked is None:
                self._fall_back(job, NonFiniteError("a score is NaN or infinity"))
            else:
                self._finish(job, (ranked[0][: job.query.k], ranked[1][: job.query.k]))

    def _rank_candidates(self, job: Job) -> None:
        start = time.monotonic()
        try:
            ranked = self._index.best_of(_vector(job), job.query.k, job.masked(), job.candidates or ())
        except NonFiniteError as exc:
            self._fall_back(job, exc)
            return
        self._note_stage("score", start, [job])
        self._finish(job, ranked)

    def _has_time(self, job: Job, stage: str, needed_s: float) -> bool:
        """Whether a stage still fits into the budget; if not, the job is answered at once."""
        if time.monotonic() + needed_s + _RESERVE_S / 2 <= job.query.deadline:
            return True
        self._metrics.deadline_exceeded[stage].inc()
        self._fall_back(job, _DeadlineError())
        return False

    def _fall_back(self, job: Job, exc: DegradedError) -> None:
        job.answer.reasons = [reason for reason in job.answer.reasons if reason != "stale_profile"]
        job.answer.reasons.append(exc.reason)
        self._answer_popular(job)

    def _answer_popular(self, job: Job) -> None:
        job.answer.level = "fallback"
        start = time.monotonic()
        ranked = self._index.most_popular(job.query.k, job.masked(), job.candidates)
        self._note_stage("rules", start, [job])
        self._finish(job, ranked)

    def _finish(self, job: Job, ranked: Ranked) -> None:
        answer, taste = job.answer, job.taste
        answer.ranked = ranked
        if len(ranked[0]) < job.query.k:
            answer.reasons.append("not_enough_items")
        if len(answer.reasons) > 1:
            answer.reasons = sorted(set(answer.reasons), key=REASONS.index)
        if answer.ignored_ids:
            answer.ignored_ids = list(dict.fromkeys(answer.ignored_ids))
        if job.query.is_debug:
            answer.funnel = {
                "history": 0 if taste is None else min(len(taste.seen), self._max_history),
                "masked": len(set(job.masked())),
                "candidates": len(self._index) if job.candidates is None else len(job.candidates),
                "returned": len(ranked[0]),
            }
        if not job.future.done():
            job.future.set_result(answer)

    def _note_stage(self, name: str, start: float, jobs: Sequence[Job]) -> float:
        seconds = time.monotonic() - start
        self._metrics.stage[name].observe(seconds)
        for job in jobs:
            if job.query.is_debug:
                job.answer.stages_ms[name] = round(seconds * 1000, 3)
        return seconds

    def _keep_later(self, records: list[tuple[str, Sight, Record]]) -> None:
        """Cache fresh records after the answers; dropped when busy: they are only a saving."""
        if not records or len(self._writes) >= _MAX_WRITES:
            return
        task = asyncio.create_task(self._keep(records, self._erasures))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _keep(self, records: list[tuple[str, Sight, Record]], erasures: int) -> None:
        if erasures != self._erasures:
            return  # one of the users may have been erased since the read
        try:
            await self._profile.keep(records, _WRITE_TIMEOUT_S)
        except StoreError:
            return  # counted by the store; the next request encodes again


class _DeadlineError(DegradedError):
    reason = "deadline"


class _NoTimeError(StoreError):
    reason = "deadline"

    def __init__(self) -> None:
        super().__init__("timeout")


def _bucket(n_jobs: int) -> int:
    return next((bucket for bucket in BUCKETS if bucket >= n_jobs), BUCKETS[-1])


def _users(jobs: Sequence[Job]) -> list[str]:
    return [str(job.query.user_id) for job in jobs]


def _finite_lines(users: Float32) -> list[bool]:
    return [bool(np.isfinite(user).all()) for user in users]


def _seen(job: Job) -> Int32:
    return NO_ROWS if job.taste is None else job.taste.seen


def _vector(job: Job) -> Float32:
    assert job.taste is not None and job.taste.user is not None  # noqa: S101  # ready
    return job.taste.user
