"""What is known of the users of a batch: from the store inside its share of the budget, else from memory.

One round trip for all, and a second for those whose record is not fresh; where two would not fit, histories are read in
the first. A job whose time for the store is over is answered with what is remembered while the others go on waiting.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from service.errors import StoreError, StoreTimeoutError
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.recommendation.job import Job
from service.recommendation.memory import NO_ROWS, Memory, Taste
from service.recommendation.ranker import RESERVE_S
from service.user.history import Profile
from service.user.record import Record, Sight

_MAX_WRITES = 4
_WRITE_TIMEOUT_S = 0.25
_NEWEST = 0.2  # share of the last round trip where it was shorter than those before; a longer one counts at once
Unseen = list[tuple[Job, Sight]]
"""Jobs whose history was read whole, so that a record of them is worth keeping."""


class Lookup:
    """Finds tastes for one model: rows of its item table."""

    def __init__(
        self,
        profile: Profile,
        catalogue: Catalogue,
        memory: Memory,
        metrics: Metrics,
        rank: Callable[[list[Job]], None],
    ) -> None:
        """rank: answers jobs that can wait no longer."""
        self._profile, self._catalogue, self._memory, self._metrics = profile, catalogue, memory, metrics
        self._rank = rank
        self._writes: set[asyncio.Task[None]] = set()
        self._erasures = 0
        self._trip_s = 0.0

    async def find(self, jobs: list[Job]) -> Unseen:
        """Give every job its taste, or the reason why not."""
        now = time.monotonic()
        until = max(job.store_until for job in jobs)
        hurried = [job for job in jobs if job.store_until < until - RESERVE_S]
        timer = None
        if hurried:
            first = min(job.store_until for job in hurried)
            timer = asyncio.get_running_loop().call_later(first - now, self._give_up, hurried)
        try:
            if until <= now:
                raise _NoTimeError
            return await self._find_tastes(jobs, until)
        except StoreError as exc:
            if isinstance(exc, _NoTimeError):
                self._metrics.deadline_exceeded["store"].inc(len(jobs))
            for job in jobs:
                self._recall(job, exc)
            return []
        finally:
            if timer is not None:
                timer.cancel()

    def keep_later(self, unseen: Unseen) -> None:
        """Cache fresh records after the answers; dropped when busy: they are only a saving."""
        records = [
            (str(job.query.user_id), sight, Record(job.taste.seen, job.taste.user))
            for job, sight in unseen
            if job.taste is not None and job.taste.user is not None
        ]
        if not records or len(self._writes) >= _MAX_WRITES:
            return
        task = asyncio.create_task(self._keep(records, self._erasures))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def forget(self, user_id: str) -> None:
        """Drop what is remembered of a user, and let no write that began before bring it back."""
        self._erasures += 1
        self._memory.forget(user_id)
        await self.flush()

    async def flush(self) -> None:
        """Wait for the records being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

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

    async def _find_tastes(self, jobs: list[Job], until: float) -> Unseen:
        erasures = self._erasures
        unseen: Unseen = []
        for job, sight in zip(jobs, await self._look(jobs, until), strict=True):
            if isinstance(sight, StoreError):
                self._recall(job, sight)
            elif not self._take(job, sight):
                unseen.append((job, sight))
        if unread := [job for job, sight in unseen if sight.item_ids is None]:
            await self._read_histories(unread, until)
        if erasures == self._erasures:
            for job in jobs:
                if job.answer.level == "full" and job.taste is not None and len(job.taste.seen):
                    self._memory.note(str(job.query.user_id), job.taste)
        return unseen

    async def _look(self, jobs: list[Job], until: float) -> list[Sight | StoreError]:
        """Look at the users' records; where there is no time for a second round trip, at their histories too."""
        start = time.monotonic()
        try:
            return await self._profile.look(
                _users(jobs), until - start, is_whole=start + 2 * self._trip_s + RESERVE_S > until
            )
        finally:
            took_s = time.monotonic() - start
            self._trip_s = max(took_s, self._trip_s + _NEWEST * (took_s - self._trip_s))

    def _take(self, job: Job, sight: Sight) -> bool:
        """Take what a first look shows; False where there is no fresh record."""
        if sight.result == "none":
            self._memory.forget(str(job.query.user_id))  # erased, perhaps, by way of another worker
            job.taste = Taste(NO_ROWS)
            return True
        self._metrics.embedding_cache[sight.result].inc()
        if sight.record is not None:
            job.taste = Taste(sight.record.rows, sight.record.user)
        elif sight.item_ids is not None:
            job.taste = self._taste_of(sight.item_ids)
        return sight.record is not None

    async def _read_histories(self, jobs: list[Job], until: float) -> None:
        histories = await self._profile.read(_users(jobs), max(0.0, until - time.monotonic()))
        for job, item_ids in zip(jobs, histories, strict=True):
            if isinstance(item_ids, StoreError):
                self._recall(job, item_ids)
                continue
            job.taste = self._taste_of(item_ids)

    def _taste_of(self, item_ids: Sequence[str]) -> Taste:
        rows, _ = self._catalogue.find_rows(item_ids)
        return Taste(np.array(rows, dtype=np.int32))

    def _recall(self, job: Job, exc: StoreError) -> None:
        """Give a job that has no taste yet what is remembered of its user."""
        if job.future.done() or job.taste is not None:
            return
        job.answer.reasons.append(exc.reason)
        taste = self._memory.recall(str(job.query.user_id))
        if taste is None:
            job.answer.level = "fallback"
            job.taste = Taste(NO_ROWS)
        else:
            job.answer.level = "degraded"
            job.answer.reasons.append("stale_profile")
            job.taste = taste

    async def _keep(self, records: list[tuple[str, Sight, Record]], erasures: int) -> None:
        if erasures != self._erasures:
            return  # one of the users may have been erased since the read
        try:
            await self._profile.keep(records, _WRITE_TIMEOUT_S)
        except StoreError:
            return  # counted by the store; the next request encodes again


class _NoTimeError(StoreError):
    reason = "deadline"

    def __init__(self) -> None:
        super().__init__("timeout")


def _users(jobs: Sequence[Job]) -> list[str]:
    return [str(job.query.user_id) for job in jobs]
