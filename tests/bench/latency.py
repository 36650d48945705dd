"""Latency of /recommend at one client, against a null FastAPI handler in the same run, interleaved.

    python tests/bench/latency.py --bundle DIR --histories prepared/histories.jsonl.gz
    python tests/bench/latency.py --url http://127.0.0.1:8000 --users users.txt

With --bundle it starts a service of its own (embedded server, fresh directory) and imports the histories. Both are
asked in turn over kept-alive connections, so that what else the machine does falls on both. Two passes: `first` asks
each user once (no cached embedding), `again` asks them once more. Prints a table, and JSON on the last line.
"""

import argparse
import gzip
import http.client
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

NULL_APP = """
import asyncio, socket, sys, uvicorn
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


def main() -> None:
    """Run the benchmark."""
    arguments = parse_arguments()
    users = read_users(arguments)
    random.Random(0).shuffle(users)
    users = users[: arguments.requests]
    with ExitStack() as stack:
        service = arguments.url or stack.enter_context(started_service(arguments.bundle, arguments.histories))
        null = stack.enter_context(started_null())
        measure(service, null, [f"nobody-{n}" for n in range(200)], arguments.k)  # warm up, on users of no history
        passes = {name: measure(service, null, users, arguments.k) for name in ("first", "again")}
    report(passes, arguments)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="start a service on this bundle")
    parser.add_argument("--histories", type=Path, help="what to import (prepared/histories.jsonl.gz)")
    parser.add_argument("--url", help="measure a running service instead")
    parser.add_argument("--users", type=Path, help="one user id a line; default: the users of --histories")
    parser.add_argument("--requests", type=int, default=3000, help="requests a pass (default 3000)")
    parser.add_argument("-k", type=int, default=10, help="items asked for (default 10)")
    arguments = parser.parse_args()
    if bool(arguments.url) == bool(arguments.bundle) or not (arguments.users or arguments.histories):
        parser.error("give --bundle and --histories, or --url and --users")
    return arguments


def read_users(arguments: argparse.Namespace) -> list[str]:
    """The users to ask for."""
    if arguments.users:
        return arguments.users.read_text().split("\n")[:-1]
    opener = gzip.open if arguments.histories.suffix == ".gz" else open
    with opener(arguments.histories, "rt", encoding="utf-8") as file:
        return list(dict.fromkeys(str(json.loads(line)["user_id"]) for line in file))


@contextmanager
def started_service(bundle: Path, histories: Path | None) -> Iterator[str]:
    """A service of our own; yields its URL."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "service"]
        if histories:
            subprocess.run(
                [*command, "import", str(histories), "--data-dir", data], check=True, stderr=subprocess.DEVNULL
            )
        process = subprocess.Popen(
            [*command, "--bundle", str(bundle), "--port", "0", "--data-dir", data], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        url = next(fields["url"] for fields in map(json.loads, process.stderr) if fields["event"] == "listening")
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield url
        finally:
            process.terminate()
            process.wait()
            drain.wait()


@contextmanager
def started_null() -> Iterator[str]:
    """A FastAPI handler that does nothing; yields its URL."""
    process = subprocess.Popen([sys.executable, "-c", NULL_APP], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    while True:
        try:
            ask(connect(url), "/null", b"{}")
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    try:
        yield url
    finally:
        process.terminate()
        process.wait()


def connect(url: str) -> http.client.HTTPConnection:
    """A kept-alive connection."""
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=10)


def ask(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[float, bytes]:
    """Return (milliseconds until the whole answer is here, the answer)."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("RETORT_BENCH_KEY"):
        headers["X-API-Key"] = key
    start = time.perf_counter()
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    took_ms = (time.perf_counter() - start) * 1000
    assert response.status == 200, answer
    return took_ms, answer


def measure(service: str, null: str, users: list[str], k: int) -> dict[str, object]:
    """Ask the service and the null handler in turn."""
    there, nowhere = connect(service), connect(null)
    took: dict[str, list[float]] = {"recommend": [], "null": [], "own": []}
    levels: Counter[str] = Counter()
    for user in users:
        body = json.dumps({"user_id": user, "k": k}).encode()
        took_ms, answer = ask(there, "/recommend", body)
        fields = json.loads(answer)
        levels[fields["quality"]["level"]] += 1
        took["recommend"].append(took_ms)
        took["own"].append(fields["took_ms"])
        took["null"].append(ask(nowhere, "/null", body)[0])
    return {"levels": dict(levels), "n": len(users), **{name: percentiles(times) for name, times in took.items()}}


def percentiles(times: list[float]) -> dict[str, float]:
    """p50, p90, p99, p99.9 and the greatest, in milliseconds."""
    ordered = sorted(times)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3) for name, share in shares.items()
    } | {"max": round(ordered[-1], 3)}


def report(passes: dict[str, dict[str, object]], arguments: argparse.Namespace) -> None:
    """Print the table, and JSON on the last line."""
    names = {"recommend": "/recommend", "own": "  of it took_ms", "null": "null handler"}
    print(f"{'ms, one client':<22}{'p50':>8}{'p90':>8}{'p99':>8}{'p99.9':>8}{'max':>8}")
    for which, result in passes.items():
        for key, label in names.items():
            row = result[key]
            assert isinstance(row, dict)
            print(f"{which + ' ' + label:<22}" + "".join(f"{value:>8.2f}" for value in row.values()))
        print(f"{which}: {result['n']} requests, levels {result['levels']}")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(json.dumps({"machine": machine, "k": arguments.k, **passes}))


if __name__ == "__main__":
    main()
