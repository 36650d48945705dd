"""Where an item table starts from: what a language model says of the items' texts, or a larger model's own table.

Vectors become a table by their principal components, whitened: sentence vectors share a common direction that hides
what tells items apart (Su et al. 2021, "Whitening Sentence Representations"), and a trained table's first directions
would drown the others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TABLE_STD = 0.02  # of a random item table's values


@dataclass(frozen=True)
class Start:
    """An item table [N, D] to start from. is_frozen: it stays as it is."""

    table: NDArray[np.float32]
    is_frozen: bool = False


def start_table(vectors: NDArray[np.float32], dim: int, *, is_frozen: bool) -> NDArray[np.float32]:
    """Return an item table [N, dim] of whitened principal components; items without text are zero.

    Rows have the mean length of a random start's, so that other settings stand; those of a frozen table, which cannot
    grow, of 1.
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
