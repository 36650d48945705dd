"""What callers who mean harm cost an honest one.

    python tests/bench/attack.py --bundle DIR [--turns 5] [--seconds 4] [--only metrics,bodies]

One honest caller with a key of its own asks for recommendations over one connection, 50 times a second. Quiet turns and
turns of each attack alternate, and of each kind the median of the turns' p95 counts. Attackers come from the same
machine, with as many connections as the attack has; they share one core with the honest caller, who goes before them,
and the service has the other. Bars: p95 during an attack under 2 times that of the quiet turns, and memory at the end
of all under 1.5 times that before. JSON on the last line; exits with 1 if a bar is missed.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from rig import connect, machine, pinned, started_process

HONEST, OTHER = "honest-caller-key-0001", "other-caller-key-0002"
SERVER_CORE, CALLER_CORE = "0", "1"
RATE_PER_S = 50
Attack = Callable[[socket.socket], None]


def head(method: str, path: str, *more: str, key: str | None = OTHER) -> bytes:
    """Return the head of a request."""
    own = [f"X-API-Key: {key}"] if key else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *own, *more, "", ""]).encode()


def post(path: str, body: bytes, *more: str, key: str | None = OTHER) -> bytes:
    """Return a whole request with a body."""
    return head("POST", path, "Content-Type: application/json", f"Content-Length: {len(body)}", *more, key=key) + body


def repeat(request: bytes) -> Attack:
    """Send a request again and again, each once the one before is answered."""

    def attack(connection: socket.socket) -> None:
        connection.sendall(request)
        connection.recv(1 << 20)

    return attack


def flood(data: bytes) -> Attack:
    """Send bytes as fast as they are taken."""
    return lambda connection: connection.sendall(data)


def trickle(first: bytes, piece: bytes) -> Attack:
    """Send the beginning of a request and then a few bytes a second."""
    begun = threading.local()

    def attack(connection: socket.socket) -> None:
        if getattr(begun, "at", None) is not connection:
            begun.at = connection
            connection.sendall(first)
        connection.sendall(piece)
        time.sleep(0.2)

    return attack


EVENTS = json.dumps({"events": [{"user_id": f"a{n}", "item_id": "i1", "event_id": str(n)} for n in range(1000)]})
ATTACKS: dict[str, tuple[int, Attack]] = {
    "metrics": (16, repeat(head("GET", "/metrics"))),
    "docs": (16, repeat(head("GET", "/docs"))),
    "unknown paths": (16, repeat(head("GET", "/x" * 400))),
    "wrong keys": (16, repeat(post("/recommend", b'{"user_id":"u"}', key="wrong"))),
    "recommend": (16, repeat(post("/recommend", b'{"user_id":"u","k":200,"budget_ms":1000}'))),
    "batches of events": (4, repeat(post("/events", EVENTS.encode()))),
    "bodies that are wrong": (16, repeat(post("/recommend", b'{"' + b"a" * 900_000 + b'":1}'))),
    "deep bodies": (16, repeat(post("/events", b"[" * 900_000))),
    "erasures": (8, repeat(head("DELETE", "/users/nobody"))),
    "pipelining": (40, flood(head("GET", "/x", key=None) * 500)),
    "header lines": (16, flood(head("GET", "/x")[:-2] + b"X: y\r\n" * 20_000)),
    "one long header": (16, flood(head("GET", "/x")[:-2] + b"X: " + b"y" * 200_000)),
    "slow heads": (200, trickle(head("GET", "/x")[:-2], b"X: y\r\n")),
    "unfinished bodies": (260, trickle(post("/recommend", b"")[:-4] + b"\r\nX: y\r\n\r\n", b"")),
    "slow bodies": (
        200, trickle(head("POST", "/recommend", "Content-Type: application/json", "Content-Length: 100000"), b" "),
    ),
    "connections": (64, lambda connection: connection.close()),
    "upgrades": (16, repeat(post("/recommend", b'{"user_id":"u"}', "Connection: Upgrade", "Upgrade: h2c"))),
    "chunks": (16, flood(head("POST", "/recommend", "Transfer-Encoding: chunked") + b"1\r\n \r\n" * 20_000)),
}  # fmt: skip
"""Of each attack: how many connections it has, and what each does again and again."""


def main() -> int:
    """Run the benchmark, or one attacker of it."""
    arguments = parse_arguments()
    if arguments.attacker:
        return attack(arguments.url, arguments.attacker, arguments.seconds)
    names = arguments.only.split(",") if arguments.only else list(ATTACKS)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, pid = stack.enter_context(
            started_process(
                arguments.bundle, cores=SERVER_CORE, api_keys=f"{HONEST},{OTHER}", data_dir=str(directory / "data"),
                log_requests="0",
            )
        )  # fmt: skip
        measure(url, 2.0)
        before = resident_bytes(pid)
        quiet: list[float] = []
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(arguments.turns):
            for name in names:
                quiet.append(measure(url, arguments.seconds / 2))
                found[name].append(under_attack(url, name, arguments.seconds))
                print(f"{name:24} quiet {quiet[-1]:7.2f}  under attack {found[name][-1]:7.2f}", flush=True)
        grown = resident_bytes(pid) / before
    usual = statistics.median(quiet)
    ratios = {name: round(statistics.median(times) / usual, 2) for name, times in found.items()}
    missed = [name for name, ratio in ratios.items() if ratio >= 2] + (["memory"] if grown >= 1.5 else [])
    print(json.dumps({**machine(), "quiet_p95_ms": round(usual, 3), "ratio": ratios, "memory": round(grown, 2),
                      "missed": missed}))  # fmt: skip
    return 1 if missed else 0


def under_attack(url: str, name: str, seconds: float) -> float:
    """Return the honest caller's p95 in ms while the attack goes on."""
    command = [sys.executable, __file__, "--url", url, "--attacker", name, "--seconds", str(seconds + 1)]
    attacker = subprocess.Popen([*pinned(CALLER_CORE), "nice", "-n", "15", *command])
    time.sleep(1.0)
    try:
        return measure(url, seconds)
    finally:
        attacker.kill()
        attacker.wait()


def attack(url: str, name: str, seconds: float) -> int:
    """Attack, with a thread for each connection; one that is closed is opened again."""
    n_connections, do = ATTACKS[name]
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=keep_attacking, args=(url, do, end), daemon=True) for _ in range(n_connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return 0


def keep_attacking(url: str, do: Attack, end: float) -> None:
    """Do it again and again until the end."""
    address = (urlsplit(url).hostname, urlsplit(url).port)
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as connection:
            while time.monotonic() < end and connection.fileno() >= 0:
                do(connection)


def measure(url: str, seconds: float) -> float:
    """Ask as the honest caller; return the p95 in ms. Raises AssertionError where an answer is missing."""
    os.environ["RETORT_BENCH_KEY"] = HONEST
    times = []
    connection = connect(url)
    body = b'{"user_id":"honest","k":10}'
    headers = {"Content-Type": "application/json", "X-API-Key": HONEST}
    start = time.perf_counter()
    for number in range(round(seconds * RATE_PER_S)):
        due = start + number / RATE_PER_S
        time.sleep(max(0.0, due - time.perf_counter()))
        asked = time.perf_counter()
        try:
            connection.request("POST", "/recommend", body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status
        except OSError:
            connection = connect(url)
            times.append(30_000.0)
            continue
        times.append((time.perf_counter() - asked) * 1000)
    connection.close()
    return statistics.quantiles(times, n=20)[-1]


def resident_bytes(pid: int) -> int:
    """Return the memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="what to serve")
    parser.add_argument("--turns", type=int, default=5, help="how often each attack is made")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long one takes")
    parser.add_argument("--only", default="", help="the attacks to make, separated by commas")
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--attacker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
