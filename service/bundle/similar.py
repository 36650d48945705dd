"""The score of an item as one that goes with others, the anchors. This is its one definition.

score(item, anchors, now) = next * u(anchors) · item + neighbours * mean over j of (N[j, item] + N[item, j])
                          + angle * mean over j of v_j · item + trend * log(count(item, now) + e)

u(anchors): what the encoder makes of a history of the anchors alone, so what users do next. N: the neighbours' table,
read in both directions. v_j: the vector of anchor j, of length 1. The last part is that of service/bundle/score.py. A
part that the bundle does not have is left out; with biases, an item's is added.

The weights stand in the field `similar` of a manifest of format 2, chosen in training on held-out sessions and made to
be logits, so that a boost means what it means in the score of a user. usual_rule() says what holds without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.array import Float32, Int64
from service.bundle.score import Neighbours, Parts, check_number, check_object

LARGEST_WEIGHT = 1e6
_USUAL_NEXT, _USUAL_ANGLE, _USUAL_TREND = 0.25, 1.0, 0.3
"""Without a field `similar`: tests/bench/README.md, "Items that go with others"."""


@dataclass(frozen=True, slots=True)
class SimilarRule:
    """The field `similar` of a manifest: the weights of the parts, each 0 or more."""

    next: float
    neighbours: float
    angle: float
    trend: float

    def to_json(self) -> dict[str, float]:
        """Return the field as it is written."""
        return {name: float(weight) for name, weight in asdict(self).items()}


def parse_similar(fields: object) -> SimilarRule:
    """Return the rule that the field `similar` of a manifest says. Raises ValueError that says what is wrong."""
    own: Mapping[str, Any] = check_object("similar", fields, {"next", "neighbours", "angle", "trend"})
    rule = SimilarRule(**{name: check_number(f"similar.{name}", own[name], 0, LARGEST_WEIGHT) for name in own})
    if not (rule.next or rule.neighbours or rule.angle):
        raise ValueError("similar: one of next, neighbours and angle must be above 0")
    return rule


def usual_rule(parts: Parts | None) -> SimilarRule:
    """Return the rule of a bundle whose manifest has none. parts: of its score, if that is a sum."""
    if parts is None:
        return SimilarRule(1.0, 0.0, 0.0, 0.0)
    rule = parts.rule
    of_taste, _ = rule.weigh(np.array([np.nan]))
    near = max(0.0, rule.neighbours.weight) if rule.neighbours else 0.0
    following = (_USUAL_NEXT if near else 1.0) * float(of_taste[0])
    return SimilarRule(following, near, _USUAL_ANGLE, _USUAL_TREND if rule.trend else 0.0)


class Picked(Protocol):
    """A table of vectors, and what a score has beside them."""

    @property
    def parts(self) -> Parts | None:
        """What a score has beside user · item."""

    def pick(self, rows: Sequence[int] | Int64) -> Float32:
        """Return the vectors that users are multiplied with, of some rows, float32 [len(rows), dim]."""


class Relations:
    """What the items of a table say of each other, without the trend. rule: how it is weighed."""

    def __init__(self, table: Picked, rule: SimilarRule) -> None:
        """Read the neighbours' table backwards, once."""
        self.rule, self._table = rule, table
        parts = table.parts
        near = parts.neighbours if parts is not None and rule.neighbours else None
        self._near = None if near is None else _BothWays(near)

    def direction(self, anchors: Sequence[int], encoded: Float32) -> Float32:
        """Return what items are multiplied with, float32 [dim]. encoded: by the encoder, of the anchors alone."""
        vectors = self._table.pick(anchors)
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        units = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
        following: Float32 = encoded * np.float32(self.rule.next)
        whole: Float32 = following + units.mean(axis=0) * np.float32(self.rule.angle)
        return whole

    def speak(self, anchors: Sequence[int]) -> tuple[Int64, Float32]:
        """Return the rows that neighbours speak for, some several times, and what is added to their scores."""
        if self._near is None:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        said = [self._near.of(anchor) for anchor in anchors if anchor < self._near.n_items]
        if not said:  # live items have no neighbours
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        values = np.concatenate([each for _, each in said])
        return np.concatenate([rows for rows, _ in said]), values * np.float32(self.rule.neighbours / len(anchors))


class _BothWays:
    """A neighbours' table that can be asked who speaks for an item, too."""

    def __init__(self, near: Neighbours) -> None:
        self._near, self._width, self.n_items = near, near.rows.shape[1], len(near.rows)
        rows = near.rows.ravel()
        # An item and a place in one number: sorting these is ten times as quick as a stable argsort of the items.
        n_bits = len(rows).bit_length()
        keys = rows.astype(np.int64) << n_bits
        keys |= np.arange(len(rows))
        keys.sort()
        keys &= (1 << n_bits) - 1
        counts = np.bincount(rows[rows >= 0], minlength=self.n_items)
        self._starts = np.concatenate([[0], np.cumsum(counts)]) + (len(rows) - counts.sum())
        kind = np.int32 if len(rows) <= np.iinfo(np.int32).max else np.int64
        self._places: NDArray[np.integer] = keys.astype(kind)

    def of(self, row: int) -> tuple[Int64, Float32]:
        """Return the items that a row speaks for and that speak for it, and how much."""
        near = self._near
        places = self._places[self._starts[row] : self._starts[row + 1]]
        sources = (places // self._width).astype(np.int64)
        backward = near.weights.ravel()[places] * near.scales[sources]
        known = near.rows[row] >= 0
        forward = near.weights[row][known] * near.scales[row]
        rows = np.concatenate([near.rows[row][known].astype(np.int64), sources])
        return rows, np.concatenate([forward, backward]).astype(np.float32)
