"""When an experiment ends by itself: the other version fails, is late, or does worse, beyond what is allowed.

Failures and lateness are compared with those of the live version at the same time, so that a busy machine or a store
that is away ends nothing. What a process has answered is judged in blocks, again and again; what chance alone could
explain, four standard errors, is not held against the other version. So one that fails always is ended within some
twenty answers, and one that fails a little more often within a block. What users do is judged by the sequential test.
"""

import math
from dataclasses import dataclass
from typing import Literal

from service.experiment.report import Report

LEAST_ANSWERS = 20
BLOCK_ANSWERS = 5000
_STANDARD_ERRORS = 4.0
Cause = Literal["errors", "late", "quality"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """By how much the other version may be worse than the live one: of answers, and of the rate of conversions."""

    errors: float = 0.01
    late: float = 0.05
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """What a process has answered by one version since it began. failed: without a whole answer. late: past budget."""

    answers: float
    failed: float
    late: float

    def since(self, before: "Health") -> "Health":
        """Return what has come since an earlier count."""
        return Health(self.answers - before.answers, self.failed - before.failed, self.late - before.late)


@dataclass(frozen=True, slots=True)
class Ending:
    """That an experiment has to end, and why."""

    cause: Cause
    reason: str


class HealthGuard:
    """Judges the answers of one process in one experiment."""

    def __init__(self, bounds: Bounds, other: Health, live: Health) -> None:
        """other, live: what was counted when the experiment began."""
        self._bounds, self._start = bounds, (other, live)

    def judge(self, other: Health, live: Health) -> Ending | None:
        """Judge what has come since the block began; the next one begins once it is large enough."""
        seen, beside = other.since(self._start[0]), live.since(self._start[1])
        if seen.answers >= BLOCK_ANSWERS:
            self._start = other, live
        if seen.answers < LEAST_ANSWERS or beside.answers < LEAST_ANSWERS:
            return None
        if _is_beyond(seen.failed, seen.answers, beside.failed, beside.answers, self._bounds.errors):
            return Ending("errors", _words("failed", seen.failed / seen.answers, beside.failed / beside.answers))
        if _is_beyond(seen.late, seen.answers, beside.late, beside.answers, self._bounds.late):
            return Ending("late", _words("late", seen.late / seen.answers, beside.late / beside.answers))
        return None


def judge_quality(report: Report, bounds: Bounds) -> Ending | None:
    """Judge what users did. Where they are not divided as they should be, nothing is concluded from it."""
    found, ratio = report.comparison, report.sample_ratio
    if found is None or (ratio is not None and ratio.is_wrong) or found.interval.high >= -bounds.loss:
        return None
    return Ending(
        "quality", f"conversions: at most {found.interval.high:+.1%}, at least {found.interval.low:+.1%} of the live's"
    )


def _is_beyond(n_other: float, of_other: float, n_live: float, of_live: float, bound: float) -> bool:
    """Whether a share exceeds another one by more than a bound, and by more than chance explains."""
    variance = 0.0
    for n, of in ((n_other, of_other), (n_live, of_live)):
        smoothed = (n + 1) / (of + 2)
        variance += smoothed * (1 - smoothed) / of
    return n_other / of_other - n_live / of_live > bound + _STANDARD_ERRORS * math.sqrt(variance)


def _words(what: str, other: float, live: float) -> str:
    return f"{what}: {other:.1%} of the other version's answers, {live:.1%} of the live one's"
