"""Large catalogues: latency, recall, memory and load time of the service at several sizes.

    python tests/bench/catalogue.py --bundle DIR [--items 20000 100000 1000000] [--rate 100] [--seconds 20]

Catalogues are drawn from a normal fit to the bundle's trained table and served with its encoder; 2,000 users with 50
events each are in a real store (see throughput). The server has core 0, load and store core 1. One client asks in turn;
then requests arrive as a Poisson process at a rate, and latency counts from when each was due. Recall is the share of
the exact best 100 in answers over HTTP, for histories that the service has not seen; where the score is a sum, of the
best by the sum, with the trend of the time of asking. Load time is that of the first
start and of the next; memory is the proportional share (PSS) of the parent and its workers, for 1, 2 and 4 of them.
Bars: p99 <= 10 ms at the rate and recall >= 0.99, at every size. JSON last; exits with 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime, see service/__init__.py

import numpy as np
import onnxruntime
import orjson
from rig import StoreProcess, ask, connect, import_histories, machine, started_process
from throughput import LOAD_CORE, N_EVENTS, N_USERS, SERVER_CORE, draw_bundle, write_histories

from service.bench.client import Target
from service.bench.load import Load
from service.bundle import Bundle, Float32, add_up, open_bundle, pad_histories
from service.search.scan import scan_scores

BUDGET_S = 0.05
BAR_MS, BAR_RECALL = 10.0, 0.99
N_JUDGED = 100


def main() -> int:
    """Run the benchmark."""
    arguments = parse_arguments()
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    found = {}
    for n_items in arguments.items:
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            found[n_items] = figures = measure(arguments, n_items, Path(directory), stack)
            print(f"{n_items} items: {json.dumps(figures)}", file=sys.stderr)
    return report(found, arguments)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a real bundle: its encoder, and a fit to its table")
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the open loop (default %(default)s)")
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 4], help="also start so many, for their memory")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, n_items: int, directory: Path, stack: ExitStack) -> dict:
    """Measure everything at one size."""
    bundle = directory / "bundle"
    popularity = draw_bundle(arguments.bundle, n_items, bundle)
    write_histories(directory / "histories.jsonl", popularity)
    store = stack.enter_context(StoreProcess(directory, cores=LOAD_CORE))
    settings = {"redis_url": store.url, "data_dir": str(directory / "data")}
    import_histories(directory / "histories.jsonl", **settings)
    figures: dict = {"load_s": [], "pss_mb": {}}
    with timed_start(bundle, figures, settings):
        pass
    with timed_start(bundle, figures, settings) as (url, pid):
        figures |= asyncio.run(measure_latency(url, arguments))
        figures["pss_mb"][1] = pss_mb(pid)
        with urllib.request.urlopen(f"{url}/model") as response:
            figures["index"] = json.load(response)["index"]
        figures["recall"] = measure_recall(url, open_bundle(bundle), popularity)
    for n_workers in arguments.workers:
        with timed_start(bundle, figures, settings, "--workers", str(n_workers)) as (_, pid):
            figures["pss_mb"][n_workers] = pss_mb(pid)
    return figures


@contextmanager
def timed_start(bundle: Path, figures: dict, settings: dict[str, str], *options: str) -> Iterator[tuple[str, int]]:
    """Start a service and note in figures how long that took; yield its URL and process id."""
    start = time.perf_counter()
    cores = f"{SERVER_CORE},{LOAD_CORE}" if options else SERVER_CORE
    with started_process(bundle, *options, cores=cores, **settings) as started:
        figures["load_s"].append(round(time.perf_counter() - start, 1))
        yield started


async def measure_latency(url: str, arguments: argparse.Namespace) -> dict:
    """Measure the latency of one client, and at a rate."""
    target = Target(url)
    bodies = [orjson.dumps({"user_id": f"user-{user}", "budget_ms": 50}) for user in range(N_USERS)]
    async with Load(target, [target.post("/recommend", b) for b in bodies], n_connections=256, timeout_s=10) as load:
        await load.ask_in_turn(3 * N_USERS)  # embeddings are cached
        alone = await load.ask_in_turn(N_USERS)
        offered = await load.run(arguments.rate, arguments.seconds)
    return {"one": alone.summary(BUDGET_S), "open": offered.summary(BUDGET_S)}


def measure_recall(url: str, bundle: Bundle, popularity: np.ndarray) -> float:
    """Return the share of the exact best 100 items that is in answers for histories given in the request."""
    rng = np.random.default_rng(7)
    chances = np.sqrt(popularity) / np.sqrt(popularity).sum()
    histories = rng.choice(len(popularity), size=(N_JUDGED, N_EVENTS), p=chances).tolist()
    history, length = pad_histories(bundle.table, histories, bundle.manifest.max_history)
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    (users,) = session.run(["user"], {"history": history, "length": length})
    connection, shares = connect(url), []
    for rows, user in zip(histories, users, strict=True):
        best = true_best(bundle, user, rows)
        named = [bundle.items.ids[row] for row in rows]
        body = {"history": named, "k": 100, "exclude_seen": False, "budget_ms": 1000}
        _, status, answer = ask(connection, "/recommend", orjson.dumps(body))
        assert status == 200, answer
        shown = {item["item_id"] for item in json.loads(answer)["items"]}
        shares.append(len(shown & {bundle.items.ids[row] for row in best}) / 100)
    return round(float(np.mean(shares)), 4)


def true_best(bundle: Bundle, user: Float32, history: list[int]) -> list[int]:
    """Return the 100 best rows of a user, float32 [dim], by the plain formula, now."""
    scores, parts = scan_scores(bundle.table, user[None]), bundle.table.parts
    if parts is not None:
        counts = None if parts.counts is None else parts.counts_at(time.time())
        scores = add_up(parts, scores, [history], np.full(1, np.nan), counts).whole
    return np.argpartition(-scores[0], 99)[:100].tolist()


def pss_mb(pid: int) -> int:
    """Return the proportional set size of a process and its children, in MB."""
    children = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _parent(path) == pid]
    kilobytes = [
        int(line.split()[1])
        for each in (pid, *children)
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    ]
    return round(sum(kilobytes) / 1024)


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def _ms(value: float | None) -> str:
    return f"{'failed' if value is None else format(value, '.2f'):>8}"


def report(found: dict[int, dict], arguments: argparse.Namespace) -> int:
    """Print the table, and JSON on the last line; return the exit code."""
    print(f"{'':>10}{'':>13}{'1 client':^16}{f'{arguments.rate:.0f}/s':^16}{'recall':>8}{'PSS MB':>8}  load s")
    print(f"{'items':>10}{'search':>13}{'p50 ms':>8}{'p99':>8}{'p50 ms':>8}{'p99':>8}{'@100':>8}")
    missed = []
    for n_items, figures in found.items():
        one, busy = figures["one"], figures["open"]
        print(
            f"{n_items:>10}{figures['index']['kind']:>13}{one['p50']:>8.2f}{one['p99']:>8.2f}{_ms(busy['p50'])}"
            f"{_ms(busy['p99'])}{figures['recall']:>8.4f}{figures['pss_mb'][1]:>8}"
            f"  {figures['load_s']}, PSS {figures['pss_mb']}"
        )
        if busy["p99"] is None or busy["p99"] > BAR_MS:
            missed.append(f"{n_items} p99")
        if figures["recall"] < BAR_RECALL:
            missed.append(f"{n_items} recall")
    print(f"bars missed: {missed}" if missed else "every bar met")
    print(json.dumps({**machine(), "rate": arguments.rate, "missed": missed, "found": found}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
