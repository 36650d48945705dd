"""What a worker remembers of the users it served last, bounded; read only when the store fails."""

import time
from collections import OrderedDict
from collections.abc import Callable

from service.recommendation.job import Taste

MAX_AGE_S = 3600.0


class Memory:
    """The tastes of at most max_users users, none of them older than an hour."""

    def __init__(self, max_users: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_users = max_users
        self._clock = clock
        self._tastes: OrderedDict[str, tuple[float, Taste]] = OrderedDict()

    def note(self, user_id: str, taste: Taste) -> None:
        """Remember a user, forgetting the one served longest ago."""
        self._tastes[user_id] = (self._clock(), taste)
        self._tastes.move_to_end(user_id)
        if len(self._tastes) > self._max_users:
            self._tastes.popitem(last=False)

    def recall(self, user_id: str) -> Taste | None:
        """Return what is remembered of a user, unless it is older than an hour."""
        noted_at, taste = self._tastes.get(user_id, (0.0, None))
        return taste if taste is not None and self._clock() - noted_at < MAX_AGE_S else None

    def forget(self, user_id: str) -> None:
        """Erase a user."""
        self._tastes.pop(user_id, None)

    def clear(self) -> None:
        """Erase everybody."""
        self._tastes.clear()
