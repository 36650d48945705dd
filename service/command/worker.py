"""Several workers on one port: processes of their own that share the listening socket, the store and the metrics.

The parent owns what must outlive a worker: the socket, the embedded server, the directory of the metrics. It loads no
model and answers nothing. A worker that dies is replaced; its counts stay, because its files do (only its gauges are
removed). Workers end with the parent, however it ends. Started as programs, not forked: nothing is inherited by chance.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from service.child import mortal
from service.errors import StartError
from service.logs import Log

_WATCH_EVERY_S = 0.02
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0
_STEADY_S = 10.0
_SLACK_S = 5.0


class _Worker:
    """One process. is_ready: it said that it serves."""

    def __init__(self, listener: socket.socket, arguments: list[str], environment: Mapping[str, str]) -> None:
        self._ready, child_end = os.pipe()
        command = [sys.executable, "-m", "service", "serve", "--listener-fd", str(listener.fileno())]
        self._process = subprocess.Popen(
            mortal([*command, "--ready-fd", str(child_end), *arguments]),
            env=dict(environment),
            pass_fds=(listener.fileno(), child_end),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the parent, which tells the workers
        )
        os.close(child_end)
        self.started = time.monotonic()
        self.is_ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def look(self) -> int | None:
        """Return the exit code of a worker that has ended, else None."""
        if not self.is_ready and select.select([self._ready], [], [], 0)[0]:
            self.is_ready = os.read(self._ready, 1) == b"1"
        return self._process.poll()

    def tell(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def close(self) -> None:
        os.close(self._ready)


class Crew:
    """The workers of one service."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        n_workers: int,
        arguments: list[str],
        environment: Mapping[str, str],
        metrics_dir: Path,
        log: Log,
        stop_s: float,
    ) -> None:
        """arguments, environment: of each worker. stop_s: how long a worker may take to end once it is told to."""
        self._listener, self._arguments, self._environment = listener, arguments, environment
        self._metrics_dir, self._log, self._stop_s = metrics_dir, log, stop_s
        self._is_stopping = asyncio.Event()
        self._workers = [self._spawn() for _ in range(n_workers)]
        self._backoff_s = _FIRST_BACKOFF_S

    def stop(self) -> None:
        """Begin to end; a second call ends at once."""
        number = signal.SIGKILL if self._is_stopping.is_set() else signal.SIGTERM
        self._is_stopping.set()
        for worker in self._workers:
            worker.tell(number)

    async def wait_until_ready(self) -> None:
        """Wait for every worker. Raises StartError if one ends first: it has said why."""
        while not all(worker.is_ready for worker in self._workers):
            codes = [worker.look() for worker in self._workers]
            if any(code is not None for code in codes) and not self._is_stopping.is_set():
                await self.end()
                raise StartError("a worker did not start; its message is above")
            if self._is_stopping.is_set():
                return
            await asyncio.sleep(_WATCH_EVERY_S)

    async def run(self) -> None:
        """Replace workers that die, until told to stop; then wait for all of them."""
        while not self._is_stopping.is_set():
            for place, worker in enumerate(self._workers):
                if (code := worker.look()) is not None:
                    await self._replace(place, code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), _WATCH_EVERY_S)
        await self.end()

    async def end(self) -> None:
        """Tell every worker to end, and see to it."""
        for worker in self._workers:
            worker.tell(signal.SIGTERM)
        end = time.monotonic() + self._stop_s + _SLACK_S
        while any(worker.look() is None for worker in self._workers):
            if time.monotonic() > end:
                for worker in self._workers:
                    worker.tell(signal.SIGKILL)
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
        self._workers[place] = self._spawn()

    def _spawn(self) -> _Worker:
        return _Worker(self._listener, self._arguments, self._environment)
