"""What is known of the users of a batch: from the store inside its share of the budget, else from memory.

One round trip reads the cached records of all users, and a second one the histories of those without a fresh record;
where two would not fit, histories are read in the first. A job whose time for the store is over is given back with what
is remembered of its user, while the others go on waiting.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import numpy as np

from service.errors import StoreError, StoreTimeoutError
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.recommendation.budget import RESERVE_S, RoundTrip
from service.recommendation.job import NO_ROWS, Found, Job, Ranking, Taste
from service.recommendation.memory import Memory
from service.user.embedding import EmbeddingCache
from service.user.history import History
from service.user.record import Int32, Past, Record, Sight

_MAX_WRITES = 4
_WRITE_TIMEOUT_S = 0.25


class Lookup:
    """Finds the tastes of users for one model: rows of its item table, and cached vectors."""

    def __init__(
        self, history: History, embeddings: EmbeddingCache, catalogue: Catalogue, memory: Memory, metrics: Metrics
    ) -> None:
        self._history, self._embeddings = history, embeddings
        self._catalogue, self._memory, self._metrics = catalogue, memory, metrics
        self._writes: set[asyncio.Task[None]] = set()
        self._n_erasures = 0
        self._trip = RoundTrip()

    async def find(self, jobs: Sequence[Job]) -> AsyncIterator[list[Found]]:
        """Yield what is found of every job, each once: most together, those in a hurry as their time runs out."""
        until = max(job.query.budget.store_until for job in jobs)
        reading = _Reading(jobs, self._n_erasures)
        hurried = [job for job in jobs if job.query.budget.store_until < until - RESERVE_S]
        if hurried:
            task = asyncio.create_task(self._read(reading, until))
            async for late in self._give_up(task, reading, hurried):
                yield late
            await task
        else:
            await self._read(reading, until)
        yield reading.take(jobs)

    def keep(self, rankings: Sequence[Ranking]) -> None:
        """Remember the users who were answered, and cache new records of them in the store, after the answers."""
        records: list[tuple[str, Sight, Record]] = []
        for ranking in rankings:
            found = ranking.found
            taste, sight = found.taste, found.sight
            is_known = len(taste.seen) > 0 or len(taste.hidden) > 0
            if found.n_erasures != self._n_erasures or found.level != "full" or not is_known:
                continue
            user_id = str(found.job.query.user_id)
            self._memory.note(user_id, replace(taste, user=ranking.user))
            if sight is not None and (ranking.user is not None or not len(taste.seen)):
                hidden = taste.hidden if sight.has_marks else None
                if not (taste.is_partial and self._catalogue.has_live_rows):
                    record = Record(taste.seen, ranking.user, hidden, taste.last_at, taste.is_partial)
                    records.append((user_id, sight, record))
        if records and len(self._writes) < _MAX_WRITES:  # dropped when busy: they only save work
            task = asyncio.create_task(self._write(records, self._n_erasures))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def forget(self, user_id: str) -> None:
        """Drop what is remembered of a user, and let no write that began before bring it back."""
        self._n_erasures += 1
        self._memory.forget(user_id)
        await self.flush()

    def forget_share(self, share: int | None) -> None:
        """Drop what is remembered of the users of a share, or of everybody: an erasure by way of another process.

        Records that are being written need no care: the store refuses one of a history that is gone.
        """
        self._n_erasures += 1
        self._memory.forget_share(share)

    async def flush(self) -> None:
        """Wait for the records being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def rest(self) -> None:
        """Wait for the records being written, and remember nobody."""
        await self.flush()
        self._memory.clear()

    async def _give_up(
        self, task: "asyncio.Task[None]", reading: "_Reading", hurried: list[Job]
    ) -> AsyncIterator[list[Found]]:
        """Yield jobs whose time for the store is over while it is still being read."""
        while hurried:
            first = min(job.query.budget.store_until for job in hurried)
            await asyncio.wait([task], timeout=max(0.0, first - time.monotonic()))
            if task.done():
                return
            now = time.monotonic()
            late = [job for job in hurried if job.query.budget.store_until <= now]
            hurried = [job for job in hurried if job not in late]
            for job in late:
                if not reading.has(job):
                    self._metrics.store_errors["timeout"].inc()
                    self._recall(reading, job, StoreTimeoutError())
            if late:
                yield reading.take(late)

    async def _read(self, reading: "_Reading", until: float) -> None:
        """Find every job that has not been given back by then."""
        try:
            if until <= reading.started:
                raise _NoTimeError
            await self._read_store(reading, until)
        except StoreError as exc:
            if isinstance(exc, _NoTimeError):
                self._metrics.deadline_exceeded["store"].inc(len(reading.jobs))
            for job in reading.missing():
                self._recall(reading, job, exc)
        self._metrics.stage["store"].observe(time.monotonic() - reading.started)

    async def _read_store(self, reading: "_Reading", until: float) -> None:
        unread: list[tuple[Job, Sight]] = []
        jobs = reading.jobs
        for job, sight in zip(jobs, await self._look(jobs, until), strict=True):
            if reading.has(job):
                continue
            if isinstance(sight, StoreError):
                self._recall(reading, job, sight)
            elif not self._take(reading, job, sight):
                unread.append((job, sight))
        if not unread:
            return
        users = _users([job for job, _ in unread])
        histories = await self._history.read(users, max(0.0, until - time.monotonic()))
        for (job, sight), past in zip(unread, histories, strict=True):
            if isinstance(past, StoreError):
                self._recall(reading, job, past)
            else:
                reading.note(job, self._taste_of(past, sight), sight=sight)

    async def _look(self, jobs: Sequence[Job], until: float) -> list[Sight | StoreError]:
        """Look at the users' records; where there is no time for a second round trip, at their histories too."""
        start = time.monotonic()
        self._embeddings.believes_partial = not self._catalogue.has_live_rows
        try:
            is_whole = not self._trip.fits_twice(start, until)
            return await self._embeddings.look(_users(jobs), until - start, is_whole=is_whole)
        finally:
            self._trip.note(time.monotonic() - start)

    def _take(self, reading: "_Reading", job: Job, sight: Sight) -> bool:
        """Take what a first look shows; False where the history must be read to know the user."""
        if sight.result == "none":
            self._memory.forget(str(job.query.user_id))  # erased, perhaps, by way of another worker
            reading.note(job, Taste())
            return True
        self._metrics.embedding_cache[sight.result].inc()
        if sight.record is not None:
            hidden = NO_ROWS if sight.record.hidden is None else sight.record.hidden
            reading.note(job, Taste(sight.record.rows, sight.record.user, sight.last_at, hidden))
        elif sight.past is not None:
            reading.note(job, self._taste_of(sight.past, sight), sight=sight)
        return reading.has(job)

    def _taste_of(self, past: Past, sight: Sight) -> Taste:
        rows, unknown = self._catalogue.find_rows(past.item_ids)
        seen = np.array(rows, dtype=np.int32)
        if not sight.has_marks and not past.hidden:
            return Taste(seen, last_at=sight.last_at, is_partial=bool(unknown) or self._has_live(seen))
        hidden, more = self._catalogue.find_rows(past.hidden)
        unwanted = np.array(hidden, dtype=np.int32)
        is_partial = bool(unknown or more) or self._has_live(seen) or self._has_live(unwanted)
        return Taste(seen, last_at=past.last_at, hidden=unwanted, is_partial=is_partial)

    def _has_live(self, rows: Int32) -> bool:
        """Whether some of the rows are live items, which other processes may have elsewhere."""
        return self._catalogue.has_live_rows and bool((rows >= self._catalogue.n_made).any())

    def _recall(self, reading: "_Reading", job: Job, exc: StoreError) -> None:
        """Note what is remembered of a job's user in the place of what the store did not say."""
        taste = self._memory.recall(str(job.query.user_id))
        if taste is None or not len(taste.seen):
            reading.note(job, taste or Taste(), level="fallback", reasons=(exc.reason,))
        else:
            reading.note(job, taste, level="degraded", reasons=(exc.reason, "stale_profile"))

    async def _write(self, records: list[tuple[str, Sight, Record]], n_erasures: int) -> None:
        if n_erasures != self._n_erasures:
            return  # one of the users may have been erased since the read
        try:
            await self._embeddings.keep(records, _WRITE_TIMEOUT_S)
        except StoreError:
            return  # counted by the store; the next request encodes again


class _Reading:
    """What has been found so far of the jobs of a batch. The first that is noted of a job stands."""

    def __init__(self, jobs: Sequence[Job], n_erasures: int) -> None:
        self.jobs, self.started = jobs, time.monotonic()
        self._n_erasures = n_erasures
        self._found: dict[Job, Found] = {}
        self._taken: set[Job] = set()

    def note(
        self,
        job: Job,
        taste: Taste,
        *,
        level: str = "full",
        reasons: tuple[str, ...] = (),
        sight: Sight | None = None,
    ) -> None:
        if job not in self._found:
            now = time.monotonic()
            store_s = now - self.started
            if job.query.span is not None:
                job.query.span.add("store", self.started, now, batch=len(self.jobs))
            self._found[job] = Found(job, taste, level, reasons, sight, store_s, self._n_erasures)

    def has(self, job: Job) -> bool:
        return job in self._found

    def missing(self) -> list[Job]:
        return [job for job in self.jobs if job not in self._found]

    def take(self, jobs: Sequence[Job]) -> list[Found]:
        """Return what was found of those jobs that have not been taken yet."""
        found = [self._found[job] for job in jobs if job not in self._taken]
        self._taken.update(jobs)
        return found


class _NoTimeError(StoreError):
    reason = "deadline"

    def __init__(self) -> None:
        super().__init__("timeout")


def _users(jobs: Sequence[Job]) -> list[str]:
    return [str(job.query.user_id) for job in jobs]
