"""What one client of /recommend sees while its store is stopped, killed, flapping, slow or full.

    python tests/bench/faults.py --bundle DIR --histories prepared/histories.jsonl.gz [--only stop kill]

The store is a process of this benchmark's own. A null FastAPI handler is asked in turn with the service, so G, the null
handler's p99, says what the machine itself added. Bars, of every phase: no 5xx, p99.9 <= budget + G, nothing over
budget + 50 ms, `full` again within 5 s of the end of the fault. Before the phases, `events` sends real users' histories
through POST /events and compares the answers with those for the same histories inline. Prints a table, and JSON on the
last line; exits with 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rig import (
    NULL_APP,
    StoreProcess,
    ask,
    connect,
    import_histories,
    machine,
    percentiles,
    read_histories,
    started_app,
    started_service,
)

BUDGET_MS = 50
SLACK_MS = 50
RECOVERY_S = 5
TAIL_S = 5
EVENT_USERS = 200
INLINE_MAX = 200


@dataclass
class Phase:
    """What was seen in one phase. ended: when the fault was over, on time.monotonic."""

    ended: float | None = None
    took_ms: list[float] = field(default_factory=list)
    null_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    answers: list[tuple[float, str]] = field(default_factory=list)

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
        """The figures, and which bars were missed."""
        took, n_5xx = percentiles(self.took_ms), sum(n for status, n in self.statuses.items() if status >= 500)
        recovered = self.ended is None or (self.full_after_s is not None and self.full_after_s <= RECOVERY_S)
        bars = {"5xx": n_5xx == 0, "p99.9": took["p99_9"] <= BUDGET_MS + grace_ms,
                "max": took["max"] <= BUDGET_MS + SLACK_MS, "full again": recovered}  # fmt: skip
        return {
            "n": len(self.took_ms), "5xx": n_5xx, **took, "levels": dict(Counter(level for _, level in self.answers)),
            "full_after_s": self.full_after_s, "null": percentiles(self.null_ms),
            "missed": [name for name, is_met in bars.items() if not is_met],
        }  # fmt: skip


class Client(threading.Thread):
    """Asks the service and the null handler in turn, for one user after another, until it is told to stop."""

    def __init__(self, service: str, null: str, users: list[str], phase: Phase) -> None:
        super().__init__()
        self._service, self._null, self._users, self._phase = connect(service), connect(null), users, phase
        self._is_over = threading.Event()

    def run(self) -> None:
        """Ask; one pair of requests every few milliseconds."""
        number = 0
        while not self._is_over.wait(0.002):
            body = json.dumps({"user_id": self._users[number % len(self._users)]}).encode()
            number += 1
            at = time.monotonic()
            took_ms, status, answer = ask(self._service, "/recommend", body)
            self._phase.took_ms.append(took_ms)
            self._phase.statuses[status] += 1
            if status == 200:
                self._phase.answers.append((at, json.loads(answer)["quality"]["level"]))
            self._phase.null_ms.append(ask(self._null, "/null", body)[0])

    def stop(self) -> None:
        """End after the request in flight."""
        self._is_over.set()
        self.join()


def calm(store: StoreProcess) -> None:
    """Nothing happens."""
    time.sleep(5)


def stop(store: StoreProcess) -> None:
    """SIGSTOP for 10 s."""
    store.signal(signal.SIGSTOP)
    time.sleep(10)
    store.signal(signal.SIGCONT)


def kill(store: StoreProcess) -> None:
    """Kill -9, nothing there for 3 s, restart."""
    store.kill()
    time.sleep(3)
    store.start()


def flap(store: StoreProcess) -> None:
    """Stopped for 0.3 s of every 0.6 s, for 20 s."""
    for _ in range(33):
        store.signal(signal.SIGSTOP)
        time.sleep(0.3)
        store.signal(signal.SIGCONT)
        time.sleep(0.3)


def fill(store: StoreProcess) -> None:
    """Out of memory for 5 s: reads go on."""
    client = store.client()
    client.config_set("maxmemory", "1mb")
    time.sleep(5)
    client.config_set("maxmemory", "0")


def delay(store: StoreProcess) -> None:
    """Every reply late by 30 ms ± 30, for 10 s."""
    path = store.socket.with_name("delay")
    path.write_text("0.03")
    time.sleep(10)
    path.unlink()


FAULTS: dict[str, Callable[[StoreProcess], None]] = {
    "calm": calm, "stop": stop, "kill": kill, "flap": flap, "full": fill, "slow": delay,
}  # fmt: skip


def main() -> int:
    """Run the benchmark."""
    arguments = parse_arguments()
    histories = read_histories(arguments.histories)
    users = list(histories)
    random.Random(0).shuffle(users)
    phases: dict[str, Phase] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = stack.enter_context(StoreProcess(directory))
        import_histories(arguments.histories, redis_url=store.url)
        null = stack.enter_context(started_app(NULL_APP))
        events = check_events(arguments.bundle, store, [histories[user] for user in users])
        proxy = stack.enter_context(started_proxy(store))
        for urls, names in ((store.url, [n for n in FAULTS if n != "slow"]), (proxy, ["slow"])):
            with started_service(arguments.bundle, redis_url=urls) as service:
                warm(service, null, users)
                for name in names:
                    if name in arguments.only:
                        phases[name] = observe(service, null, users[:1000], store, FAULTS[name])
    grace_ms = percentiles([took for phase in phases.values() for took in phase.null_ms])["p99"]
    return report({name: phase.summary(grace_ms) for name, phase in phases.items()}, grace_ms, events)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--histories", type=Path, required=True, help="prepared/histories.jsonl.gz")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="phases (default: all)")
    return parser.parse_args()


def warm(service: str, null: str, users: list[str]) -> None:
    """Ask once for every user that a phase asks for, so that the worker has met them."""
    there, nowhere = connect(service), connect(null)
    for user in users[:1000]:
        ask(there, "/recommend", json.dumps({"user_id": user}).encode())
        ask(nowhere, "/null", b"{}")


def observe(
    service: str, null: str, users: list[str], store: StoreProcess, fault: Callable[[StoreProcess], None]
) -> Phase:
    """Ask before, during and after one fault."""
    phase = Phase()
    client = Client(service, null, users, phase)
    client.start()
    time.sleep(1)
    fault(store)
    if fault is not calm:
        phase.ended = time.monotonic()
        time.sleep(RECOVERY_S + TAIL_S)
    client.stop()
    return phase


def check_events(bundle: Path, store: StoreProcess, histories: list[list[dict[str, object]]]) -> dict[str, int]:
    """Send users' histories through POST /events, shuffled; count the answers that differ from those inline."""
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
    """A proxy in front of the store, a thread of this process; late by what the file `delay` says. Yields its URL."""
    path = store.socket.with_name("proxy.sock")
    loop = asyncio.new_event_loop()
    is_open = threading.Event()

    async def serve() -> None:
        server = await asyncio.start_unix_server(lambda r, w: _join(store, r, w), str(path))
        is_open.set()
        async with server:
            await server.serve_forever()

    task = loop.create_task(serve())
    thread = threading.Thread(target=lambda: _run(loop, task), daemon=True)
    thread.start()
    is_open.wait()
    yield f"unix://{path}"
    loop.call_soon_threadsafe(task.cancel)
    thread.join()


def _run(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(task)


async def _join(store: StoreProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there_reader, there_writer = await asyncio.open_unix_connection(str(store.socket))
    await asyncio.gather(
        _pump(reader, there_writer, None), _pump(there_reader, writer, store.socket.with_name("delay"))
    )


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_file: Path | None) -> None:
    """Pass chunks on, each late by itself and none before another: like a long way, not like a slow server."""
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


def report(results: dict[str, dict[str, object]], grace_ms: float, events: dict[str, int]) -> int:
    """Print the table, and JSON on the last line; return the exit code."""
    print(f"events over HTTP: {events}")
    print(f"{'ms':<7}{'n':>7}{'5xx':>5}{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>8}{'full s':>8}  levels; bars missed")
    for name, result in results.items():
        again = "" if result["full_after_s"] is None else f"{result['full_after_s']:.2f}"
        row = "".join(f"{result[key]:>8.2f}" for key in ("p50", "p99", "p99_9", "max"))
        print(f"{name:<7}{result['n']:>7}{result['5xx']:>5}{row}{again:>8}  {result['levels']}; {result['missed']}")
    print(f"G, the null handler's p99: {grace_ms:.2f} ms; bars: p99.9 <= {BUDGET_MS + grace_ms:.1f}, max <= 100")
    is_good = not any(result["missed"] for result in results.values()) and not events["differ"] + events["not_full"]
    print("every bar met" if is_good else "a bar was MISSED")
    print(json.dumps({**machine(), "grace_ms": grace_ms, "events": events, "phases": results}))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
