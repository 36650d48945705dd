"""What callers of /recommend see while the store is stopped, killed, flapping, slow or full, at half of the peak rate.

    python tests/bench/faults.py --bundle DIR [--histories prepared/histories.jsonl.gz] [--only stop kill]

20,000 items drawn from a fit to the bundle's table, 2,000 users of 50 events each in a store of this benchmark's own
(see throughput). Requests arrive as a Poisson process, and latency counts from when each was due. The service has one
core, load and store the other. A null FastAPI handler on the service's core is asked meanwhile, so that G, its p99,
says what the machine added. Bars, of every phase: no 5xx, p99.9 <= budget + G, nothing over budget + 50 ms, `full`
again within 5 s of the end of the fault, no answer with another user's items (each user's own were read before, in
calm; 20,000 answers looked at in all), never more connections to the store than may be. With --histories, real
users' histories go through POST /events first, and the answers are compared with those for the same histories inline.
Prints a table, and JSON on the last line; exits with 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import throughput
from redis import RedisError
from rig import NULL_APP, StoreProcess, ask, connect, machine, percentiles, read_histories, started_app, started_service

from service.bench.client import Target
from service.bench.load import Load

BUDGET_MS = 50
SLACK_MS = 50
RECOVERY_S = 5
TAIL_S = 5
EVENT_USERS = 200
INLINE_MAX = 200
NULL_RATE = 50
LEAST_CHECKED = 20_000
MOST_CONNECTIONS = 32 + 2 + 1  # RETORT_STORE_CONNECTIONS, redis-py's own two, and the reads' one
SAME = 0.8  # share of a list that may not be another user's: near-equal scores may change places
_ITEM = re.compile(rb'"item_id":"([^"]+)"')
_LEVEL = re.compile(rb'"level":"(\w+)"')


@dataclass
class Phase:
    """What was seen in one phase.

    expected: the items of each user while nothing was wrong. ended: when the fault was over, in monotonic seconds.
    strangers: answers with another user's items.
    """

    expected: dict[bytes, frozenset[bytes]]
    ended: float | None = None
    took_ms: list[float] = field(default_factory=list)
    null_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    answers: list[tuple[float, str]] = field(default_factory=list)
    checked: int = 0
    strangers: int = 0
    connections: int = 0

    def take(self, request: bytes, status: int, body: bytes) -> None:
        """Check one answer, and count it."""
        if status != 200:
            return
        level = _LEVEL.search(body)
        assert level is not None, body
        self.answers.append((time.monotonic(), level[1].decode()))
        if level[1] != b"fallback":
            own = self.expected[request]
            self.checked += 1
            self.strangers += len(own.intersection(_ITEM.findall(body))) < SAME * len(own)

    @property
    def full_after_s(self) -> float | None:
        """Seconds from the end of the fault to the first answer from which on 99 % are full."""
        if self.ended is None:
            return None
        after = [(at, level) for at, level in self.answers if at >= self.ended]
        n_worse = sum(level != "full" for _, level in after)
        for place, (at, level) in enumerate(after):
            if level == "full" and n_worse <= 0.01 * (len(after) - place):
                return round(at - self.ended, 2)
            n_worse -= level != "full"
        return None

    def summary(self, grace_ms: float) -> dict[str, object]:
        """Return the figures, and the bars that were missed."""
        took = percentiles(self.took_ms)
        recovered = self.ended is None or (self.full_after_s is not None and self.full_after_s <= RECOVERY_S)
        bars = {"5xx": not self.errors, "p99.9": took["p99_9"] <= BUDGET_MS + grace_ms,
                "max": took["max"] <= BUDGET_MS + SLACK_MS, "full again": recovered,
                "strangers": self.strangers == 0, "connections": self.connections <= MOST_CONNECTIONS}  # fmt: skip
        return {
            "n": len(self.took_ms), "errors": dict(self.errors), **took,
            "levels": dict(Counter(level for _, level in self.answers)), "full_after_s": self.full_after_s,
            "checked": self.checked, "strangers": self.strangers, "connections": self.connections,
            "null": percentiles(self.null_ms), "missed": [name for name, is_met in bars.items() if not is_met],
        }  # fmt: skip


def calm(store: StoreProcess) -> None:
    """Let nothing happen."""
    time.sleep(5)


def stop(store: StoreProcess) -> None:
    """Stop the store for 10 s (SIGSTOP)."""
    store.signal(signal.SIGSTOP)
    time.sleep(10)
    store.signal(signal.SIGCONT)


def kill(store: StoreProcess) -> None:
    """Kill the store (SIGKILL), and start it again 3 s later."""
    store.kill()
    time.sleep(3)
    store.start()


def flap(store: StoreProcess) -> None:
    """Stop the store for 0.3 s of every 0.6 s, for 20 s."""
    for _ in range(33):
        store.signal(signal.SIGSTOP)
        time.sleep(0.3)
        store.signal(signal.SIGCONT)
        time.sleep(0.3)


def fill(store: StoreProcess) -> None:
    """Let the store be out of memory for 5 s; reads go on."""
    client = store.client()
    client.config_set("maxmemory", "1mb")
    time.sleep(5)
    client.config_set("maxmemory", "0")


def delay(store: StoreProcess) -> None:
    """Let every reply be late by 30 ms ± 30, for 10 s."""
    path = store.socket.with_name("delay")
    path.write_text("0.03")
    time.sleep(10)
    path.unlink()


FAULTS: dict[str, tuple[Callable[[StoreProcess], None], float]] = {
    "calm": (calm, 5), "stop": (stop, 10), "kill": (kill, 3.5), "flap": (flap, 20), "full": (fill, 5),
    "slow": (delay, 10),
}  # fmt: skip
"""What happens, and about how many seconds it takes."""


def main() -> int:
    """Run the benchmark."""
    arguments = parse_arguments()
    phases: dict[str, Phase] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = throughput.write_script(directory)
        null = stack.enter_context(started_app(NULL_APP, cores=throughput.SERVER_CORE))
        world = directory / "world"
        store = throughput.make_catalogue(arguments.bundle, arguments.items, world, stack)
        events = check_events(arguments.bundle, store, arguments.histories) if arguments.histories else {}
        os.sched_setaffinity(0, {int(throughput.LOAD_CORE)})
        proxy, rate = stack.enter_context(started_proxy(store)), arguments.rate
        for url, names in ((store.url, [n for n in FAULTS if n != "slow"]), (proxy, ["slow"])):
            chosen = [name for name in names if name in arguments.only]
            if not chosen:
                continue
            with started_service(world / "bundle", cores=throughput.SERVER_CORE, redis_url=url) as service:
                throughput.ask(service, script, connections=8, seconds=3)
                rate = rate or throughput.ask(service, script, connections=16, seconds=4)["per_s"] / 2
                expected = read_expected(service)
                for name in chosen:
                    phases[name] = Phase(expected)
                    asyncio.run(observe(service, null, rate, store, name, phases[name]))
    grace_ms = percentiles([took for phase in phases.values() for took in phase.null_ms])["p99"]
    return report({name: phase.summary(grace_ms) for name, phase in phases.items()}, grace_ms, events, rate)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--histories", type=Path, help="prepared/histories.jsonl.gz: real ones, through POST /events")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=0, help="requests a second; 0: half of what wrk gets")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="phases (default: all)")
    return parser.parse_args()


def body_of(user: int) -> bytes:
    """Return the body of the request for a user."""
    return b'{"user_id": "user-%d"}' % user


def read_expected(url: str) -> dict[bytes, frozenset[bytes]]:
    """Ask once for every user; return the items of the answer by the bytes of the request."""
    connection, target = connect(url), Target(url)
    expected = {}
    for user in range(throughput.N_USERS):
        _, status, answer = ask(connection, "/recommend", body_of(user)[:-1] + b', "budget_ms": 1000}')
        assert status == 200 and b'"full"' in answer, answer
        expected[target.post("/recommend", body_of(user))] = frozenset(_ITEM.findall(answer))
    return expected


async def observe(service: str, null: str, rate: float, store: StoreProcess, name: str, phase: Phase) -> None:
    """Send requests before, during and after one fault."""
    is_over = asyncio.Event()
    fault, fault_s = FAULTS[name]
    seconds = 1 + fault_s + (0 if fault is calm else RECOVERY_S + TAIL_S)
    nothing = Target(null)
    async with (
        Load(Target(service), list(phase.expected), n_connections=512, timeout_s=10, on_answer=phase.take) as load,
        Load(nothing, [nothing.post("/null", b"{}")], n_connections=16, timeout_s=10) as nulls,
    ):

        async def offer(each: Load, per_s: float, took_ms: list[float]) -> Counter[str]:
            step = await each.run(per_s, seconds)
            took_ms += [1000 * latency_s for latency_s in step.latencies_s]
            is_over.set()
            return step.errors

        async def go_wrong() -> None:
            await asyncio.sleep(1)
            await asyncio.to_thread(fault, store)
            if fault is not calm:
                phase.ended = time.monotonic()

        phase.errors, *_ = await asyncio.gather(
            offer(load, rate, phase.took_ms),
            offer(nulls, NULL_RATE, phase.null_ms),
            go_wrong(),
            count_connections(store, phase, is_over),
        )


async def count_connections(store: StoreProcess, phase: Phase, is_over: asyncio.Event) -> None:
    """Keep the greatest number of connections that the store had, without this benchmark's own."""
    client = store.client()
    while not is_over.is_set():
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(0.5):
                found = await asyncio.to_thread(client.info, "clients")
                phase.connections = max(phase.connections, found["connected_clients"] - 1)
        await asyncio.sleep(0.2)


def check_events(bundle: Path, store: StoreProcess, path: Path) -> dict[str, int]:
    """Send users' histories through POST /events, shuffled; count the answers that differ from those inline."""
    histories = list(read_histories(path).values())
    random.Random(0).shuffle(histories)
    chosen = [history for history in histories if 1 <= len(history) <= INLINE_MAX][:EVENT_USERS]
    events = [event for history in chosen for event in history]
    random.Random(1).shuffle(events)
    counts = Counter({"users": len(chosen), "events": len(events), "differ": 0, "not_full": 0})
    with started_service(bundle, redis_url=store.url, namespace="bench-events", budget_ms="1000") as service:
        connection = connect(service)
        for start in range(0, len(events), 1000):
            _, status, answer = ask(
                connection, "/events", json.dumps({"events": events[start : start + 1000]}).encode()
            )
            fields = json.loads(answer)
            assert (status, fields["rejected"]) == (200, []), answer
            counts["accepted"] += fields["accepted"]
        for history in chosen:
            stored = _recommend(connection, {"user_id": history[0]["user_id"]})
            inline = _recommend(connection, {"history": [event["item_id"] for event in history]})
            counts["differ"] += not _is_same(stored, inline)
            counts["not_full"] += stored["quality"] != {"level": "full", "reasons": []}
    return dict(counts)


def _recommend(connection, body):
    _, status, answer = ask(connection, "/recommend", json.dumps({**body, "k": 20}).encode())
    assert status == 200, answer
    return json.loads(answer)


def _is_same(one, other) -> bool:
    """Whether two answers name the same items with the same scores, up to the order of near-equal ones."""
    largest = max(abs(item["score"]) for item in one["items"])
    pairs = zip(one["items"], other["items"], strict=True)
    return all(abs(a["score"] - b["score"]) <= 1e-4 * largest for a, b in pairs)


@contextmanager
def started_proxy(store: StoreProcess) -> Iterator[str]:
    """Start a proxy in front of the store, which delays replies by what the file `delay` says; yield its URL."""
    path = store.socket.with_name("proxy.sock")
    process = multiprocessing.get_context("spawn").Process(target=serve_proxy, args=(path, store.socket), daemon=True)
    process.start()
    while not path.exists():
        time.sleep(0.01)
    yield f"unix://{path}"
    process.terminate()
    process.join()


def serve_proxy(path: Path, target: Path) -> None:
    """Pass on what arrives at the socket `path`, until this process is ended."""

    async def serve() -> None:
        server = await asyncio.start_unix_server(lambda r, w: _join(target, r, w), str(path))
        async with server:
            await server.serve_forever()

    asyncio.run(serve())


async def _join(target: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there_reader, there_writer = await asyncio.open_unix_connection(str(target))
    await asyncio.gather(_pump(reader, there_writer, None), _pump(there_reader, writer, target.with_name("delay")))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_file: Path | None) -> None:
    """Pass chunks on in order, each delayed by itself: like a long way, not like a slow server."""
    chance, loop = random.Random(2), asyncio.get_running_loop()
    due = loop.time()
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            late_s = 0.0
            if delay_file is not None and delay_file.exists():
                late_s = float(delay_file.read_text()) + chance.uniform(-0.03, 0.03)
            due = max(due + 1e-6, loop.time() + late_s)  # strictly later: the loop keeps no order of equal times
            loop.call_at(due, writer.write, data)
    loop.call_at(due + 1e-6, writer.close)


def report(results: dict[str, dict], grace_ms: float, events: dict[str, int], rate: float) -> int:
    """Print the table, and JSON on the last line; return the exit code."""
    if events:
        print(f"events over HTTP: {events}")
    print(f"{rate:.0f} requests/s")
    print(f"{'ms':<6}{'n':>7}{'5xx':>5}{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>8}{'full s':>8}  levels; bars missed")
    for name, result in results.items():
        again = "" if result["full_after_s"] is None else f"{result['full_after_s']:.2f}"
        row = "".join(f"{result[key]:>8.2f}" for key in ("p50", "p99", "p99_9", "max"))
        n_errors = sum(result["errors"].values())
        print(f"{name:<6}{result['n']:>7}{n_errors:>5}{row}{again:>8}  {result['levels']}; {result['missed']}")
    checked, strangers = (sum(result[key] for result in results.values()) for key in ("checked", "strangers"))
    most = max(result["connections"] for result in results.values())
    print(f"G, the null handler's p99: {grace_ms:.2f} ms; bars: p99.9 <= {BUDGET_MS + grace_ms:.1f}, max <= 100")
    print(f"{checked} answers looked at, {strangers} with another user's items; at most {most} store connections")
    is_whole = len(results) < len(FAULTS) or checked >= LEAST_CHECKED
    is_same = not events.get("differ", 0) + events.get("not_full", 0)
    is_good = not any(result["missed"] for result in results.values()) and is_same and is_whole
    print("every bar met" if is_good else "a bar was MISSED")
    print(json.dumps({**machine(), "rate": rate, "grace_ms": grace_ms, "events": events, "phases": results}))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
