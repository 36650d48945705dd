"""What a ranker tells of its work, as types: so it can also work where nothing is measured, as in service.library."""

from collections.abc import Mapping
from typing import Protocol


class Observer(Protocol):
    """Takes measured values."""

    def observe(self, amount: float, /) -> None:
        """Take one."""


class Counter(Protocol):
    """Counts."""

    def inc(self) -> None:
        """Count one."""


class RankingMetrics(Protocol):
    """What a ranker tells of its work; service.metrics.Metrics is one."""

    @property
    def stage(self) -> Mapping[str, Observer]:
        """Seconds of each stage."""

    @property
    def batch_size(self) -> Observer:
        """Histories encoded at once."""

    @property
    def deadline_exceeded(self) -> Mapping[str, Counter]:
        """Requests whose budget ran out, by the stage that was not begun."""
