"""Make the item table that a model starts from: of vectors of the items' texts, or of a larger model's own table.

The vectors are reduced to the model's width by their principal components, and whitened: each component gets the same
variance. Sentence vectors share a common direction that hides what tells items apart (Su et al. 2021, "Whitening
Sentence Representations"), and without whitening the first components of a trained table would outweigh all others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TABLE_STD = 0.02  # standard deviation of the values of a random item table


@dataclass(frozen=True, eq=False)
class Start:
    """An item table [N, D] that a model starts from. is_frozen: training does not change it."""

    table: NDArray[np.float32]
    is_frozen: bool = False


def start_table(vectors: NDArray[np.float32], dim: int, *, is_frozen: bool) -> NDArray[np.float32]:
    """Return the item table [N, dim] of item vectors [N, W]: their whitened principal components.

    An item whose vector is zero, for it has no text, gets a row of zeros; components that the vectors do not have are
    zero too. The rows' mean length is that of a random table, so that the other settings hold; in a frozen table, which
    cannot grow, it is 1.
    """
    real = np.linalg.norm(vectors, axis=1) > 0
    known = vectors[real] - vectors[real].mean(axis=0)
    values, directions = np.linalg.eigh(np.cov(known, rowvar=False).astype(np.float64))
    take = min(dim, len(values), max(1, len(known) - 1))
    scale = np.sqrt(np.maximum(values[::-1][:take], 1e-6 * values[-1] + 1e-12))
    table = np.zeros((len(vectors), dim), dtype=np.float32)
    table[real, :take] = known @ (directions[:, ::-1][:, :take] / scale)
    norm = 1.0 if is_frozen else TABLE_STD * dim**0.5
    return table * np.float32(norm / max(1e-6, float(np.linalg.norm(table[real], axis=1).mean())))
