"""What swapping the model costs the requests that are answered meanwhile.

    python tests/bench/swaps.py --bundle DIR [--items 20000] [--swaps 100] [--rate 0]

Three versions of a catalogue lie in a real store and become live in turn, so that every swap is a whole one: fetch,
trial, load, golden answers, warm-up, swap, drain. Half of each version's items are its own, so an answer that mixes
versions shows. wrk asks at half the peak rate (or --rate) and looks at every answer; beside it one client asks /livez
every few milliseconds, which is how the stall of the event loop is seen from outside, and memory is read after 10 swaps
and at the end. The same is measured before, without swaps. The service has one core, wrk and the store the other, and
the trials run on the service's. Bars: no failed answer (a refusal is one), no mixed one, p99 <= budget + G (from when a
request was sent), as many swaps as asked for, memory at the end <= 1.1 x that after 10, no stall of the loop of
250 ms. JSON on the last line; exits with 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import throughput
from overload import BUDGET_MS, Probe, probe
from rig import NULL_APP, machine, percentiles, pinned, started_app

from service.release.published import PublishedVersions
from service.store.breaker import Breaker
from service.store.client import Store

OWN = ("va", "vb", "vc")
CONNECTIONS = 32
CHECK = """
local version_of, mixed, failed, seen = {VERSIONS}, 0, 0, 0
delay = function() return DELAY end
setup = function(thread) main = thread end
response = function(status, headers, body)
  seen = seen + 1
  if status ~= 200 then failed = failed + 1 return end
  local own = version_of[body:match('"model_version":"(%x+)"')]
  for prefix in body:gmatch('"item_id":"(v%a)%-') do
    if prefix ~= own then mixed = mixed + 1 break end
  end
  counts = seen .. " " .. failed .. " " .. mixed
end
done = function() print("counts " .. main:get("counts")) end
"""


def main() -> int:
    """Run the benchmark."""
    arguments = parse_arguments()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        null = stack.enter_context(started_app(NULL_APP, cores=throughput.SERVER_CORE))
        grace_ms = percentiles([took for _, took in probe(null, "/null", b"{}", 3)])["p99"]
        url = throughput.start(
            arguments.bundle, arguments.items, directory / "world", stack,
            admin_key="", allow_anonymous="0", data_dir=str(directory / "data"), log_requests="0",
        )  # fmt: skip
        versions = publish_all(arguments, directory, f"unix://{directory}/world/store.sock")
        script = throughput.write_script(directory)
        throughput.ask(url, script, connections=16, seconds=3)
        rate = arguments.rate or throughput.ask(url, script, connections=16, seconds=4)["per_s"] / 2
        paced = directory / "paced.lua"
        listed = ", ".join(f'["{version}"]="{own}"' for own, version in versions.items())
        delay_ms = f"{1000 * CONNECTIONS / rate:.3f}"
        paced.write_text(script.read_text() + CHECK.replace("VERSIONS", listed).replace("DELAY", delay_ms))
        calm = observe(url, paced, lambda: time.sleep(arguments.calm_s))
        swapper = Swapper(
            url, f"unix://{directory}/world/store.sock", list(versions.values()), arguments.swaps, arguments.most_s
        )
        swapping = observe(url, paced, swapper.run)
    return report({"calm": calm, "swapping": swapping, "swaps": swapper.found(), "grace_ms": grace_ms}, arguments)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--rate", type=float, default=0, help="requests a second; 0: half of what wrk gets")
    parser.add_argument("--most-s", type=float, default=600, help="seconds after which no swap is begun")
    parser.add_argument("--calm-s", type=float, default=20, help="seconds without swaps, to compare with")
    return parser.parse_args()


def with_published(url: str, work):
    """Do something with the versions published in a store."""

    async def do():
        store = Store(url, max_connections=4, slow_s=5.0, breaker=Breaker())
        try:
            return await work(PublishedVersions(store, "retort"))
        finally:
            await store.close()

    return asyncio.run(do())


def publish_all(arguments: argparse.Namespace, directory: Path, store_url: str) -> dict[str, str]:
    """Upload three versions into the store; return each one's version by the prefix of its own item ids."""
    versions = {}
    for seed, own in enumerate(OWN, start=1):
        throughput.draw_bundle(arguments.bundle, arguments.items, directory / own, seed=seed, own=own)
        versions[own] = with_published(store_url, lambda published, own=own: published.upload(directory / own)).version
    return versions


class Swapper:
    """Makes versions live in turn, each as soon as the one before is served."""

    def __init__(self, url: str, store_url: str, versions: list[str], n_swaps: int, most_s: float) -> None:
        self._url, self._store_url, self._versions = url, store_url, versions
        self._n_swaps, self._most_s = n_swaps, most_s
        self._took_s: list[float] = []
        self._memory: list[float] = []

    def run(self) -> None:
        """Swap so often."""
        with_published(self._store_url, self._run)

    async def _run(self, published: PublishedVersions) -> None:
        end = time.monotonic() + self._most_s
        for number in range(self._n_swaps):
            if time.monotonic() > end:
                return
            version = self._versions[number % len(self._versions)]
            start = time.monotonic()
            await published.activate(version)
            while await asyncio.to_thread(served, self._url) != version:
                await asyncio.sleep(0.02)
            self._took_s.append(time.monotonic() - start)
            await asyncio.sleep(0.1)
            self._memory.append(read_metric(self._url, "retort_resident_memory_bytes"))
            if (number + 1) % 10 == 0:
                print(f"{number + 1} swaps, {self._memory[-1] / 1e6:.0f} MB", file=sys.stderr, flush=True)

    def found(self) -> dict[str, object]:
        """Return how long the swaps took, and the memory of the service after ten and after all."""
        tenth = self._memory[min(9, len(self._memory) - 1)]
        return {
            "n": len(self._took_s), "took_s": percentiles(self._took_s), "memory_after_10_mb": round(tenth / 1e6, 1),
            "memory_after_all_mb": round(self._memory[-1] / 1e6, 1), "growth": round(self._memory[-1] / tenth, 3),
        }  # fmt: skip


def served(url: str) -> str:
    """Return the version that is served."""
    with urllib.request.urlopen(f"{url}/readyz") as response:
        return json.load(response)["model_version"]


def read_metric(url: str, name: str) -> float:
    """Return the value of a metric that has no labels."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        found = re.search(rf"^{name} ([\d.e+]+)$", response.read().decode(), flags=re.MULTILINE)
    assert found is not None
    return float(found[1])


def observe(url: str, script: Path, work) -> dict[str, object]:
    """Let wrk and a probe ask while work() runs; return what they saw."""
    lag_before = read_lag(url)
    livez = Probe(url, "/livez", None)
    command = [*pinned(throughput.LOAD_CORE), "wrk", "-t1", f"-c{CONNECTIONS}", "-d3600s", "--latency", "-s", script]
    wrk = subprocess.Popen([*map(str, command), url], stdout=subprocess.PIPE, text=True)
    livez.start()
    started = time.monotonic()
    try:
        work()
    finally:
        elapsed = time.monotonic() - started
        wrk.send_signal(2)
        text = wrk.communicate()[0]
        alive = livez.stop()
    n_seen, n_failed, n_mixed = map(int, re.search(r"counts (\d+) (\d+) (\d+)", text).groups())
    late = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    lag = {edge: count - lag_before[edge] for edge, count in read_lag(url).items()}
    return {
        "seconds": round(elapsed, 1), "answers": n_seen, "per_s": round(n_seen / elapsed),
        "failed": n_failed + (sum(map(int, late.groups())) if late else 0), "mixed": n_mixed,
        "p50_ms": wrk_percentile(text, 50), "p99_ms": wrk_percentile(text, 99),
        "livez": percentiles([took for _, took in alive]),
        "lag_over_50_ms": round(1 - lag["0.05"] / max(1, lag["+Inf"]), 5),
        "lag_over_250_ms": round(1 - lag["0.25"] / max(1, lag["+Inf"]), 5),
    }  # fmt: skip


def wrk_percentile(text: str, share: int) -> float:
    """Return a percentile from wrk's output, in milliseconds."""
    number, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def read_lag(url: str) -> dict[str, float]:
    """Return the buckets of the event loop's lag: upper bound to count."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    return {
        e: float(n) for e, n in re.findall(r'retort_event_loop_lag_seconds_bucket\{le="([^"]+)"\} ([\d.e+]+)', text)
    }


def report(found: dict, arguments: argparse.Namespace) -> int:
    """Print the table, and JSON on the last line; return the exit code."""
    for name in ("calm", "swapping"):
        print(f"{name}: {found[name]}")
    print(f"swaps: {found['swaps']}; G, the null handler's p99: {found['grace_ms']:.2f} ms")
    swapping, swaps = found["swapping"], found["swaps"]
    bars = {
        "failed": swapping["failed"] == 0,
        "mixed": swapping["mixed"] == 0,
        "p99": swapping["p99_ms"] <= BUDGET_MS + found["grace_ms"],
        "swaps": swaps["n"] == arguments.swaps,
        "memory": swaps["n"] > 10 and swaps["growth"] <= 1.1,  # of so few it says nothing
        "stall": swapping["lag_over_250_ms"] == 0,
    }
    missed = [name for name, is_met in bars.items() if not is_met]
    print(f"bars missed: {missed}" if missed else "every bar met")
    print(json.dumps({**machine(), "items": arguments.items, "missed": missed, **found}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
