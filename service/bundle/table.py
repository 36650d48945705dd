"""The item matrix of a bundle, and the histories that are gathered from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ItemTable:
    """The item matrix as stored. Rows come out as float32 whatever the stored type is.

    embeddings: [n_items, dim]; scales: [n_items] for int8; biases: [n_items]; inputs: [n_items, dim] where untied.
    """

    embeddings: NDArray[Any]
    scales: Float32 | None = None
    biases: Float32 | None = None
    inputs: Float32 | None = None

    def dense(self) -> Float32:
        """Return the whole output table, float32 [n_items, dim]."""
        return _to_float32(self.embeddings, self.scales)

    def pick(self, rows: Sequence[int] | Int64) -> Float32:
        """Return the output embeddings of rows, float32 [len(rows), dim]."""
        index = np.asarray(rows, dtype=np.int64)
        return _to_float32(self.embeddings[index], None if self.scales is None else self.scales[index])

    def gather(self, rows: Sequence[int] | Int64) -> Float32:
        """Return the input embeddings of rows, float32 [len(rows), dim]."""
        if self.inputs is None:
            return self.pick(rows)
        return np.ascontiguousarray(self.inputs[np.asarray(rows, dtype=np.int64)], dtype=np.float32)


def pad_histories(table: ItemTable, histories: Sequence[Sequence[int]], max_history: int) -> tuple[Float32, Int64]:
    """Gather the encoder's two inputs from row histories (oldest first).

    Returns history float32 [batch, time, dim], zeros padding the left, and length int64 [batch]; time is the longest
    history cut to its newest max_history rows, and at least 1.
    """
    recent = [list(rows[-max_history:]) for rows in histories]
    length = np.array([len(rows) for rows in recent], dtype=np.int64)
    time = max(1, int(length.max(initial=0)))
    history = np.zeros((len(recent), time, table.embeddings.shape[1]), dtype=np.float32)
    for i, rows in enumerate(recent):
        if rows:
            history[i, time - len(rows) :] = table.gather(rows)
    return history, length


def _to_float32(embeddings: NDArray[Any], scales: Float32 | None) -> Float32:
    dense = np.ascontiguousarray(embeddings, dtype=np.float32)
    return dense if scales is None else dense * scales[:, None]
