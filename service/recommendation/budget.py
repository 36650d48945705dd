"""A request's deadline, and all that is decided by it, in one place.

`BudgetRule` says how a request's time is shared out. `Budget` is the time of one request, made when the request is
read, and asked by every stage. `StageCosts` keeps what the stages took lately, so that a stage which would not fit is
not begun. All times are seconds of time.monotonic().
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESERVE_S = 0.001
"""What is kept back for everything after the last stage: the JSON and the write to the socket."""
HALF_LIFE_S = 0.5
USUAL_HALF_LIFE_S = 2.0
_ANSWER_SHARE = 4
_N_USUAL = 5
_DOWN = 0.0003
_UP = 99 * _DOWN
_NEWEST_SHARE = 0.2


@dataclass(slots=True)
class Stage:
    """A stage that is about to run.

    name: its label of deadline_exceeded_total. seconds: what it and the stages that must follow it will take.
    """

    name: str
    seconds: float


QUEUE = Stage("queue", 0.0)
"""The wait for a batch: it is over when it is looked at."""


@dataclass(slots=True)
class Budget:
    """The time of one request. store_until: when the store's share of it is over."""

    arrived: float
    deadline: float
    store_until: float

    def has_time_for(self, stage: Stage) -> bool:
        """Whether a stage that begins now ends before the deadline."""
        return time.monotonic() + stage.seconds + RESERVE_S / 2 <= self.deadline

    def is_kept(self, now: float) -> bool:
        """Whether an answer that is ready now is inside the budget."""
        return now <= self.deadline


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """How the time of a request is shared out.

    default_s: the budget of a request that names none. store_share: the share of a budget that the store may take.
    """

    default_s: float
    store_share: float

    @property
    def slow_store_s(self) -> float:
        """What the store may take of the default budget; a slower reply counts as a failure of the store."""
        return self.default_s * self.store_share

    @property
    def answer_target_s(self) -> float:
        """What an answer may take under load before fewer requests are let in."""
        return self.default_s / _ANSWER_SHARE

    def start(self, arrived: float, budget_ms: int | None) -> Budget:
        """Return the budget of a request that arrived then. budget_ms: what it asked for; None for the default."""
        total_s = self.default_s if budget_ms is None else budget_ms / 1000
        deadline = arrived + total_s
        return Budget(arrived, deadline, min(arrived + total_s * self.store_share, deadline - RESERVE_S))


class Estimate:
    """The running p99 of one duration, in seconds, which decays while nothing is observed.

    A step up is 99 times a step down, so it comes to rest where one observation in a hundred lies above. It halves with
    every HALF_LIFE_S without an observation; otherwise one long pause of the machine would stop the model from being
    tried, nothing would be observed, and the estimate could never recover. The median of the last few observations
    decays more slowly, so that a model which always takes too long is not tried again after every idle second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._p99 = self._usual = 0.0
        self._last: deque[float] = deque(maxlen=_N_USUAL)
        self._noted_at = clock()

    def p99(self) -> float:
        """Return the estimate now; 0 before any observation."""
        idle_s = self._clock() - self._noted_at
        worst: float = self._p99 * 0.5 ** (idle_s / HALF_LIFE_S)
        usual: float = self._usual * 0.5 ** (idle_s / USUAL_HALF_LIFE_S)
        return max(worst, usual)

    def note(self, seconds: float) -> None:
        """Take one observation into account."""
        known = self.p99()
        self._noted_at = self._clock()
        self._last.append(seconds)
        self._usual = sorted(self._last)[len(self._last) // 2]  # statistics.median costs service.library .8 MB
        if not self._p99:
            self._p99 = seconds
        elif seconds > known:
            self._p99 = min(seconds, known * (1 + _UP))
        else:
            self._p99 = max(seconds, known * (1 - _DOWN))


class StageCosts:
    """What encoding and scoring take lately, for each size of a batch."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """sizes: those that batches are padded to, ascending."""
        self._size_of = [min(size for size in sizes if size >= n_jobs) for n_jobs in range(sizes[-1] + 1)]
        self._encode = {size: Estimate() for size in sizes}
        self._score = {size: Estimate() for size in sizes}

    def note_encoding(self, n_jobs: int, seconds: float) -> None:
        """Take one run of the encoder into account."""
        self._encode[self._size(n_jobs)].note(seconds)

    def note_scoring(self, n_jobs: int, seconds: float) -> None:
        """Take one ranking of the whole catalogue into account."""
        self._score[self._size(n_jobs)].note(seconds)

    def encoding(self, n_jobs: int) -> Stage:
        """Return the stage of encoding so many users, who are scored after it."""
        size = self._size(n_jobs)
        return Stage("encode", self._encode[size].p99() + self._score[size].p99())

    def scoring(self, n_jobs: int) -> Stage:
        """Return the stage of scoring for so many users."""
        return Stage("score", self._score[self._size(n_jobs)].p99())

    def _size(self, n_jobs: int) -> int:
        return self._size_of[n_jobs] if n_jobs < len(self._size_of) else self._size_of[-1]


class RoundTrip:
    """What one round trip to the store takes lately: the last one, or a decaying memory of longer ones."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def note(self, seconds: float) -> None:
        """Take one round trip into account. A longer one counts at once, a shorter one by a fifth."""
        self._seconds = max(seconds, self._seconds + _NEWEST_SHARE * (seconds - self._seconds))

    def fits_twice(self, start: float, until: float) -> bool:
        """Whether two round trips that begin at start end in time."""
        return start + 2 * self._seconds + RESERVE_S <= until
