"""What a ranker tells of its work, as types: so it can also work where nothing is measured, as in service.library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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


class _Ignored:
    """Takes what would be measured, and forgets it."""

    def observe(self, amount: float, /) -> None: ...

    def inc(self) -> None: ...


class _Everywhere(dict[str, _Ignored]):
    def __missing__(self, name: str) -> _Ignored:
        return _IGNORED


@dataclass(frozen=True, slots=True)
class Unwatched:
    """Takes what would be measured, and forgets it."""

    stage: Mapping[str, _Ignored] = field(default_factory=_Everywhere)
    batch_size: _Ignored = field(default_factory=_Ignored)
    deadline_exceeded: Mapping[str, _Ignored] = field(default_factory=_Everywhere)


_IGNORED = _Ignored()
