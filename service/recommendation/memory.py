"""What a worker remembers of the users it served last, bounded; read only when the store fails."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.bundle import Float32
from service.user.record import Int32

MAX_AGE_S = 3600.0
NO_ROWS: Int32 = np.zeros(0, dtype=np.int32)


@dataclass(slots=True)
class Taste:
    """What is known of a user: all rows seen, oldest first, and the vector once it is encoded."""

    seen: Int32
    user: Float32 | None = None
    noted_at: float = 0.0


class Memory:
    """The tastes of at most max_users users."""

    def __init__(self, max_users: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_users = max_users
        self._clock = clock
        self._tastes: OrderedDict[str, Taste] = OrderedDict()

    def note(self, user_id: str, taste: Taste) -> None:
        """Remember a user, forgetting the one served longest ago."""
        taste.noted_at = self._clock()
        self._tastes[user_id] = taste
        self._tastes.move_to_end(user_id)
        if len(self._tastes) > self._max_users:
            self._tastes.popitem(last=False)

    def recall(self, user_id: str) -> Taste | None:
        """Return what is remembered of a user, unless it is older than an hour."""
        taste = self._tastes.get(user_id)
        return taste if taste is not None and self._clock() - taste.noted_at < MAX_AGE_S else None

    def forget(self, user_id: str) -> None:
        """Erase a user."""
        self._tastes.pop(user_id, None)

    def clear(self) -> None:
        """Erase everybody."""
        self._tastes.clear()
