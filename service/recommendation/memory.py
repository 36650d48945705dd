"""What a worker remembers of the users it served last, bounded; read only when the store fails.

What is remembered is read only as long as this process would have heard of an erasure (see service.user.erasure).
"""

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from service.recommendation.job import Taste
from service.user.erasure import share_of

MAX_AGE_S = 3600.0


class Memory:
    """The tastes of at most max_users users, none of them older than an hour."""

    def __init__(
        self,
        max_users: int,
        is_trusted: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """is_trusted: whether erasures would have been heard of; nobody is recalled while it is not so."""
        self._max_users, self._is_trusted, self._clock = max_users, is_trusted, clock
        self._tastes: OrderedDict[str, tuple[float, Taste]] = OrderedDict()
        self._shares: defaultdict[int, set[str]] = defaultdict(set)

    def note(self, user_id: str, taste: Taste) -> None:
        """Remember a user, forgetting the one served longest ago."""
        if user_id not in self._tastes:
            self._shares[share_of(user_id)].add(user_id)
        self._tastes[user_id] = (self._clock(), taste)
        self._tastes.move_to_end(user_id)
        if len(self._tastes) > self._max_users:
            self.forget(next(iter(self._tastes)))

    def recall(self, user_id: str) -> Taste | None:
        """Return what is remembered of a user, unless it is older than an hour or may have been erased."""
        noted_at, taste = self._tastes.get(user_id, (0.0, None))
        if taste is None or not self._is_trusted() or self._clock() - noted_at >= MAX_AGE_S:
            return None
        return taste

    def forget(self, user_id: str) -> None:
        """Erase a user."""
        if self._tastes.pop(user_id, None) is not None:
            self._shares[share_of(user_id)].discard(user_id)

    def forget_share(self, share: int | None) -> None:
        """Erase the users of a share, see share_of(); None: everybody."""
        if share is None:
            self.clear()
        else:
            for user_id in self._shares.pop(share, set()):
                self._tastes.pop(user_id, None)

    def clear(self) -> None:
        """Erase everybody."""
        self._tastes.clear()
        self._shares.clear()
