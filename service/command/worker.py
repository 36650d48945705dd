"""Several workers on one port, and their supervisor: processes that share the listening socket, store and metrics.

The supervisor owns what must outlive a worker: the socket, the embedded server, the directory of the metrics. It loads
no model and answers no request. A worker that dies is replaced. Its counts stay, because its files in the directory of
the metrics do; only its gauges are removed. Workers end with the supervisor, however it ends. They are started as
programs, not forked, so that they inherit only what they are given.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.child import python_module, tie_to_parent
from service.errors import StartError
from service.logs import Log

_WATCH_EVERY_S = 0.02
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0
_STEADY_S = 10.0
_SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What every worker is started with. listener: bound and inheritable. arguments: of the command serve."""

    listener: socket.socket
    arguments: Sequence[str]
    environment: Mapping[str, str]


class _Worker:
    """One process. is_ready: it has said that it serves."""

    def __init__(self, start: WorkerStart) -> None:
        self._ready, child_end = os.pipe()
        listener_fd = start.listener.fileno()
        command = python_module("service", "serve", "--listener-fd", str(listener_fd))
        self._process = subprocess.Popen(
            tie_to_parent([*command, "--ready-fd", str(child_end), *start.arguments]),
            env=dict(start.environment),
            pass_fds=(listener_fd, child_end),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the supervisor, which tells the workers
        )
        os.close(child_end)
        self.started = time.monotonic()
        self.is_ready = False
        self._is_asked = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def look(self) -> int | None:
        """Return the exit code of a worker that has ended, else None."""
        if not self.is_ready and select.select([self._ready], [], [], 0)[0]:
            self.is_ready = os.read(self._ready, 1) == b"1"
        return self._process.poll()

    def ask_to_end(self) -> None:
        """Send SIGTERM, once: a second one would cut short the draining that the first began."""
        if not self._is_asked:
            self._is_asked = True
            self._tell(signal.SIGTERM)

    def kill(self) -> None:
        self._tell(signal.SIGKILL)

    def _tell(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def close(self) -> None:
        os.close(self._ready)


class Supervisor:
    """Starts the workers of one service, replaces those that die, and ends them."""

    def __init__(self, start: WorkerStart, n_workers: int, *, metrics_dir: Path, log: Log, stop_s: float) -> None:
        """Start the workers. stop_s: how long one may take to end once it is told to."""
        self._start, self._metrics_dir, self._log, self._stop_s = start, metrics_dir, log, stop_s
        self._is_stopping = asyncio.Event()
        self._workers = [_Worker(start) for _ in range(n_workers)]
        self._backoff_s = _FIRST_BACKOFF_S

    def stop(self) -> None:
        """Tell every worker to end; a second call kills them."""
        for worker in self._workers:
            worker.kill() if self._is_stopping.is_set() else worker.ask_to_end()
        self._is_stopping.set()

    async def wait_until_ready(self) -> None:
        """Wait until every worker serves. Raises StartError if one ends first, which has said why itself."""
        while not all(worker.is_ready for worker in self._workers):
            codes = [worker.look() for worker in self._workers]
            if any(code is not None for code in codes) and not self._is_stopping.is_set():
                await self.end()
                raise StartError("a worker did not start; its message is above")
            if self._is_stopping.is_set():
                return
            await asyncio.sleep(_WATCH_EVERY_S)

    async def run(self) -> None:
        """Replace workers that die, until told to stop; then wait until all have ended."""
        while not self._is_stopping.is_set():
            for place, worker in enumerate(self._workers):
                if (code := worker.look()) is not None:
                    await self._replace(place, code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), _WATCH_EVERY_S)
        self._start.listener.close()  # the last worker answers who has connected; a copy here would keep them waiting
        await self.end()

    async def end(self) -> None:
        """Tell every worker to end, and wait for it; kill those that take too long."""
        for worker in self._workers:
            worker.ask_to_end()
        end = time.monotonic() + self._stop_s + _SLACK_S
        while any(worker.look() is None for worker in self._workers):
            if time.monotonic() > end:
                for worker in self._workers:
                    worker.kill()
            await asyncio.sleep(_WATCH_EVERY_S)
        for worker in self._workers:
            worker.close()
        self._workers = []

    async def _replace(self, place: int, code: int) -> None:
        worker = self._workers[place]
        self._log.write("error", "worker_died", pid=worker.pid, code=code)
        worker.close()
        for file in self._metrics_dir.glob(f"gauge_live*_{worker.pid}.db"):
            file.unlink(missing_ok=True)  # a dead worker has nothing in flight
        if time.monotonic() - worker.started > _STEADY_S:
            self._backoff_s = _FIRST_BACKOFF_S
        await asyncio.sleep(self._backoff_s)
        self._backoff_s = min(_MAX_BACKOFF_S, 2 * self._backoff_s)
        self._workers[place] = _Worker(self._start)
