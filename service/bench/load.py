"""Open-loop load: requests arrive as a Poisson process, whether or not earlier ones have been answered.

A latency counts from the moment at which its request was due, not from when it was sent. So a service that stalls is
not asked less, and what was due meanwhile counts as late (no coordinated omission). How late this process itself sent
the requests is measured too, because an overloaded generator looks like a slow service.
"""

import asyncio
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.bench.client import Caller, Target

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
"""The percentiles of a summary, each as the share of latencies that do not exceed it."""
_SPIN_S = 0.002
"""For so long before a request is due the event loop does not sleep, because its timers are a millisecond coarse."""
_LEVEL = b'"quality":{"level":"'


@dataclass(slots=True)
class LoadResult:
    """What was measured while requests were sent at one rate, in requests a second.

    latencies_s: of every request, infinity if it failed. lags_s: how long after it was due each request was sent.
    levels: the answers by quality level. errors: the others by status, or "timeout" or "connection".
    """

    rate: float
    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    levels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def within(self, budget_s: float) -> float:
        """Return the share of requests that were answered within the budget."""
        return sum(latency <= budget_s for latency in self.latencies_s) / max(1, len(self.latencies_s))

    def lag_p99_s(self) -> float:
        """Return the 99th percentile of how late this process sent the requests."""
        return percentile(self.lags_s, 0.99)

    def summary(self, budget_s: float) -> dict[str, Any]:
        """Return the figures for JSON, latencies in milliseconds.

        A percentile is None if more requests failed than it leaves out.
        """
        found = {name: _milliseconds(percentile(self.latencies_s, share)) for name, share in SHARES.items()}
        return {
            "rate": round(self.rate, 1), "requests": len(self.latencies_s), "seconds": round(self.seconds, 2), **found,
            "within": round(self.within(budget_s), 5), "levels": dict(self.levels), "errors": dict(self.errors),
            "lag_p99_ms": _milliseconds(self.lag_p99_s()),
        }  # fmt: skip


class Load:
    """Sends requests to one target, over as many connections as are needed. Close it with `async with`."""

    def __init__(
        self,
        target: Target,
        requests: Sequence[bytes],
        *,
        n_connections: int,
        timeout_s: float,
        seed: int = 0,
        on_answer: Callable[[bytes, int, bytes], None] = lambda request, status, body: None,
    ) -> None:
        """requests: from Target.post() or get(), drawn at random by seed. n_connections: how many may be open.

        timeout_s: after so long a request has failed. on_answer: is called with each request, status and body.
        """
        self._on_answer = on_answer
        self._target, self._requests = target, requests
        self._n_connections, self._timeout_s = n_connections, timeout_s
        self._random = random.Random(seed)  # noqa: S311  # arrivals, not secrets
        self._idle: list[Caller] = []
        self._n_busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> "Load":
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._idle:
            caller.close()

    async def run(self, rate: float, seconds: float) -> LoadResult:
        """Send `rate` requests a second for some seconds; return once all are answered or have failed."""
        result = LoadResult(rate, seconds)
        sent: set[asyncio.Task[None]] = set()
        due = start = time.monotonic()
        while (due := due + self._random.expovariate(rate)) < start + seconds:
            await _wait_until(due)
            result.lags_s.append(time.monotonic() - due)
            task = asyncio.create_task(self._send(due, result))
            sent.add(task)
            task.add_done_callback(sent.discard)
        if sent:
            await asyncio.wait(sent)
        return result

    async def ask_in_turn(self, n_requests: int) -> LoadResult:
        """Send one request after the other, as a single client does."""
        result = LoadResult(0.0, 0.0)
        start = time.monotonic()
        for _ in range(n_requests):
            await self._send(time.monotonic(), result)
        result.seconds = time.monotonic() - start
        result.rate = n_requests / result.seconds
        return result

    async def _send(self, due: float, result: LoadResult) -> None:
        request = self._random.choice(self._requests)
        try:
            status, body = await self._ask(request)
        except TimeoutError:
            status, body = 0, b"timeout"
        except OSError:
            status, body = 0, b"connection"
        result.latencies_s.append(time.monotonic() - due if status == 200 else float("inf"))
        if status:
            self._on_answer(request, status, body)
        if status == 200:
            result.levels[_level(body)] += 1
        else:
            result.errors[str(status) if status else body.decode()] += 1

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        async with asyncio.timeout(self._timeout_s):
            while not self._idle and self._n_busy >= self._n_connections:
                self._waiting.append(asyncio.get_running_loop().create_future())
                await self._waiting[-1]
        caller = None
        self._n_busy += 1
        try:
            while self._idle and not self._idle[-1].is_open:
                self._idle.pop()  # closed by the server, which does so with idle ones
            caller = self._idle.pop() if self._idle else await self._target.connect()
            return await caller.ask(request, self._timeout_s)
        finally:
            self._n_busy -= 1
            if caller is not None and caller.is_open:
                self._idle.append(caller)
            while self._waiting:
                if not (waiter := self._waiting.popleft()).done():
                    waiter.set_result(None)
                    break


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all values do not exceed; 0 if there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def _wait_until(moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        if left <= _SPIN_S:
            os.sched_yield()  # to the service or its store, where they share the core
        await asyncio.sleep(left - _SPIN_S if left > _SPIN_S else 0)


def _level(body: bytes) -> str:
    start = body.find(_LEVEL) + len(_LEVEL)
    return body[start : body.find(b'"', start)].decode() if start >= len(_LEVEL) else "unknown"


def _milliseconds(seconds: float) -> float | None:
    return round(seconds * 1000, 3) if seconds < float("inf") else None
