"""What every way of searching the catalogue has in common: the shape of a question and of an answer."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64

Ranked = tuple[Sequence[int], NDArray[Any]]
"""Rows and their scores, best first."""
Masked = Sequence["Sequence[int] | NDArray[Any]"]
"""For each line of a batch the rows that must not be shown."""
Encode = Callable[[Sequence[Sequence[int]]], Float32]
"""Turns histories, as rows of the item table, oldest first, into user vectors, float32 [batch, dim]."""
Scores = TypeVar("Scores")


class Search(Protocol[Scores]):
    """The k best items of each user of a batch, in two steps that are timed apart."""

    recall: float
    """Share of the true 100 best that are found: 1 where the search is exact."""

    def describe(self) -> dict[str, Any]:
        """Return what GET /model says of it."""

    def score(self, users: Float32, k: int, n_masked: int) -> Scores:
        """Return what best() chooses from, for users float32 [batch, dim] of whom each has n_masked rows at most."""

    def best(self, scores: Scores, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user the k best rows but the masked ones; None where a score is not finite."""


def rank(rows: Int64, scores: NDArray[Any], k: int) -> Ranked:
    """Return the k best of rows by their scores; equal ones in the order of rows."""
    if len(rows) > 2 * k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= least
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order].tolist(), scores[order]
