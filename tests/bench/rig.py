"""What the benchmarks share: a store, a service and other apps as processes, a blocking client, percentiles."""

import gzip
import http.client
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import redis

from service.bench.load import SHARES, percentile
from service.store.server import find_server

NULL_SOURCE = """
import socket, uvicorn
from fastapi import FastAPI, Request, Response
off = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
app = FastAPI(telemetry=off)
@app.post("/null")
async def null(request: Request) -> Response:
    await request.body()
    return Response(b"{}", media_type="application/json")
listener = socket.socket(); listener.bind(("127.0.0.1", 0))
print("http://127.0.0.1:%d" % listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])
"""
NULL_APP = [sys.executable, "-c", NULL_SOURCE]


class StoreProcess:
    """A real store that a benchmark may stop, kill and start again: append-only, on a Unix socket."""

    def __init__(self, directory: Path, cores: str | None = None) -> None:
        """directory: of its file and its socket. cores: the processor cores it may use, such as "0,1"."""
        self._directory = directory
        self._cores = cores
        self.socket = directory / "store.sock"

    @property
    def url(self) -> str:
        """The value for RETORT_REDIS_URL."""
        return f"unix://{self.socket}"

    def __enter__(self) -> "StoreProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGCONT)
        self._process.terminate()
        self._process.wait()

    def start(self) -> None:
        """Start the process and wait for its first answer."""
        options = {"port": "0", "unixsocket": str(self.socket), "dir": str(self._directory), "appendonly": "yes",
                   "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [*pinned(self._cores), str(find_server()), *arguments], stdout=subprocess.DEVNULL
        )
        while not self._answers():
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process (SIGKILL) and wait for its end."""
        self._process.kill()
        self._process.wait()

    def client(self) -> redis.Redis:
        """Return a client."""
        return redis.Redis(unix_socket_path=str(self.socket), protocol=2)

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False


@contextmanager
def started_service(bundle: Path, *, cores: str | None = None, **environment: str) -> Iterator[str]:
    """Start a service; yield its URL. environment: settings, such as redis_url for RETORT_REDIS_URL."""
    with started_process(bundle, cores=cores, **environment) as (url, _):
        yield url


@contextmanager
def started_process(
    bundle: Path, *arguments: str, cores: str | None = None, cwd: Path | None = None, **environment: str
) -> Iterator[tuple[str, int]]:
    """Start a service with more arguments; yield its URL and process id. cwd: of the checkout that is started."""
    process = subprocess.Popen(
        [*pinned(cores), sys.executable, "-m", "service", "--bundle", str(bundle), "--port", "0", *arguments],
        stderr=subprocess.PIPE, text=True, cwd=cwd, env=service_environment(environment),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        url = next((line["url"] for line in map(json.loads, process.stderr) if line["event"] == "listening"), None)
        assert url is not None, "the service did not start"
        threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def import_histories(histories: Path, **environment: str) -> None:
    """Import a file of events into the store that the settings name."""
    subprocess.run(
        [sys.executable, "-m", "service", "import", str(histories)],
        check=True, stderr=subprocess.DEVNULL, env=service_environment(environment),
    )  # fmt: skip


@contextmanager
def started_app(command: list[str], *, cores: str | None = None) -> Iterator[str]:
    """Start a program that prints its URL and then serves; yield the URL once it can be connected to."""
    process = subprocess.Popen([*pinned(cores), *command], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        while not _listens(url):
            time.sleep(0.05)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that outlive their parent


def service_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process and the settings, as RETORT_ variables."""
    return {**os.environ, **{f"RETORT_{name.upper()}": value for name, value in settings.items()}}


def pinned(cores: str | None) -> list[str]:
    """Return what to put before a command that may use only these cores."""
    return ["taskset", "-c", cores] if cores else []


def connect(url: str) -> http.client.HTTPConnection:
    """Return a connection that is kept alive."""
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=30)


def ask(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[float, int, bytes]:
    """Post a body; return the milliseconds until the whole answer was here, its status and its body."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("RETORT_BENCH_KEY"):
        headers["X-API-Key"] = key
    start = time.perf_counter()
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    return (time.perf_counter() - start) * 1000, response.status, answer


def read_histories(path: Path) -> dict[str, list[dict[str, object]]]:
    """Return the events of every user, in the order of the file."""
    histories: dict[str, list[dict[str, object]]] = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for event in map(json.loads, file):
            histories.setdefault(str(event["user_id"]), []).append(event)
    return histories


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99, p99_9 and max of some times, of which there must be one at least."""
    found = {name: round(percentile(times, share), 3) for name, share in SHARES.items()}
    return {**found, "max": round(max(times), 3)}


def machine() -> dict[str, str]:
    """Return the machine and the commit of a measurement."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "commit": commit.stdout.strip(),
    }


def _listens(url: str) -> bool:
    try:
        with closing(connect(url)) as connection:
            connection.connect()
    except ConnectionRefusedError:
        return False
    return True
