"""What a service does at 5 times its highest rate: how many good answers, how quick they and the refusals are.

    python tests/bench/overload.py --bundle DIR [--items 20000] [--factor 5] [--seconds 10]

The peak is what wrk gets at 64 connections. Then wrk offers `factor` times that: its connections are so many, and each
waits so long between its requests, that the offered rate does not depend on the answers (until all of them wait). wrk
does not tell good answers from refusals, so a client of this benchmark's own asks meanwhile and keeps its times; the
counts are the service's. Bars: goodput >= 0.8 of the peak's, p99 of accepted <= budget + G, refusals <= 20 ms, memory
flat, /livez <= 100 ms, back to normal within 5 s. JSON on the last line; exits with 1 if a bar is missed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import throughput
from rig import NULL_APP, ask, connect, machine, percentiles, pinned, started_app

BUDGET_MS = 50
CONNECTIONS = 1000
PACED = """
delay = function() return DELAY end
"""


class Probe(threading.Thread):
    """Asks one path again and again, in a thread. seen: (status, milliseconds) of each answer."""

    def __init__(self, url: str, path: str, body: bytes | None) -> None:
        super().__init__()
        self._url, self._path, self._body = url, path, body
        self._is_over = threading.Event()
        self.seen: list[tuple[int, float]] = []

    def run(self) -> None:
        """Ask every 5 milliseconds until stop()."""
        connection = connect(self._url)
        while not self._is_over.wait(0.005):
            if self._body is None:
                start = time.perf_counter()
                connection.request("GET", self._path)
                response = connection.getresponse()
                response.read()
                self.seen.append((response.status, (time.perf_counter() - start) * 1000))
            else:
                took_ms, status, _ = ask(connection, self._path, self._body)
                self.seen.append((status, took_ms))

    def stop(self) -> list[tuple[int, float]]:
        """End the thread and return what was seen."""
        self._is_over.set()
        self.join()
        return self.seen


def main() -> int:
    """Run the benchmark."""
    arguments = parse_arguments()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = throughput.write_script(directory)
        null = stack.enter_context(started_app(NULL_APP, cores=throughput.SERVER_CORE))
        url = throughput.start(arguments.bundle, arguments.items, directory / "world", stack)
        throughput.ask(url, script, connections=64, seconds=3)
        grace_ms = percentiles([took for _, took in probe(null, "/null", b"{}", 3)])["p99"]
        calm = observe(url, script, 64, arguments.seconds)
        delay_ms = 1000 * CONNECTIONS / (arguments.factor * calm["goodput_per_s"])
        paced = directory / "paced.lua"
        paced.write_text(script.read_text() + PACED.replace("DELAY", f"{delay_ms:.3f}"))
        storm = observe(url, paced, CONNECTIONS, arguments.seconds)
        time.sleep(5)
        after = percentiles([took for _, took in probe(url, "/recommend", b'{"user_id": "user-1"}', 3)])
    return report({"peak": calm, "storm": storm, "after": after, "grace_ms": grace_ms}, arguments)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--factor", type=float, default=5)
    parser.add_argument("--seconds", type=int, default=10)
    return parser.parse_args()


def probe(url: str, path: str, body: bytes | None, seconds: float) -> list[tuple[int, float]]:
    """Ask one path for some seconds; return (status, milliseconds) of each answer."""
    thread = Probe(url, path, body)
    thread.start()
    time.sleep(seconds)
    return thread.stop()


def observe(url: str, script: Path, connections: int, seconds: int) -> dict[str, object]:
    """Let wrk ask for some seconds, probe meanwhile, and return the figures."""
    before = read_counts(url)
    probes = [Probe(url, "/recommend", b'{"user_id": "user-1"}'), Probe(url, "/livez", None)]
    for thread in probes:
        thread.start()
    start = time.monotonic()
    command = [*pinned(throughput.LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, url]
    said = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    lost = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    elapsed = time.monotonic() - start
    answers, alive = (thread.stop() for thread in probes)
    after = read_counts(url)
    counts = {name: after[name] - before[name] for name in after}
    good = [took for status, took in answers if status == 200] or [float("inf")]
    refused = [took for status, took in answers if status == 503]
    return {
        "goodput_per_s": round(counts["within"] / elapsed), "full_per_s": round(counts["full"] / elapsed),
        "refused_per_s": round(counts["refused"] / elapsed), "accepted": percentiles(good),
        "socket_errors": sum(map(int, lost.groups())) if lost else 0,
        "refusals": percentiles(refused) if refused else None, "livez": percentiles([took for _, took in alive]),
        "memory_mb": round(after["memory"] / 1e6), "memory_growth": round(after["memory"] / before["memory"], 3),
    }  # fmt: skip


def read_counts(url: str) -> dict[str, float]:
    """Return what the service has counted so far."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()

    def total(pattern: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{pattern} ([\d.e+]+)$", text, flags=re.MULTILINE))

    return {
        "within": total(r'retort_within_budget_total\{within="yes"\}'),
        "full": total(r'retort_recommendations_total\{level="full",[^}]*\}'),
        "refused": total(r"retort_shed_total\{[^}]*\}"),
        "memory": total("retort_resident_memory_bytes"),
    }


def report(found: dict, arguments: argparse.Namespace) -> int:
    """Print the table, and JSON on the last line; return the exit code."""
    for name in ("peak", "storm"):
        row = found[name]
        print(
            f"{name}: {row['goodput_per_s']} good/s ({row['full_per_s']} full), {row['refused_per_s']} refused/s, "
            f"{row['socket_errors']} socket errors"
        )
        for what in ("accepted", "refusals", "livez"):
            print(f"  {what:<9} ms {row[what]}")
        print(f"  memory {row['memory_mb']} MB, x {row['memory_growth']}")
    print(f"5 s later, one client: {found['after']}; G, the null handler's p99: {found['grace_ms']:.2f} ms")
    peak, storm = found["peak"], found["storm"]
    bars = {
        "goodput": storm["goodput_per_s"] >= 0.8 * peak["goodput_per_s"],
        "accepted": storm["accepted"]["p99"] <= BUDGET_MS + found["grace_ms"],
        "refusals": storm["refusals"] is None or storm["refusals"]["p99"] <= 20,
        "livez": storm["livez"]["max"] <= 100,
        "socket errors": storm["socket_errors"] == 0,
        "memory": storm["memory_growth"] <= 1.2,
        "after": found["after"]["p99"] <= BUDGET_MS,
    }
    missed = [name for name, is_met in bars.items() if not is_met]
    print(f"bars missed: {missed}" if missed else "every bar met")
    print(json.dumps({**machine(), "items": arguments.items, "factor": arguments.factor, "missed": missed, **found}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
