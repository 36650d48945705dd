"""Natural batching: the jobs that arrive while one batch runs form the next. An idle batcher adds no wait.

A job that finds the batcher idle runs at the end of the same turn of the event loop, with the other jobs of that turn.
The size of a batch is limited; its owner measures what a batch of each size costs. If a batch is stuck on a slow store,
the next starts beside it after `patience_s`.

Batches run on the event loop, one at a time: tests/bench/README.md, "Batches run on the event loop".
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
Run = Callable[[list[Job]], Coroutine[Any, Any, None]]


class Batcher(Generic[Job]):
    """Collects jobs into batches. A second one starts beside a running one only once that has kept others waiting."""

    def __init__(self, run: Run[Job], *, max_batch: int, max_running: int, patience_s: float) -> None:
        """patience_s: how old the newest batch must be for another to start beside it (a slow store, say)."""
        self.max_batch = max_batch
        self._run = run
        self._max_running, self._patience_s = max_running, patience_s
        self._started = 0.0
        self._waiting: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no job waits and no batch runs."""
        return not self._waiting and not self._running

    def submit(self, job: Job) -> None:
        """Queue a job; it runs at the end of this turn of the loop unless batches enough are running."""
        self._waiting.append(job)
        if not self._is_due:
            if self._has_room():
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._start)
            else:
                self._start_later()

    async def drain(self) -> None:
        """Wait until nothing waits and nothing runs."""
        while self._running or self._waiting:
            await asyncio.wait(self._running) if self._running else await asyncio.sleep(0)

    def close(self) -> None:
        """Let go of the run function, which refers to this in turn; nothing can be submitted any more."""
        self._run = _refuse

    def _start(self) -> None:
        self._is_due = False
        while self._waiting and self._has_room():
            self._started = time.monotonic()
            n_jobs = min(len(self._waiting), self.max_batch)
            task = asyncio.create_task(self._run([self._waiting.popleft() for _ in range(n_jobs)]))  # noqa: RUF006
            self._running.add(task)
            task.add_done_callback(self._end)

        if self._waiting:
            self._start_later()

    def _start_later(self) -> None:
        """Start a batch when the newest one is old enough, unless one ends before."""
        if self._timer is None and len(self._running) < self._max_running:
            at = self._started + self._patience_s - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._start()

    def _has_room(self) -> bool:
        if not self._running:
            return True
        return len(self._running) < self._max_running and time.monotonic() - self._started >= self._patience_s

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._start()


async def _refuse(jobs: list[Any]) -> None:
    raise RuntimeError("the batcher is closed")
