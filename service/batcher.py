"""Natural batching: whatever waits while one batch runs forms the next. No timer, and no added wait when idle.

A job that meets an idle batcher runs in the same turn of the event loop, together with what else arrived in it. The
size of a batch is bounded by what its owner measured it to cost.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
Run = Callable[[list[Job]], Coroutine[Any, Any, None]]


class Batcher(Generic[Job]):
    """Collects jobs into batches. At most max_running batches are between store and answer at a time."""

    def __init__(
        self, run: Callable[[list[Job]], Coroutine[Any, Any, None]], *, max_batch: int, max_running: int
    ) -> None:
        self.max_batch = max_batch
        self._run = run
        self._max_running = max_running
        self._waiting: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._is_due = False

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a job; it runs at the end of this turn of the loop unless batches enough are running."""
        self._waiting.append(job)
        if not self._is_due and len(self._running) < self._max_running:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._start)

    async def drain(self) -> None:
        """Wait until nothing waits and nothing runs."""
        while self._running or self._waiting:
            await asyncio.wait(self._running) if self._running else await asyncio.sleep(0)

    def _start(self) -> None:
        self._is_due = False
        while self._waiting and len(self._running) < self._max_running:
            n_jobs = min(len(self._waiting), self.max_batch)
            task = asyncio.create_task(self._run([self._waiting.popleft() for _ in range(n_jobs)]))  # noqa: RUF006
            self._running.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._start()
