"""What the score of format 2 adds to a user's taste, ready for a search: the trend of all items, and a few neighbours.

A search is given users who are weighed already (see weigh), and one addend for each of them; the sum is their product
with the items plus the addend. So searches know nothing of gaps and histories, and every way to search adds the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, Parts, sum_up

MOST_TRENDING = 400
"""How many items, those that stand highest in the trend, an approximate search always scores."""


MOST_BOOSTED = 2000
"""How many items that a request raises an approximate search always scores; of more it looks for the best ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Where the items stand in the trend. logs: log(count + e), float32 [n_items]. top: the highest rows, ascending.

    top_many: many of the highest, ascending: the highest of those that a filter allows are looked for among them. Both
    are rows of the bundle; top_live: the highest of the rows after those. least: the log of no count, which items have
    that came since. counts: of which it was made, float32 [n_items].
    """

    logs: Float32
    top: Int64
    top_many: Int64
    least: float = -np.inf
    top_live: Int64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    counts: Float32 = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    def at(self, rows: Int64) -> Float32:
        """Return the logs of rows, float32 [len(rows)]."""
        return _at(self.logs, rows, self.least)


@dataclass(slots=True, eq=False)
class Addend:
    """What is added to one user's scores.

    weight: of the trend. standing: None where the score has no trend. rows, values: of the neighbours, as
    Parts.speak_singly() returns them. is_bent: a request lets the trend count for more, so that items further down in
    it may be among the best.
    """

    weight: np.float32
    standing: Standing | None
    rows: NDArray[np.integer]
    values: Float32
    is_bent: bool = False

    def bend(self, factor: float) -> None:
        """Let the trend count for so many times as much."""
        self.weight, self.is_bent = np.float32(self.weight * np.float32(factor)), factor > 1

    def add_to(self, scores: Float32) -> None:
        """Add to the scores of all items, float32 [n_items], in place."""
        if self.standing is not None:
            scores += self.standing.logs[: len(scores)] * self.weight
        np.add.at(scores, self.rows, self.values)

    def at(self, rows: Int64) -> Float32:
        """Return what is added to the scores of rows, float32 [len(rows)]."""
        return self.trend_at(rows) + self.neighbours_at(rows)

    def trend_at(self, rows: Int64) -> Float32:
        """Return the trend's part at rows, float32 [len(rows)]."""
        if self.standing is None:
            return np.zeros(len(rows), dtype=np.float32)
        trend: Float32 = self.standing.at(rows) * self.weight
        return trend

    def neighbours_at(self, rows: Int64) -> Float32:
        """Return the neighbours' part at rows, float32 [len(rows)]."""
        known, sums = sum_up(self.rows, self.values)
        if not len(known):
            return np.zeros(len(rows), dtype=np.float32)
        place = np.minimum(np.searchsorted(known, rows), len(known) - 1)
        part: Float32 = np.where(known[place] == rows, sums[place], np.float32(0))
        return part

    def plus(self, other: "Addend", share: float) -> "Addend":
        """Return the sum of this and a share of another."""
        rows, values = np.concatenate([self.rows, other.rows]), np.concatenate([self.values, share * other.values])
        standing = other.standing if self.standing is None else self.standing
        return Addend(np.float32(self.weight + share * other.weight), standing, rows, values.astype(np.float32))

    def allowed_candidates(self, allowed: NDArray[np.bool_]) -> Int64:
        """Return candidates() of the rows that are allowed, bool [n_items]: the highest of them in the trend."""
        known = self._near()
        near: Int64 = known[allowed[known]]
        if self.standing is None:
            return near
        among = self.standing.top_many[allowed[self.standing.top_many]]
        if self.is_bent:
            return np.concatenate([among, near])
        if len(among) < MOST_TRENDING < len(self.standing.logs):
            among = np.flatnonzero(allowed)
        if len(among) > MOST_TRENDING:
            place = len(among) - MOST_TRENDING
            among = among[np.argpartition(self.standing.logs[among], place)[place:]]
        return np.concatenate([among, near])

    def candidates(self) -> Int64:
        """Return the rows that may be among the best though taste alone would not say so; some twice."""
        known = self._near()
        if self.standing is None:
            return known
        return np.concatenate([self.standing.top_many if self.is_bent else self.standing.top, known])

    def _near(self) -> Int64:
        """Return the rows that neighbours speak for, some several times."""
        rows: Int64 = self.rows[self.rows >= 0].astype(np.int64)
        return rows


NOTHING = Addend(np.float32(0), None, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
"""What is added where the score is the product alone."""


class Boosted:
    """What is added to one user's scores where the request boosts some items, beside what the model adds."""

    def __init__(self, addend: Addend, boost: Float32) -> None:
        """boost: what is added to each item, float32 [n_items]."""
        self.addend, self.boost = addend, boost
        n_raised = np.count_nonzero(boost > 0)
        self._raised: Int64 = np.flatnonzero(boost > 0) if n_raised <= MOST_BOOSTED else np.zeros(0, dtype=np.int64)
        self.most_unseen = float(boost.max(initial=0)) if n_raised > MOST_BOOSTED else 0.0

    @property
    def weight(self) -> np.float32:
        """As Addend says."""
        return self.addend.weight

    @property
    def standing(self) -> Standing | None:
        """As Addend says."""
        return self.addend.standing

    def add_to(self, scores: Float32) -> None:
        """As Addend says."""
        self.addend.add_to(scores)
        scores += self.boost

    def at(self, rows: Int64) -> Float32:
        """As Addend says."""
        total: Float32 = self.addend.at(rows) + _at(self.boost, rows, 0.0)
        return total

    def allowed_candidates(self, allowed: NDArray[np.bool_]) -> Int64:
        """As Addend says."""
        return np.concatenate([self.addend.allowed_candidates(allowed), self._raised[allowed[self._raised]]])

    def candidates(self) -> Int64:
        """As Addend says. Where many items are raised, they are not among them: most_unseen says by how much."""
        return np.concatenate([self.addend.candidates(), self._raised])


def _at(values: Float32, rows: Int64, fill: float) -> Float32:
    """Return the values of rows, float32 [len(rows)]. fill: of rows that came after the values were made."""
    if not len(rows) or int(rows.max()) < len(values):
        return values[rows]
    found: Float32 = np.full(len(rows), fill, dtype=np.float32)
    is_known = rows < len(values)
    found[is_known] = values[rows[is_known]]
    return found


Addends = Sequence[Addend | Boosted]
"""One for each user of a batch."""


def stand(
    parts: Parts, counts: Float32, places: Int64 | None = None, n_made: int | None = None, prior: float = 0.0
) -> Standing:
    """Return where the items stand by their counts, float32 [n_items].

    places: of the items in an order in which those are taken that stand equally high, int64 [n_items]; None: that of
    the rows. n_made: how many rows the bundle has; None: it has all. prior: the least count of a row after those.
    """
    assert parts.rule.trend is not None  # noqa: S101  # asked of a trend only
    known = counts
    if n_made is not None and prior > 0 and len(counts) > n_made:
        counts = np.concatenate([counts[:n_made], np.maximum(counts[n_made:], np.float32(prior))])
    logs, least = parts.rule.trend.log(counts), parts.rule.trend.log(np.full(1, prior, dtype=np.float32))
    places = np.arange(len(logs)) if places is None else places
    rows = np.arange(len(logs))
    many = pick_highest(rows[:n_made], logs, places, 64 * MOST_TRENDING)
    top = pick_highest(many, logs, places, MOST_TRENDING)
    later = pick_highest(rows[len(logs) if n_made is None else n_made :], logs, places, MOST_TRENDING)
    return Standing(logs, np.sort(top), np.sort(many), float(least[0]), np.sort(later), known)


def pick_highest(rows: Int64, values: NDArray[Any], places: Int64, n: int) -> Int64:
    """Return the n of rows whose values are highest, in no order; of equally high ones those whose places come first.

    values, places: of all rows, [n_items].
    """
    if not len(rows) > n > 0:
        return rows[:n]
    own = values[rows]
    least = np.partition(own, len(rows) - n)[len(rows) - n]
    better, equal = rows[own > least], rows[own == least]
    if len(equal) > (n_equal := n - len(better)):
        equal = equal[np.argpartition(places[equal], n_equal - 1)[:n_equal]]
    return np.concatenate([better, equal])


def weigh(
    parts: Parts,
    users: Float32,
    histories: Sequence[Sequence[int] | NDArray[np.integer]],
    gaps: NDArray[np.floating],
    standing: Standing | None,
    n_made: int | None = None,
) -> tuple[Float32, Sequence[Addend]]:
    """Return users as a search multiplies them, float32 [batch, dim], and what it adds to their scores.

    users: as the encoder gives them. histories, gaps: see service.bundle.add_up(), which says the same by the formula.
    n_made: where histories may have rows after those of the bundle, how many rows it has; such rows have no neighbours.
    """
    of_taste, of_trend = parts.rule.weigh(gaps)
    if standing is not None and not all(map(len, histories)):
        is_cold = np.array([len(history) == 0 for history in histories], dtype=np.bool_)
        of_taste, of_trend = np.where(is_cold, np.float32(0), of_taste), np.where(is_cold, np.float32(1), of_trend)
    if n_made is not None:
        histories = [[row for row in rows if row < n_made] for rows in histories]
    addends = [
        Addend(each, standing, *parts.speak_singly(rows)) for each, rows in zip(of_trend, histories, strict=True)
    ]
    return users * of_taste[:, None], addends
