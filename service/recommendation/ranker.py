"""From what is known of users to ranked items: by the model where there is a history and time, else by popularity.

One run of the encoder for those without a vector, one matrix product for all who rank the whole catalogue. Before each
stage the running p99 of its cost says whether it still fits the budget; where it does not, the next level answers.
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np

from service.bundle import Float32
from service.errors import DegradedError, ModelError, NonFiniteError
from service.metrics import REASONS, Metrics
from service.model.catalogue import Catalogue
from service.model.student import BUCKETS, Student
from service.recommendation.budget import Estimate
from service.recommendation.job import Job
from service.recommendation.memory import NO_ROWS
from service.search.protocol import Ranked
from service.user.record import Int32

RESERVE_S = 0.001
_WARM_RUNS = 3


class Ranker:
    """Answers jobs whose user's taste is known, from one model."""

    def __init__(self, student: Student, catalogue: Catalogue, metrics: Metrics, *, max_history: int) -> None:
        self._student, self._catalogue, self._metrics = student, catalogue, metrics
        self._max_history = max_history
        self._encode_s = {bucket: Estimate() for bucket in BUCKETS}
        self._score_s = {bucket: Estimate() for bucket in BUCKETS}

    def warm(self) -> dict[int, float]:
        """Run every bucket; return what a batch of each size costs, in seconds of this thread: the least of a few runs.

        Not seconds of the clock: a swap warms beside traffic, and must not end with smaller batches for it.
        """
        self._student.warm()
        return {bucket: min(self._try_batch(bucket) for _ in range(_WARM_RUNS)) for bucket in BUCKETS}

    def rank(self, jobs: Iterable[Job]) -> None:
        """Answer every job, all of whose tastes are known."""
        known: list[Job] = []
        for job in jobs:
            if len(_seen(job)):
                known.append(job)
                continue
            if job.answer.level == "full":
                job.answer.reasons.append("cold_user")
            self._answer_popular(job)
        self._encode([job for job in known if job.taste is not None and job.taste.user is None])
        needed_s = self._score_s[_bucket(len(known))].p99()
        ready = [job for job in known if not job.future.done() and self.has_time(job, "score", needed_s)]
        for job in [job for job in ready if job.candidates is not None]:
            self._rank_candidates(job)
        self._rank_all([job for job in ready if job.candidates is None])

    def has_time(self, job: Job, stage: str, needed_s: float) -> bool:
        """Whether a stage still fits into the budget; if not, the job is answered at once."""
        if time.monotonic() + needed_s + RESERVE_S / 2 <= job.query.deadline:
            return True
        self._metrics.deadline_exceeded[stage].inc()
        self._fall_back(job, _DeadlineError())
        return False

    def note_stage(self, name: str, start: float, jobs: Sequence[Job]) -> float:
        """Note the time since start as that of a stage; return it."""
        seconds = time.monotonic() - start
        self._metrics.stage[name].observe(seconds)
        for job in jobs:
            if job.query.is_debug:
                job.answer.stages_ms[name] = round(seconds * 1000, 3)
        return seconds

    def _try_batch(self, bucket: int) -> float:
        start = time.thread_time()
        users = self._student.encode([[0]] * bucket)
        middle = time.thread_time()
        self._catalogue.best(self._catalogue.score(users, 10, 1), 10, [[0]] * bucket)
        end = time.thread_time()
        self._encode_s[bucket].note(middle - start)
        self._score_s[bucket].note(end - middle)
        return end - start

    def _encode(self, jobs: list[Job]) -> None:
        """Give every job its vector, or answer it without."""
        bucket = _bucket(len(jobs))
        needed_s = self._encode_s[bucket].p99() + self._score_s[bucket].p99()
        jobs = [job for job in jobs if self.has_time(job, "encode", needed_s)]
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
        self._encode_s[bucket].note(self.note_stage("encode", start, jobs))
        for job, user, is_finite in zip(jobs, users, _finite_lines(users), strict=True):
            if is_finite and job.taste is not None:
                job.taste.user = user.copy()  # remembered, it would keep the whole batch
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
            scores = self._catalogue.score(users, k, max(map(len, masked)))
        except ModelError as exc:
            for job in jobs:
                self._fall_back(job, exc)
            return
        middle_s = self.note_stage("score", start, jobs)
        start = time.monotonic()
        found = self._catalogue.best(scores, k, masked)
        self._score_s[_bucket(len(jobs))].note(middle_s + self.note_stage("rules", start, jobs))
        for job, ranked in zip(jobs, found, strict=True):
            if ranked is None:
                self._fall_back(job, NonFiniteError("a score is NaN or infinity"))
            else:
                self._finish(job, (ranked[0][: job.query.k], ranked[1][: job.query.k]))

    def _rank_candidates(self, job: Job) -> None:
        start = time.monotonic()
        try:
            ranked = self._catalogue.best_of(_vector(job), job.query.k, job.masked(), job.candidates or ())
        except NonFiniteError as exc:
            self._fall_back(job, exc)
            return
        self.note_stage("score", start, [job])
        self._finish(job, ranked)

    def _fall_back(self, job: Job, exc: DegradedError) -> None:
        job.answer.reasons = [reason for reason in job.answer.reasons if reason != "stale_profile"]
        job.answer.reasons.append(exc.reason)
        self._answer_popular(job)

    def _answer_popular(self, job: Job) -> None:
        job.answer.level = "fallback"
        start = time.monotonic()
        ranked = self._catalogue.most_popular(job.query.k, job.masked(), job.candidates)
        self.note_stage("rules", start, [job])
        self._finish(job, ranked)

    def _finish(self, job: Job, ranked: Ranked) -> None:
        answer = job.answer
        answer.ranked = ranked
        if len(ranked[0]) < job.query.k:
            answer.reasons.append("not_enough_items")
        if len(answer.reasons) > 1:
            answer.reasons = sorted(set(answer.reasons), key=REASONS.index)
        if answer.ignored_ids:
            answer.ignored_ids = list(dict.fromkeys(answer.ignored_ids))
        if job.query.is_debug:
            answer.funnel = self._describe(job, ranked)
        if not job.future.done():
            job.future.set_result(answer)

    def _describe(self, job: Job, ranked: Ranked) -> dict[str, int]:
        return {
            "history": min(len(_seen(job)), self._max_history),
            "masked": len(set(job.masked())),
            "candidates": len(self._catalogue) if job.candidates is None else len(job.candidates),
            "returned": len(ranked[0]),
        }


class _DeadlineError(DegradedError):
    reason = "deadline"


def _bucket(n_jobs: int) -> int:
    return next((bucket for bucket in BUCKETS if bucket >= n_jobs), BUCKETS[-1])


def _finite_lines(users: Float32) -> list[bool]:
    return [bool(np.isfinite(user).all()) for user in users]


def _seen(job: Job) -> Int32:
    return NO_ROWS if job.taste is None else job.taste.seen


def _vector(job: Job) -> Float32:
    assert job.taste is not None and job.taste.user is not None  # noqa: S101  # ready
    return job.taste.user
