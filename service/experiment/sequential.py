"""The statistics of an experiment, which may be looked at at any time: one test, of one count against another.

Chance decides which version a user is answered by: the other one with a probability that is the share. If the versions
do equally well, the users who convert are divided by the same chance, whenever each of them converts. So the test asks
whether the counts of two groups of users can be `share` to `1 - share`. The unit is the user, as the share is of users:
the requests of one user are not independent, and are never counted as if they were.

The e-value is a mixture of likelihood ratios: M. Lindon, A. Malek, "Anytime-Valid Inference for Multinomial Count
Data", NeurIPS 2022, equations 5 to 10, with a beta prior around the share. Under equality it is a martingale that
begins at 1, so with any number of looks it ever reaches 1 / alpha with a probability of at most alpha (Ville). The
values of the lift that it does not exclude are an interval that holds at all times at once. The same test with the
counts of all users says whether they are divided as they should be.

What it costs: only those who converted are compared, so with rates above about 30 % a test of two proportions, which
cannot be looked at while users may still convert, would need fewer users.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

SPREAD = 0.1
"""The standard deviation of the logarithm of the ratio of two rates that the prior expects: lifts around 10 %."""
_STEPS = 200
_MOST_CONVERTED = 1e15


@dataclass(frozen=True, slots=True)
class Counts:
    """How many users of each version did something. Both are at least 0."""

    other: float
    live: float


@dataclass(frozen=True, slots=True)
class Interval:
    """The relative lifts that are not excluded: 0.05 stands for 5 % more than the live version. high may be infinite"""

    low: float
    high: float


def log_e_value(counts: Counts, share: float, null: float | None = None) -> float:
    """Return the logarithm of the e-value against the hypothesis that a user who counts is the other version's by null.

    share: of users that the other version answers, in (0, 1); it is also the null unless another one is given.
    """
    _check(counts, share)
    weight = 1 / (SPREAD**2 * share * (1 - share))
    prior_other, prior_live = weight * share, weight * (1 - share)
    tested = share if null is None else null
    mixed = _log_beta(prior_other + counts.other, prior_live + counts.live) - _log_beta(prior_other, prior_live)
    return mixed - counts.other * math.log(tested) - counts.live * math.log1p(-tested)


def e_value(counts: Counts, share: float) -> float:
    """Return the e-value against equality; it is infinite where a float cannot hold it."""
    logarithm = log_e_value(counts, share)
    return math.exp(logarithm) if logarithm < 700 else math.inf


def is_excluded(counts: Counts, share: float, alpha: float) -> bool:
    """Whether the counts are not divided by the share. Wrong in at most alpha of all series of looks."""
    return log_e_value(counts, share) >= -math.log(alpha)


def lift_interval(counts: Counts, share: float, alpha: float) -> Interval:
    """Return the lifts of the other version's rate over the live one's that are not excluded.

    The true lift is inside at all looks at once, but in a share alpha of experiments.
    """
    limit = -math.log(alpha)
    n_all = counts.other + counts.live
    best = counts.other / n_all if n_all else share

    def is_in(null: float) -> bool:
        return log_e_value(counts, share, null) < limit

    low = 0.0 if counts.other == 0 else _edge(is_in, best, 0.0)
    high = 1.0 if counts.live == 0 else _edge(is_in, best, 1.0)
    return Interval(_lift_of(low, share), _lift_of(high, share))


def observed_lift(converted: Counts, share: float) -> float | None:
    """Return the relative lift of the other version as it was counted; None while nobody of the live one converted.

    It is of those who converted among all users that are assigned, also those of whom nothing was heard.
    """
    return _lift_of(converted.other / (converted.other + converted.live), share) if converted.live else None


def users_needed(rate: float, lift: float, share: float, alpha: float, power: float = 0.8) -> int:
    """Return how many users of both versions find a lift with a probability of about power at least.

    rate: of the live version's users who convert, in (0, 1). lift: relative, not 0, and above -1. The count of the
    other version's converted users is taken at its quantile 1 - power, at which the e-value is to reach 1 / alpha.
    """
    if not (0 < rate < 1 and lift > -1 and lift != 0):
        raise ValueError("a rate in (0, 1), and a lift above -1 that is not 0")
    mean_rate = share * rate * (1 + lift) + (1 - share) * rate
    expected = share * rate * (1 + lift) / mean_rate
    quantile = NormalDist().inv_cdf(power)

    def is_found(n_converted: float) -> bool:
        slack = quantile * math.sqrt(expected * (1 - expected) / n_converted)
        part = expected - math.copysign(slack, lift)
        if not 0 < part < 1 or (part - share) * lift <= 0:
            return False
        return is_excluded(Counts(part * n_converted, (1 - part) * n_converted), share, alpha)

    low, high = 1.0, 2.0
    while not is_found(high) and high < _MOST_CONVERTED:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return math.ceil(high / mean_rate)


def _check(counts: Counts, share: float) -> None:
    if not 0 < share < 1 or min(counts.other, counts.live) < 0:
        raise ValueError("a share between 0 and 1, and counts of at least 0")


def _log_beta(first: float, second: float) -> float:
    return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)


def _edge(is_in: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return the last value between two for which it is true; the one outside is excluded, or is the limit."""
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        inside, outside = (middle, outside) if is_in(middle) else (inside, middle)
    return outside


def _lift_of(part: float, share: float) -> float:
    """Return the lift at which the other version has this part of those who convert."""
    return math.inf if part >= 1 else part * (1 - share) / ((1 - part) * share) - 1
