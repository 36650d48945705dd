"""What a request weighs that is worth several: in the rate of its caller, and among the answers in flight."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from service.access.admission import Shares


class Toll:
    """Counts requests that were let in as one, and turned out to hold more."""

    def __init__(self, charge: Callable[[bytes, float], None], answers: Shares) -> None:
        """charge: counts so many requests more of a caller's rate."""
        self._charge, self._answers = charge, answers

    def charge(self, caller: bytes, n_requests: int) -> None:
        """Count a request as n in its caller's rate."""
        self._charge(caller, n_requests - 1)

    def hold(self, caller: bytes, answers: Sequence["asyncio.Future[Any]"]) -> None:
        """Let a request hold a place for each of its answers, until that is there; it has one already."""
        began = time.monotonic()
        self._answers.enter_more(caller, max(0, len(answers) - 1))
        for answer in answers[1:]:
            answer.add_done_callback(lambda _: self._answers.leave(caller, time.monotonic() - began))
