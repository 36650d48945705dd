"""Real parts for the tests: a service process on a real socket, and a clock that polls instead of sleeping."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import redis

from service.store.embedded import socket_path

DEADLINE_S = 20.0
SWAP_S = 90.0  # the trial of a new version steps back behind everything else on the machine
OUT_OF_TIME = {"store_timeout", "stale_profile", "deadline"}
KEY = "a-key-that-only-tests-know"
ADMIN_KEY = "the-admin-key-that-only-tests-know"


def wait_for(claim: Callable[[], Any], timeout_s: float = DEADLINE_S, every_s: float = 0.02) -> Any:
    """Return the first truthy value of claim; fail once timeout_s is over."""
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        if value := claim():
            return value
        assert time.monotonic() < end, f"still not so after {timeout_s} s"
        pause.wait(every_s)


class Running:
    """A service process. Use it as a context manager; it is ready inside."""

    def __init__(
        self,
        bundle: Path,
        data_dir: Path,
        /,
        *arguments: str,
        python: str | Path = sys.executable,
        cwd: Path | None = None,
        **environment: str,
    ) -> None:
        """python, cwd: the interpreter that has the service, and the directory that it is started in.

        environment: settings. The budget is a second, which no busy machine lets run out; tests of 50 ms ask for them.
        """
        self.data_dir = data_dir
        self._command, self._cwd = [str(python), "-m", "service"], cwd
        self._log_path = Path(tempfile.mkstemp(prefix="retort-log-")[1])
        self._bundle, self._arguments = bundle, arguments
        self._port = environment.pop("port", "0")
        self._environment = {"drain_s": "0", "budget_ms": "1000", **environment}

    def __enter__(self) -> "Running":
        self.start()
        return self

    def __exit__(self, kind: type | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        bugs = [line for line in self._log_path.read_text(errors="replace").splitlines() if _tells_of_a_bug(line)]
        self._log_path.unlink()
        if kind is None:
            assert not bugs, "what the log says of bugs, also of those that no caller saw:\n" + "\n".join(bugs)

    def start(self) -> None:
        """Start the process and wait until it listens."""
        self._log_path.write_text("")
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, "--bundle", str(self._bundle), "--port", self._port,
                 "--data-dir", str(self.data_dir), *self._arguments],
                cwd=self._cwd,
                env=clean_environment(self._environment),
                stderr=log,
            )  # fmt: skip
        self.url = wait_for(self._find_url, timeout_s=SWAP_S)
        self.client = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.client.close()
        self.process.kill()
        self.process.wait()

    def log_lines(self) -> list[dict[str, Any]]:
        """Every complete line of the log, parsed."""
        text = self._log_path.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def log_text(self) -> str:
        """Return what the process has logged so far."""
        return self._log_path.read_text()

    def recommend(self, **body: Any) -> dict[str, Any]:
        """POST /recommend, twice more where a busy machine lets the default budget run out."""
        return self._list("/recommend", body)

    def similar(self, **body: Any) -> dict[str, Any]:
        """POST /similar, in the same way."""
        return self._list("/similar", body)

    def ask(self, path: str = "/recommend", **body: Any) -> dict[str, Any]:
        """POST once, which must answer 200: for the tests of what is counted, of 50 ms, or of a slow store."""
        response = self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def _list(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.ask(path, **body)
        for _ in range(2):
            if "budget_ms" in body or not OUT_OF_TIME & {*answer["quality"]["reasons"]}:
                break
            answer = self.ask(path, **body)
        return answer

    def batch(self, *requests: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answers of POST /recommend/batch, asked again while a busy machine refuses it whole."""

        def ask() -> Any:
            response = self.client.post("/recommend/batch", json={"requests": requests})
            assert response.status_code in (200, 503), response.text
            return response.json().get("answers")

        answers: list[dict[str, Any]] = wait_for(ask)
        return answers

    def send(self, *events: Mapping[str, Any]) -> dict[str, Any]:
        """POST /events, which must answer 200; once more where a busy machine's store did not confirm in time."""
        response = self.client.post("/events", json={"events": list(events)})
        if response.status_code == 503:
            response = self.client.post("/events", json={"events": list(events)})
        assert response.status_code == 200, response.text
        return response.json()

    def store(self) -> redis.Redis:
        """A client of the embedded server."""
        return redis.Redis(unix_socket_path=str(socket_path(self.data_dir)), protocol=2)

    def store_pid(self) -> int:
        """The embedded server's process id."""
        return int((self.data_dir / "server.pid").read_text().split()[0])

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry the labels."""
        return metric(self.client.get("/metrics").text, name, **labels)

    def _find_url(self) -> str | None:
        assert self.process.poll() is None, self._log_path.read_text()
        return next((line["url"] for line in self.log_lines() if line["event"] == "listening"), None)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without RETORT_ settings of the developer's, and with extra ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RETORT_")}
    return kept | {f"RETORT_{name.upper()}": value for name, value in extra.items()}


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run python -m service with arguments to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=clean_environment(environment), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def children_of(parent: int, named: bytes) -> list[int]:
    """Return the processes that another one started and whose command has a text: never those of other tests."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if named in (path / "cmdline").read_bytes() and f"PPid:\t{parent}\n" in (path / "status").read_text():
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of one name in the text format that carry the labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted))


def _tells_of_a_bug(line: str) -> bool:
    """Whether a line of the log is of an error that nobody foresaw: of a border of ours, of asyncio, of uvicorn."""
    return '"severity":"error"' in line and '"event":"message"' in line


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Keep a process from running for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Proxy:
    """A Unix-socket proxy in front of a server that holds every reply back for delay_s."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path, self._target = path, target
        self.delay_s = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_open = threading.Event()

    def __enter__(self) -> "Proxy":
        self._thread.start()
        assert self._is_open.wait(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_unix_server(self._accept, str(self._path))
        self._is_open.set()
        await self._done.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:  # of those that were to be closed later, too
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(str(self._target))
        self._writers |= {writer, there_writer}
        for source, sink, is_reply in ((reader, there_writer, False), (there_reader, writer, True)):
            task = asyncio.create_task(self._pump(source, sink, is_reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_reply: bool) -> None:
        """Pass chunks on, each delay_s after it came: like a long way, not like a slow server."""
        due = self._loop.time()
        try:
            while chunk := await source.read(65536):
                # strictly later than the chunk before: the loop does not keep the order of equal times
                due = max(due + 1e-6, self._loop.time() + (self.delay_s if is_reply else 0.0))
                self._loop.call_at(due, sink.write, chunk)
        except (ConnectionError, OSError):
            pass
        finally:
            self._loop.call_at(due + 1e-6, sink.close)
