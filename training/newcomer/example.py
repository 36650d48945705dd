"""What the item network learns from: item vectors of a trained student, and its users just before they took an item."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.event import Events, Int64
from training.model.batch import history_batches
from training.model.encoder import SequenceModel

MOST_STATES = 60_000
AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Examples:
    """N items and S users of a student, each just before an event.

    features: of each item. vectors: float32 [N, D]. popularity: training events of each item [N]. states: user vectors
    float32 [S, D]. taken: the row of the item that each took next, int64 [S]. meanings: what a language model says of
    the items' texts, unit vectors float32 [N, W], zeros where there is no text; None where there is no such model.
    """

    features: Sequence[Int64]
    vectors: NDArray[np.float32]
    popularity: NDArray[np.float32]
    states: NDArray[np.float32]
    taken: Int64
    meanings: NDArray[np.float32] | None = None

    def of_items(self, rows: Int64) -> "Examples":
        """Return the examples of some items alone, ascending rows, which are renumbered; no event of others is left."""
        place = np.searchsorted(rows, self.taken)
        keep = np.isin(self.taken, rows)
        features = [self.features[row] for row in rows.tolist()]
        meanings = None if self.meanings is None else self.meanings[rows]
        return Examples(features, self.vectors[rows], self.popularity[rows], self.states[keep], place[keep], meanings)

    def weights(self) -> NDArray[np.float32]:
        """Return how far the vector of each item can be trusted, from 0 to 1: few events teach a vector little."""
        return (self.popularity / (self.popularity + 3)).astype(np.float32)

    def metric(self) -> NDArray[np.float32]:
        """Return a matrix [D, D] under which the distance of two items is that of their scores, over the users."""
        second = self.states.T @ self.states / max(1, len(self.states))
        size = max(float(np.trace(second)) / len(second), 1e-9)
        return np.linalg.cholesky(second / size + 1e-3 * np.eye(len(second))).astype(np.float32)


def gather_examples(
    model: SequenceModel, events: Events, features: Sequence[Int64], popularity: NDArray[np.float32]
) -> Examples:
    """Return the examples of a trained student. events: those of all users; at most MOST_STATES are drawn of them."""
    owner = np.repeat(np.arange(events.n_users), events.lengths())
    place = np.flatnonzero(np.arange(len(owner)) > events.offset[owner])  # every event but the first of a user
    if len(place) > MOST_STATES:
        place = np.sort(np.random.default_rng(0).choice(place, MOST_STATES, replace=False))
    states = np.zeros((len(place), model.size.dim), dtype=np.float32)
    batches = history_batches(
        events, owner[place], max_history=model.size.max_history, size=AT_ONCE, stop=place.astype(np.int64)
    )
    with torch.no_grad():
        for batch, rows in batches:
            states[batch] = model.users(rows.to(model.device)).cpu().numpy()
    vectors = model.items.weight.detach().cpu().numpy().copy()
    return Examples(features, vectors, popularity, states, events.item[place].astype(np.int64))
