"""Events as a model reads them: rows of items in flat arrays, grouped by user, without times.

A file of interactions becomes an InteractionFile first (interaction_file.py) and prepared data next (prepared.py).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Events:
    """The events of some users. Those of user u are item[offset[u] : offset[u + 1]], oldest first."""

    item: NDArray[np.int32]  # [n_events], row
    offset: Int64  # [n_users + 1]

    @property
    def n_users(self) -> int:
        """The number of users, including those without events."""
        return len(self.offset) - 1

    def lengths(self) -> Int64:
        """Return the number of events of each user [n_users]."""
        return np.diff(self.offset)

    def is_target(self) -> NDArray[np.bool_]:
        """Return which events are targets: all of a user but the first [n_events]."""
        found = np.ones(len(self.item), dtype=bool)
        found[self.offset[:-1][self.lengths() > 0]] = False
        return found


def select_events(user: NDArray[np.int32], item: NDArray[np.int32], keep: NDArray[np.bool_], n_users: int) -> Events:
    """Return the flagged events of arrays [n_events] that are sorted by user and time. keep: which ones."""
    counts = np.bincount(user[keep], minlength=n_users)
    return Events(np.ascontiguousarray(item[keep]), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
