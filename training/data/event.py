"""The events a model is trained on: those of the training part, grouped by user."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """The events of some users, flat: user u's are item[offset[u] : offset[u + 1]], oldest first."""

    item: NDArray[np.int32]
    offset: Int64

    @property
    def n_users(self) -> int:
        """How many users, those without events included."""
        return len(self.offset) - 1

    def lengths(self) -> Int64:
        """Events of each user [n_users]."""
        return np.diff(self.offset)


def select_events(user: NDArray[np.int32], item: NDArray[np.int32], keep: NDArray[np.bool_], n_users: int) -> Events:
    """Keep the flagged events of arrays that are sorted by user and time. keep: bool [n_events]."""
    counts = np.bincount(user[keep], minlength=n_users)
    return Events(np.ascontiguousarray(item[keep]), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
