"""Less sameness: maximal marginal relevance (Carbonell and Goldstein 1998) over the item vectors.

The next item is the one with the highest (1 - diversity) * relevance - diversity * similarity. Relevance is the score,
scaled so that the best item has 1 and the last of those looked at 0; similarity is the cosine with the most similar
item chosen before, at least 0.

Similarities are computed with the item that was chosen, in one product; those that are chosen leave the arrays some
hundreds at a time. Neither depends on how long the list is to be; so an item has the same place in every list, and
pages share none. What it takes: tests/bench/README.md, "Diversity is compared one product at a time".
"""

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32

MOST_DIVERSIFIED = 1000
"""So many of the best items are put into another order; those after them follow in theirs."""
_LEAVE_AT_ONCE = 200


class Diversified:
    """Items in the order of maximal marginal relevance, as far as it is asked for."""

    def __init__(self, vectors: Float32, scores: NDArray[np.floating], diversity: float) -> None:
        """vectors: float32 [n, dim]. scores: [n], descending. diversity: above 0, up to 1."""
        share = np.float32(diversity)
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        # As long as their products are the similarities times the diversity.
        self._vectors = vectors * (np.sqrt(share) / np.maximum(lengths, np.finfo(np.float32).tiny))[:, None]
        self._relevance = (1 - share) * _scale(scores)
        self._nearest = np.zeros(len(vectors), dtype=np.float32)
        self._places = np.arange(len(vectors))
        self._n_left = len(vectors)

    def take(self, n: int) -> NDArray[np.int64]:
        """Return the places of the next n items, int64 [n]; fewer at the end. Of equally good ones, the first."""
        n = min(n, self._n_left)
        taken = np.empty(n, dtype=np.int64)
        value = np.empty_like(self._relevance)
        for number in range(n):
            np.subtract(self._relevance, self._nearest, out=value)
            best = int(value.argmax())
            taken[number] = self._places[best]
            self._relevance[best] = -np.inf
            self._vectors.dot(self._vectors[best], out=value)
            np.maximum(self._nearest, value, out=self._nearest)
            self._n_left -= 1
            if len(value) - self._n_left == _LEAVE_AT_ONCE:
                self._leave()
                value = np.empty_like(self._relevance)
        return taken

    def _leave(self) -> None:
        """Take those that were chosen out of the arrays."""
        left = np.flatnonzero(self._relevance > -np.inf)
        self._vectors, self._places = self._vectors[left], self._places[left]
        self._relevance, self._nearest = self._relevance[left], self._nearest[left]


def _scale(scores: NDArray[np.floating]) -> Float32:
    """Return scores as 0 to 1; 1 where all are equal."""
    if not len(scores):
        return np.zeros(0, dtype=np.float32)
    wide = scores.astype(np.float64)
    spread = wide[0] - wide[-1]
    scaled = (wide - wide[-1]) / spread if spread > 0 else np.ones_like(wide)
    return scaled.astype(np.float32)
