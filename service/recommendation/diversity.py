"""Less sameness: maximal marginal relevance (Carbonell and Goldstein 1998) over the item vectors.

The next item is the one with the highest (1 - diversity) * relevance - diversity * similarity. Relevance is the score,
scaled so that the best item has 1 and the last of those looked at 0; similarity is the cosine with the most similar
item chosen before, at least 0.

Similarities are computed for a block of items at once, when one of them is chosen. The blocks are the same however long
the list is; so an item has the same place in every list, and pages share none.
"""

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32

MOST_DIVERSIFIED = 1000
"""So many of the best items are put into another order; those after them follow in theirs."""
_BLOCK = 32


class Diversified:
    """Items in the order of maximal marginal relevance, as far as it is asked for."""

    def __init__(self, vectors: Float32, scores: NDArray[np.floating], diversity: float) -> None:
        """vectors: float32 [n, dim]. scores: [n], descending. diversity: above 0, up to 1."""
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        self._units = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
        self._blocks: dict[int, Float32] = {}
        self._diversity = np.float32(diversity)
        self._relevance = (1 - self._diversity) * _scale(scores)
        self._nearest = np.zeros(len(vectors), dtype=np.float32)
        self._n_left = len(vectors)

    def take(self, n: int) -> NDArray[np.int64]:
        """Return the places of the next n items, int64 [n]; fewer at the end. Of equally good ones, the first."""
        n = min(n, self._n_left)
        self._n_left -= n
        taken = np.empty(n, dtype=np.int64)
        value = np.empty_like(self._relevance)
        for place in range(n):
            np.multiply(self._nearest, self._diversity, out=value)
            np.subtract(self._relevance, value, out=value)
            taken[place] = best = int(value.argmax())
            self._relevance[best] = -np.inf
            np.maximum(self._nearest, self._similarities(best), out=self._nearest)
        return taken

    def _similarities(self, place: int) -> Float32:
        number, within = divmod(place, _BLOCK)
        block = self._blocks.get(number)
        if block is None:
            block = self._units[number * _BLOCK : (number + 1) * _BLOCK] @ self._units.T
            self._blocks[number] = block
        row: Float32 = block[within]
        return row


def _scale(scores: NDArray[np.floating]) -> Float32:
    """Return scores as 0 to 1; 1 where all are equal."""
    if not len(scores):
        return np.zeros(0, dtype=np.float32)
    wide = scores.astype(np.float64)
    spread = wide[0] - wide[-1]
    scaled = (wide - wide[-1]) / spread if spread > 0 else np.ones_like(wide)
    return scaled.astype(np.float32)
