"""What every way to search a catalogue has in common: the types of its inputs and of its answers.

A search works on vectors and on rows of the item table. It knows no item ids: the catalogue (service.model) does.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64
from service.search.addend import Addends, Standing

Ranked = tuple[Sequence[int], NDArray[Any]]
"""Rows of the item table and their scores, the best first."""
Masked = Sequence["Sequence[int] | NDArray[Any]"]
"""For each user of a batch, the rows that must not be in the answer."""
Allowed = Sequence["NDArray[np.bool_] | None"]
"""For each user of a batch, which rows may be in the answer at all, bool [n_items]; None where every row may."""
Encode = Callable[[Sequence[Sequence[int]]], Float32]
"""Turns a batch of histories, each the rows of its items, oldest first, into user vectors, float32 [batch, dim]."""
Scores = TypeVar("Scores")
"""What score() hands to best(): each kind of search has a type of its own."""
_FEW = 200
"""So few rows are sorted in less time than the best of them are chosen first."""


class Search(Protocol[Scores]):
    """Finds the k best items of each user of a batch. It has two steps, because their times are measured apart."""

    recall: float
    """The share of the true best 100 items that it finds: 1 where the search is exact."""

    def describe(self) -> dict[str, Any]:
        """Return the field `index` of GET /model."""

    def follow(self, standing: Standing) -> None:
        """Get ready for requests with this standing; they are answered without it too. Any thread may call."""

    def score(
        self,
        users: Float32,
        k: int,
        n_masked: int,
        addends: Addends | None = None,
        allowed: Allowed | None = None,
    ) -> Scores:
        """Score items for users, float32 [batch, dim]; return what best() chooses from. Raises ModelError.

        k: how many items best() will be asked for at most. n_masked: the most masked rows that one of the users has.
        addends: what is added to each user's scores, where the score is a sum. allowed: None where every row is.
        """

    def best(self, scores: Scores, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user the k best allowed rows that are not masked, or None if one of its scores is not finite.

        An answer has fewer than k rows only if fewer than k are allowed and not masked. scores may be overwritten.
        """


def rank(rows: Int64, scores: NDArray[Any], k: int) -> Ranked:
    """Return the k best of rows by their scores, the best first; equal scores in the order of rows."""
    if len(rows) > max(_FEW, 2 * k):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= least
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order].tolist(), scores[order]
