"""What an experiment says so far: each version's figures, how they compare, and whether chance divided the users.

The comparison is of users who converted, against the share (see sequential): it may be looked at as often as one likes.
It is none where there is nobody to compare with: in a shadow, and where the other version answers everybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from service.experiment.attribution import HIT_POSITIONS, Version
from service.experiment.record import Experiment
from service.experiment.sequential import (
    Counts,
    Interval,
    e_value,
    is_excluded,
    lift_interval,
    observed_lift,
    users_needed,
)
from service.experiment.tally import Counted

ALPHA = 0.05
"""The share of experiments of equal versions in which a difference is ever found."""
RATIO_ALPHA = 0.01
"""The share of rightly divided experiments in which the division is ever called wrong."""
LIFT = 0.05
"""The relative lift for which the number of users is told, unless another one is asked for."""
Decision = Literal["better", "worse", "undecided"]
PLACES = (*map(str, range(1, HIT_POSITIONS + 1)), "more", "none")


@dataclass(frozen=True, slots=True)
class Side:
    """The figures of one version.

    users: who did anything that counts. shown: to whom an impression. converted, hit: who did, at least once. rate,
    hit_rate: of users. positions: place -> impressions and clicks.
    """

    version: str
    users: int
    shown: int
    impressions: int
    clicks: int
    converted: int
    rate: float | None
    hit: int
    hit_rate: float | None
    positions: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The other version against the live one, by users who converted. e_value: against equality.

    users_needed: of both versions, to find the lift asked for, with power 0.8; None where there is no rate yet.
    users_missing: how many of these are still to come.
    """

    lift: float | None
    interval: Interval
    e_value: float
    decision: Decision
    alpha: float
    for_lift: float
    users_needed: int | None
    users_missing: int | None


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Whether users to whom something was shown are divided by the share. expected: the other version's part."""

    expected: float
    found: float
    e_value: float
    is_wrong: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What an experiment says so far. comparison, sample_ratio: None where there is nothing to say."""

    other: Side
    live: Side
    comparison: Comparison | None
    sample_ratio: SampleRatio | None


def report_on(experiment: Experiment, counted: Counted, for_lift: float = LIFT) -> Report:
    """Return what the counts of an experiment say. for_lift: the relative lift that one would like to find."""
    other = _side(counted, Version.OTHER, experiment.version)
    live = _side(counted, Version.LIVE, experiment.live)
    share = experiment.share / 100
    if experiment.kind == "shadow" or share >= 1:
        return Report(other, live, None, None)
    return Report(other, live, compare(other, live, share, for_lift), check_ratio(other, live, share))


def compare(other: Side, live: Side, share: float, for_lift: float) -> Comparison:
    """Compare the users who converted. share: in (0, 1)."""
    converted = Counts(other.converted, live.converted)
    lift = observed_lift(converted, share)
    is_found = is_excluded(converted, share, ALPHA)
    decision: Decision = "undecided" if not is_found else "better" if lift is None or lift > 0 else "worse"
    has_rate = live.rate is not None and 0 < live.rate < 1
    needed = users_needed(live.rate, for_lift, share, ALPHA) if live.rate is not None and has_rate else None
    missing = None if needed is None else max(0, needed - other.users - live.users)
    interval = lift_interval(converted, share, ALPHA)
    return Comparison(lift, interval, e_value(converted, share), decision, ALPHA, for_lift, needed, missing)


def check_ratio(other: Side, live: Side, share: float) -> SampleRatio | None:
    """Check how the users are divided to whom something was shown; None where nothing was."""
    shown = Counts(other.shown, live.shown)
    n_shown = shown.other + shown.live
    if n_shown == 0:
        return None
    return SampleRatio(share, shown.other / n_shown, e_value(shown, share), is_excluded(shown, share, RATIO_ALPHA))


def _side(counted: Counted, which: Version, version: str) -> Side:
    impressions, clicks = counted.impressions[which], counted.clicks[which]
    users, converted, hit = counted.users[which], counted.converted[which], counted.hit[which]
    positions = {place: (impressions.get(place, 0), clicks.get(place, 0)) for place in PLACES}
    return Side(
        version,
        users,
        counted.shown[which],
        sum(impressions.values()),
        sum(clicks.values()),
        converted,
        converted / users if users else None,
        hit,
        hit / users if users else None,
        positions,
    )
