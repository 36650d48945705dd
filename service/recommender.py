"""The use case: the best answer that can still be given inside the budget, and its honest name.

full: the stored (or given) history, the model, the whole catalogue. degraded: the same with what this worker remembers
of the user. fallback: the most popular items. Every reason is one of a closed list, in order of importance.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.bundle import Float32
from service.errors import DegradedError, StoreError
from service.index import Index, Ranked
from service.metrics import REASONS, Metrics
from service.profile import Profile, Stored, pack_embedding, unpack_embedding
from service.student import Student

_MAX_WRITES = 64
_WRITE_TIMEOUT_S = 0.25
_MEMORY_AGE_S = 3600.0
_RESERVE_S = 0.001


@dataclass(frozen=True, slots=True)
class Query:
    """A checked request. deadline: on the clock of time.monotonic."""

    user_id: str | None
    k: int
    history: Sequence[str] | None
    exclude: Sequence[str]
    exclude_seen: bool
    candidates: Sequence[str] | None
    deadline: float
    budget_s: float


@dataclass(slots=True)
class Answer:
    """The items, best first, and how they came about."""

    items: list[tuple[str, float]] = field(default_factory=list)
    level: str = "full"
    reasons: list[str] = field(default_factory=list)
    ignored_ids: list[str] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)
    funnel: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Taste:
    """What is known of a user: rows the model sees (oldest first), rows seen at all, and the vector if cached."""

    rows: list[int]
    seen: list[int]
    user: Float32 | None = None
    noted_at: float = 0.0
    epoch: int = 0


class Memory:
    """The users served last, bounded; read only when the store fails."""

    def __init__(self, max_users: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_users = max_users
        self._clock = clock
        self._tastes: OrderedDict[str, _Taste] = OrderedDict()

    def note(self, user_id: str, taste: _Taste) -> None:
        """Remember a user, forgetting the one served longest ago."""
        taste.noted_at = self._clock()
        self._tastes[user_id] = taste
        self._tastes.move_to_end(user_id)
        while len(self._tastes) > self._max_users:
            self._tastes.popitem(last=False)

    def recall(self, user_id: str) -> _Taste | None:
        """Return what is remembered of a user, unless it is older than an hour."""
        taste = self._tastes.get(user_id)
        return taste if taste is not None and self._clock() - taste.noted_at < _MEMORY_AGE_S else None

    def forget(self, user_id: str) -> None:
        """Erase a user."""
        self._tastes.pop(user_id, None)


class Recommender:
    """Answers queries from one model and one store."""

    def __init__(
        self,
        student: Student,
        index: Index,
        profile: Profile,
        metrics: Metrics,
        *,
        version: str,
        dim: int,
        max_history: int,
        store_share: float,
        memory_users: int,
    ) -> None:
        self._student, self._index, self._profile, self._metrics = student, index, profile, metrics
        self._version, self._dim, self._max_history, self._store_share = version, dim, max_history, store_share
        self._memory = Memory(memory_users)
        self._writes: set[asyncio.Task[None]] = set()
        self._erasures = 0
        self._encode_s = _Cost()
        self._score_s = _Cost()

    async def recommend(self, query: Query) -> Answer:
        """Answer inside the budget, whatever fails."""
        answer = Answer()
        candidates = self._find_candidates(query, answer)
        excluded = self._find(query.exclude, answer)
        taste = await self._find_taste(query, answer)
        masked = set(excluded).union(taste.seen if query.exclude_seen else ())
        ranked = self._rank(query, taste, masked, candidates, answer)
        if len(ranked) < query.k:
            answer.reasons.append("not_enough_items")
        answer.items = [(self._index.item_ids[row], score) for row, score in ranked]
        answer.reasons = sorted(set(answer.reasons), key=REASONS.index)
        answer.ignored_ids = list(dict.fromkeys(answer.ignored_ids))
        answer.funnel = {
            "history": len(taste.rows),
            "masked": len(masked),
            "candidates": len(self._index) if candidates is None else len(candidates),
            "returned": len(ranked),
        }
        return answer

    async def forget(self, user_id: str) -> None:
        """Drop what this worker remembers of a user, and let no write that began before bring it back."""
        self._erasures += 1
        self._memory.forget(user_id)
        await self.flush()

    async def flush(self) -> None:
        """Wait for the embeddings being written."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    def warm(self) -> None:
        """Score and rank once, so that the first request pays for nothing."""
        user = self._student.encode([[0]])[0]
        for _ in range(3):
            self._index.top(self._index.score(user), 10, [0])

    def _find(self, item_ids: Sequence[str], answer: Answer) -> list[int]:
        rows, unknown = self._index.find_rows(item_ids)
        answer.ignored_ids += unknown
        return rows

    def _find_candidates(self, query: Query, answer: Answer) -> list[int] | None:
        if query.candidates is None:
            return None
        return list(dict.fromkeys(self._find(query.candidates, answer)))

    async def _find_taste(self, query: Query, answer: Answer) -> _Taste:
        if query.history is not None:
            rows = self._find(query.history, answer)
            return _Taste(rows[-self._max_history :], rows)
        if query.user_id is None:
            return _Taste([], [])
        epoch = self._erasures
        start = time.monotonic()
        try:
            stored = await self._read(query.user_id, query)
        except StoreError as exc:
            return self._recall(query.user_id, exc, answer)
        finally:
            self._stage("store", start, answer)
        taste = self._read_taste(stored)
        taste.epoch = epoch
        if taste.rows and epoch == self._erasures:
            self._memory.note(query.user_id, taste)
        return taste

    async def _read(self, user_id: str, query: Query) -> Stored:
        limit_s = min(query.budget_s * self._store_share, query.deadline - time.monotonic() - _RESERVE_S)
        if limit_s <= 0:
            self._metrics.deadline_exceeded["store"].inc()
            raise _NoTimeError
        return await self._profile.read(user_id, limit_s)

    def _read_taste(self, stored: Stored) -> _Taste:
        seen, _ = self._index.find_rows(stored.item_ids)
        rows = seen[-self._max_history :]
        if not rows:
            return _Taste([], [])
        result, user = unpack_embedding(stored.embedding, self._version, rows, self._dim)
        self._metrics.embedding_cache[result].inc()
        return _Taste(rows, seen, user)

    def _recall(self, user_id: str, exc: StoreError, answer: Answer) -> _Taste:
        answer.reasons.append(exc.reason)
        taste = self._memory.recall(user_id)
        if taste is None:
            answer.level = "fallback"
            return _Taste([], [])
        answer.level = "degraded"
        answer.reasons.append("stale_profile")
        return taste

    def _rank(
        self, query: Query, taste: _Taste, masked: set[int], candidates: list[int] | None, answer: Answer
    ) -> Ranked:
        if not taste.rows:
            if answer.level == "full":
                answer.reasons.append("cold_user")
        else:
            try:
                return self._rank_by_model(query, taste, masked, candidates, answer)
            except DegradedError as exc:
                answer.reasons = [reason for reason in answer.reasons if reason != "stale_profile"]
                answer.reasons.append(exc.reason)
        answer.level = "fallback"
        start = time.monotonic()
        ranked = self._index.most_popular(query.k, masked, candidates)
        self._stage("rules", start, answer)
        return ranked

    def _rank_by_model(
        self, query: Query, taste: _Taste, masked: set[int], candidates: list[int] | None, answer: Answer
    ) -> Ranked:
        if taste.user is None:
            self._check_time(query, "encode", self._encode_s.expected + self._score_s.expected)
            start = time.monotonic()
            taste.user = self._student.encode([taste.rows])[0]
            self._metrics.batch_size.observe(1)
            self._encode_s.note(self._stage("encode", start, answer))
            if query.history is None and query.user_id is not None and answer.level == "full":
                self._write_later(query.user_id, taste.epoch, pack_embedding(self._version, taste.rows, taste.user))
        self._check_time(query, "score", self._score_s.expected)
        start = time.monotonic()
        scores = self._index.score(taste.user, candidates)
        middle_s = self._stage("score", start, answer)
        start = time.monotonic()
        ranked = self._index.top(scores, query.k, masked, candidates)
        self._score_s.note(middle_s + self._stage("rules", start, answer))
        return ranked

    def _check_time(self, query: Query, stage: str, needed_s: float) -> None:
        if time.monotonic() + needed_s + _RESERVE_S / 2 > query.deadline:
            self._metrics.deadline_exceeded[stage].inc()
            raise _DeadlineError

    def _stage(self, name: str, start: float, answer: Answer) -> float:
        seconds = time.monotonic() - start
        self._metrics.stage[name].observe(seconds)
        answer.stages_ms[name] = round(seconds * 1000, 3)
        return seconds

    def _write_later(self, user_id: str, epoch: int, value: bytes) -> None:
        """Cache a fresh embedding after the answer; dropped when busy: it is only a saving."""
        if len(self._writes) >= _MAX_WRITES:
            return
        task = asyncio.create_task(self._write(user_id, epoch, value))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, user_id: str, epoch: int, value: bytes) -> None:
        if epoch != self._erasures:
            return  # the user may have been erased since the read
        try:
            await self._profile.write_embedding(user_id, value, _WRITE_TIMEOUT_S)
        except StoreError:
            return  # counted by the store; the next request encodes again


class _DeadlineError(DegradedError):
    reason = "deadline"


class _NoTimeError(StoreError):
    reason = "deadline"

    def __init__(self) -> None:
        super().__init__("timeout")


class _Cost:
    """A running mean of what a stage takes, in seconds, and half again, for the doubt."""

    def __init__(self) -> None:
        self._mean = 0.0

    @property
    def expected(self) -> float:
        """What the next one is expected to take at worst, nearly."""
        return self._mean * 1.5

    def note(self, seconds: float) -> None:
        """Take one more into account."""
        self._mean = seconds if not self._mean else 0.95 * self._mean + 0.05 * min(seconds, 10 * self._mean)
