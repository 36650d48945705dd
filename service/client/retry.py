"""The retry budget: of all calls that a client makes, at most a share is made again."""

import random

LONGEST_BACKOFF_S = 1.0
_FIRST_BACKOFF_S = 0.02


class RetryBudget:
    """A bucket: each call puts a share of a retry in, each retry takes a whole one out.

    So a service that is down gets at most so many more requests, and no wave of them once it is back.
    """

    def __init__(self, share: float, most: float = 10.0) -> None:
        """share: of the calls. most: how many retries can be saved up."""
        self._share, self._most, self._saved = share, most, 0.0

    def earn(self) -> None:
        """Note a call."""
        self._saved = min(self._most, self._saved + self._share)

    def spend(self) -> bool:
        """Take a retry out; return whether there was one."""
        if self._saved < 1 - 1e-9:
            return False
        self._saved -= 1
        return True


def backoff_s(n_retries: int) -> float:
    """Return how long to wait before a retry that nobody gave a time for: longer each time, and never two alike."""
    return min(LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(n_retries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
