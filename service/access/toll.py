"""What a request weighs that is worth several: in the rate of its caller, and among the answers in flight."""

from collections.abc import Callable

from service.access.admission import Shares


class Toll:
    """Counts requests that were let in as one, and turned out to hold more."""

    def __init__(self, charge: Callable[[bytes, float], None], answers: Shares) -> None:
        """charge: counts so many requests more of a caller's rate."""
        self._charge, self._answers = charge, answers

    def charge(self, caller: bytes, n_requests: int) -> None:
        """Count a request as n in its caller's rate."""
        self._charge(caller, n_requests - 1)

    def take(self, caller: bytes, n_answers: int) -> int:
        """Take the places of up to n answers, at least of one: that of the request itself; return of how many."""
        return 1 + self._answers.enter_more(caller, n_answers - 1)

    def give_back(self, caller: bytes, n_answers: int, seconds: float) -> None:
        """Give back the places of n answers, which took so long, but that of the request itself."""
        for _ in range(n_answers - 1):
            self._answers.leave(caller, seconds)
