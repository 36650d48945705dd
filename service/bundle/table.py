"""The item table of a bundle, and the histories whose vectors are gathered from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.array import Float32, Int64
from service.bundle.item_encoding import ItemEncoding
from service.bundle.score import Parts


@dataclass(frozen=True, slots=True, eq=False)
class ItemTable:
    """The vectors of all items, as they are stored. Whatever the stored type is, the methods return float32.

    embeddings: float32, float16 or int8 [n_items, dim], what a user vector is multiplied with.
    scales: float32 [n_items], only with int8: the vector of an item is its row times its scale.
    biases: float32 [n_items] or None, added to the scores.
    inputs: float32 [n_items, dim] or None: what histories are made of, where it is not the same table.
    parts: what a score has beside user · item, and how it adds up; None where there is nothing beside.
    encoding: what makes vectors of items that are not in the table; None where nothing does.
    """

    embeddings: NDArray[Any]
    scales: Float32 | None = None
    biases: Float32 | None = None
    inputs: Float32 | None = None
    parts: Parts | None = None
    encoding: ItemEncoding | None = None

    def dense(self) -> Float32:
        """Return the vectors that users are multiplied with, of all items, float32 [n_items, dim]."""
        return _to_float32(self.embeddings, self.scales)

    def pick(self, rows: Sequence[int] | Int64) -> Float32:
        """Return the vectors that users are multiplied with, of some rows, float32 [len(rows), dim]."""
        chosen = np.asarray(rows, dtype=np.int64)
        picked = np.asarray(self.embeddings).take(chosen, axis=0)  # of the file itself it takes three times as long
        return _to_float32(picked, None if self.scales is None else self.scales[chosen])

    def gather(self, rows: Sequence[int] | Int64) -> Float32:
        """Return the vectors that histories are made of, of some rows, float32 [len(rows), dim]."""
        if self.inputs is None:
            return self.pick(rows)
        return np.ascontiguousarray(self.inputs[np.asarray(rows, dtype=np.int64)], dtype=np.float32)


class Gathered(Protocol):
    """What histories are gathered from. embeddings: [n_items, dim]."""

    @property
    def embeddings(self) -> NDArray[Any]:
        """The vectors that users are multiplied with."""

    def gather(self, rows: Sequence[int] | Int64) -> Float32:
        """Return the vectors that histories are made of, of some rows, float32 [len(rows), dim]."""


def pad_histories(table: Gathered, histories: Sequence[Sequence[int]], max_history: int) -> tuple[Float32, Int64]:
    """Return the two inputs of the encoder for a batch of histories, each the rows of its items, oldest first.

    The first is float32 [batch, time, dim]: the vectors of each history's newest max_history items, with zeros on the
    left of shorter ones; time is the length of the longest, and at least 1. The second is the lengths, int64 [batch].
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
