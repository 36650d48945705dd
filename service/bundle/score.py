"""The score of format 2: a sum of up to three parts, of which every one can be left out. This is its one definition.

    score(user, item, now) = a(g) * taste + b * sum over j of decay^j * N[h_j, item] + w(g) * log(count(item, now) + e)

taste: user · item. h_0: the newest item of the history, h_1 the one before, up to `depth`; repeats count each
time. N: the neighbours' table. g: log1p of the seconds since the user's last event; a and w are piecewise linear in g,
and constant beyond their first and last knot. Where the time of the last event is not known, g is `typical`. A user
without a history is scored by log(count + e) alone, where there is a trend.

count(item, now): the sum over the item's events before now of 2^-(age / half-life). A user counts once an item and
window floor(time / half-life).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.array import Float32, Int64

PARTS = ("taste", "neighbours", "trend")
MOST_KNOTS, MOST_DEPTH = 256, 10_000
_LARGEST = 1e6
_LONGEST_S = 1e11


@dataclass(frozen=True, slots=True)
class Gap:
    """The weights by the time since the user's last event.

    knots: values of log1p(seconds), ascending. taste, trend: the weight of each part at each knot. typical: the value
    that is used where the time of the last event is not known.
    """

    knots: Sequence[float]
    taste: Sequence[float]
    trend: Sequence[float]
    typical: float

    def weigh(self, gaps: NDArray[np.floating]) -> tuple[Float32, Float32]:
        """Return a(g) and w(g), float32 [batch], of log1p of seconds, float [batch]; NaN where it is not known."""
        known = np.where(np.isnan(gaps), self.typical, gaps)
        taste, trend = (np.interp(known, self.knots, at).astype(np.float32) for at in (self.taste, self.trend))
        return taste, trend


@dataclass(frozen=True, slots=True)
class NeighbourRule:
    """How neighbours are weighed: in all, by each step back in the history, and how far back."""

    weight: float
    decay: float
    depth: int


@dataclass(frozen=True, slots=True)
class TrendRule:
    """How events are counted. as_of: the Unix second to which the bundle's counts are decayed."""

    half_life_s: float
    epsilon: float
    as_of: float

    def fade(self, seconds: float) -> float:
        """Return what is left of a count after some seconds; all of it where they are negative."""
        return float(2.0 ** (-max(0.0, seconds) / self.half_life_s))

    def window(self, timestamp: float) -> int:
        """Return the window of a Unix time: of one user's events of one item in it, the first counts."""
        return math.floor(timestamp / self.half_life_s)

    def log(self, counts: Float32) -> Float32:
        """Return log(count + e) of counts, float32 of any shape."""
        logs: Float32 = np.log(counts + np.float32(self.epsilon))
        return logs


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """The field `score` of a manifest. neighbours, trend: None where that part is left out."""

    gap: Gap
    has_taste: bool = True
    neighbours: NeighbourRule | None = None
    trend: TrendRule | None = None

    @property
    def parts(self) -> list[str]:
        """The parts of the sum, in its order."""
        return [name for name, on in zip(PARTS, (self.has_taste, self.neighbours, self.trend), strict=True) if on]

    def weigh(self, gaps: NDArray[np.floating]) -> tuple[Float32, Float32]:
        """Return the weights of taste and trend, float32 [batch], 0 of a part that is left out; see Gap.weigh()."""
        taste, trend = self.gap.weigh(gaps)
        return taste if self.has_taste else taste * 0, trend if self.trend else trend * 0

    def to_json(self) -> dict[str, Any]:
        """Return the field as it is written."""
        gap = self.gap
        fields: dict[str, Any] = {
            "parts": self.parts,
            "gap": {
                "knots": [*map(float, gap.knots)],
                "taste": [*map(float, gap.taste)],
                "trend": [*map(float, gap.trend)],
                "typical": float(gap.typical),
            },
        }
        if (near := self.neighbours) is not None:
            fields["neighbours"] = {
                "weight": float(near.weight),
                "decay": float(near.decay),
                "depth": int(near.depth),
            }
        if (trend := self.trend) is not None:
            fields["trend"] = {
                "half_lives_s": [float(trend.half_life_s)],
                "epsilon": float(trend.epsilon),
                "as_of": float(trend.as_of),
            }
        return fields


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The sparse table of the neighbours. Row h says which items an item of the history speaks for, and how much.

    rows: int32 [n_items, M], -1 where a row has fewer than M. weights: int8 [n_items, M]. scales: float32 [n_items]; a
    weight is its int8 times the scale of row h.
    """

    rows: NDArray[np.int32]
    weights: NDArray[np.int8]
    scales: Float32


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What the sum needs beside taste. neighbours and counts are there if the rule has the part.

    counts: float32 [1, n_items], decayed to as_of; a row for each half-life.
    """

    rule: ScoreRule
    neighbours: Neighbours | None = None
    counts: Float32 | None = None

    def counts_at(self, now: float) -> Float32:
        """Return the bundle's counts decayed to a Unix time, float32 [n_items]."""
        assert self.counts is not None and self.rule.trend is not None  # noqa: S101  # asked of a trend only
        return np.asarray(self.counts[0]) * np.float32(self.rule.trend.fade(now - self.rule.trend.as_of))

    def speak(self, history: Sequence[int] | NDArray[np.integer]) -> tuple[Int64, Float32]:
        """Return the items that a history's neighbours speak for: their rows, ascending, and the part of their scores.

        history: rows, the oldest first. Both are empty where there are no neighbours.
        """
        return sum_up(*self.speak_singly(history))

    def speak_singly(self, history: Sequence[int] | NDArray[np.integer]) -> tuple[NDArray[np.int32], Float32]:
        """Return the same before it is summed up, in a fifth of the time: rows, and what is added to their scores.

        A row stands there as often as it is spoken for, and -1 where nothing is added (0).
        """
        rule, table = self.rule.neighbours, self.neighbours
        if rule is None or table is None or not len(history):
            return _NO_ENTRIES, _NO_SCORES
        newest = np.asarray(history[-rule.depth :], dtype=np.int64)[::-1]
        steps = _steps(rule.weight, rule.decay, rule.depth)[: len(newest)] * table.scales.take(newest)
        rows = table.rows.take(newest, axis=0).ravel()
        values = (table.weights.take(newest, axis=0) * steps[:, None]).ravel()
        values[rows < 0] = 0
        return rows, values


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The scores of a batch and their parts, each float32 [batch, n_items]. whole = taste + neighbours + trend."""

    whole: Float32
    taste: Float32
    neighbours: Float32
    trend: Float32


_NO_ENTRIES: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
_NO_SCORES: Float32 = np.zeros(0, dtype=np.float32)


@lru_cache(maxsize=8)
def _steps(weight: float, decay: float, depth: int) -> Float32:
    """Return the weight of each step back in a history, float32 [depth]. Nobody writes to it."""
    return np.float32(weight) * (np.float32(decay) ** np.arange(depth, dtype=np.float32))


def sum_up(rows: NDArray[np.integer], values: Float32) -> tuple[Int64, Float32]:
    """Return the sum of the values of each row: rows, int64, ascending, each once, and sums. Of row -1 none is made."""
    order = rows.argsort(kind="stable")
    rows, values = rows[order], values[order]
    firsts = np.flatnonzero(np.concatenate([rows[:1] >= 0, (rows[1:] != rows[:-1]) & (rows[1:] >= 0)]))
    if not len(firsts):
        return np.zeros(0, dtype=np.int64), _NO_SCORES
    return rows[firsts].astype(np.int64), np.add.reduceat(values, firsts)


def add_up(
    parts: Parts,
    taste: Float32,
    histories: Sequence[Sequence[int] | NDArray[np.integer]],
    gaps: NDArray[np.floating],
    counts: Float32 | None = None,
) -> Scores:
    """Return the scores of a batch of users.

    taste: user · item, float32 [batch, n_items]. histories: rows of each user, the oldest first. gaps: log1p
    of the seconds since each user's last event, float [batch], NaN where it is not known. counts: float32 [n_items] or
    [batch, n_items]; needed where the rule has a trend.
    """
    rule = parts.rule
    of_taste, of_trend = rule.weigh(np.asarray(gaps, dtype=np.float64))
    trend = np.zeros(taste.shape, dtype=np.float32)
    if rule.trend is not None:
        assert counts is not None  # noqa: S101  # the caller's contract
        is_cold = np.array([len(history) == 0 for history in histories], dtype=np.bool_)
        of_taste, of_trend = np.where(is_cold, np.float32(0), of_taste), np.where(is_cold, np.float32(1), of_trend)
        trend += of_trend[:, None] * rule.trend.log(np.asarray(counts, dtype=np.float32))
    neighbours = np.zeros(taste.shape, dtype=np.float32)
    for own, history in zip(neighbours, histories, strict=True):
        rows, scores = parts.speak(history)
        own[rows] = scores
    weighted = taste * of_taste[:, None]
    return Scores(weighted + neighbours + trend, weighted, neighbours, trend)


def parse_score(fields: object) -> ScoreRule:
    """Return the rule that the field `score` of a manifest says. Raises ValueError that says what is wrong with it."""
    own = check_object("score", fields, {"parts", "gap"}, {"neighbours", "trend"})
    parts = own["parts"]
    if not isinstance(parts, list) or [name for name in PARTS if name in parts] != parts or not parts:
        raise ValueError(f"score.parts must be some of {list(PARTS)}, in this order")
    if parts == ["taste"]:
        raise ValueError("score.parts: taste alone is format 1")
    for name in ("neighbours", "trend"):
        if (name in parts) != (name in own):
            raise ValueError(f"score.{name} belongs to the part {name!r}, and only to it")
    gap = check_object("score.gap", own["gap"], {"knots", "taste", "trend", "typical"})
    knots = _numbers("score.gap.knots", gap["knots"], 0, _LARGEST)
    if any(later <= earlier for earlier, later in itertools.pairwise(knots)):
        raise ValueError("score.gap.knots must ascend")
    taste = _numbers("score.gap.taste", gap["taste"], 0, _LARGEST)
    trend = _numbers("score.gap.trend", gap["trend"], -_LARGEST, _LARGEST)
    if not len(knots) == len(taste) == len(trend):
        raise ValueError("score.gap needs a weight of taste and of trend for each knot")
    typical = check_number("score.gap.typical", gap["typical"], 0, _LARGEST)
    return ScoreRule(
        Gap(knots, taste, trend, typical),
        "taste" in parts,
        _parse_neighbours(own["neighbours"]) if "neighbours" in own else None,
        _parse_trend(own["trend"]) if "trend" in own else None,
    )


def _parse_neighbours(fields: object) -> NeighbourRule:
    own = check_object("score.neighbours", fields, {"weight", "decay", "depth"})
    depth = own["depth"]
    if type(depth) is not int or not 1 <= depth <= MOST_DEPTH:
        raise ValueError(f"score.neighbours.depth must be a whole number from 1 to {MOST_DEPTH}")
    weight = check_number("score.neighbours.weight", own["weight"], -_LARGEST, _LARGEST)
    return NeighbourRule(weight, check_number("score.neighbours.decay", own["decay"], 0, 1), depth)


def _parse_trend(fields: object) -> TrendRule:
    own = check_object("score.trend", fields, {"half_lives_s", "epsilon", "as_of"})
    half_lives = _numbers("score.trend.half_lives_s", own["half_lives_s"], 1, _LONGEST_S)
    if len(half_lives) != 1:
        raise ValueError("score.trend.half_lives_s: this version of retort reads exactly one")
    epsilon = check_number("score.trend.epsilon", own["epsilon"], 1e-9, _LARGEST)
    return TrendRule(half_lives[0], epsilon, check_number("score.trend.as_of", own["as_of"], 0, _LONGEST_S))


def check_object(
    name: str, value: object, needed: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> Mapping[str, Any]:
    """Return value as an object with these fields. Raises ValueError that says what is wrong with it."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object")
    if missing := needed - set(value):
        raise ValueError(f"{name}.{min(missing)} is missing")
    if unknown := set(value) - needed - optional:
        raise ValueError(f"{name} has an unknown field {min(unknown)[:100]!r}")
    return value


def _numbers(name: str, value: object, least: float, most: float) -> list[float]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_KNOTS:
        raise ValueError(f"{name} must be a list of 1 to {MOST_KNOTS} numbers")
    return [check_number(name, each, least, most) for each in value]


def check_number(name: str, value: object, least: float, most: float) -> float:
    """Return value as a float. Infinity and NaN are in no range. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}")
    return float(value)
