"""Requests a second and latency of /recommend against an idiomatic FastAPI echo, interleaved on the same cores.

    python tests/bench/throughput.py --bundle DIR [--beside DIR] [--items 20000 100000] [--runs 5] [--seconds 4]

The echo validates the same body and returns ten constant items. Each server has core 0 to itself while it is asked;
wrk (needed on the PATH) and the store have core 1. The catalogues are drawn from a normal fit to the bundle's trained
item table and served with its encoder; where the score is a sum, neighbours and counts are drawn from the bundle's own.
`--beside` serves a catalogue of the first size like another bundle too. 2,000 users have 50 events each, drawn by
popularity, in a real store. Every figure is the median of the runs; the runs of all servers alternate. Then requests
arrive at the first catalogue as a Poisson process at half of its rate, and latency counts from when each was due. Bars:
.7 of the echo's rate at 20,000 items and .4 at more, p50 of one client 2.5 times the echo's, p99 of the open loop 10
ms. Prints a table, and JSON on the last line; exits with 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime, see service/__init__.py

import numpy as np
import onnxruntime
from rig import StoreProcess, import_histories, machine, started_app, started_service

from service.bench.client import Target
from service.bench.load import Load
from service.bundle import (
    Golden,
    Item,
    ItemTable,
    Neighbours,
    Parts,
    add_up,
    open_bundle,
    pad_histories,
    write_bundle,
)  # fmt: skip

ECHO_APP = """
import socket, uvicorn
from fastapi import FastAPI
from service.http.answer import Quality, RecommendResponse, ScoredItem
from service.request.recommend import RecommendRequest
off = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
app = FastAPI(telemetry=off)
items = [ScoredItem(item_id="%05d" % n, score=1.0 - n / 7) for n in range(10)]
@app.post("/recommend")
async def recommend(asked: RecommendRequest) -> RecommendResponse:
    return RecommendResponse(recommendation_id="0" * 32, user_id=asked.user_id, model_version="0" * 16, items=items,
                             quality=Quality(level="full", reasons=[]), ignored_ids=[], took_ms=0.1)
listener = socket.socket(); listener.bind(("127.0.0.1", 0))
print("http://127.0.0.1:%d" % listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])
"""
WRK = """
local ready, number = {}, 0
init = function(args)
  for user = 0, USERS - 1 do
    ready[user] = wrk.format("POST", "/recommend", {["Content-Type"] = "application/json"},
                             string.format('{"user_id": "user-%d", "k": K}', user))
  end
end
request = function() number = number + 1; return ready[(number * 7) % USERS] end
"""
N_USERS, N_EVENTS = 2000, 50
BUDGET_S = 0.05
SERVER_CORE, LOAD_CORE = "0", "1"


def main() -> int:
    """Run the benchmark."""
    arguments = parse_arguments()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = write_script(directory, arguments.k)
        urls = {"echo": stack.enter_context(started_app([sys.executable, "-c", ECHO_APP], cores=SERVER_CORE))}
        for n_items in arguments.items:
            urls[f"{n_items} items"] = start(arguments.bundle, n_items, directory / str(n_items), stack)
        if arguments.beside:
            urls["beside"] = start(arguments.beside, arguments.items[0], directory / "beside", stack)
        for url in urls.values():
            ask(url, script, connections=8, seconds=3)  # every user once and more: embeddings are cached
        found: dict[str, dict[int, list[dict[str, float]]]] = {}
        for _ in range(arguments.runs):
            for name, url in urls.items():
                measure(url, script, found.setdefault(name, {16: [], 1: []}), arguments.seconds)
            if arguments.litserve:  # for its turn alone: idle, it takes half of the core from the others
                beside = directory / str(arguments.items[0])
                command = [str(arguments.litserve), str(Path(__file__).with_name("litserve_bundle.py")), str(beside)]
                with started_app(command, cores=SERVER_CORE) as url:
                    ask(url, script, connections=8, seconds=2)
                    measure(url, script, found.setdefault("litserve", {16: [], 1: []}), arguments.seconds)
        middle = {name: {c: median(runs) for c, runs in by.items()} for name, by in found.items()}
        first = f"{arguments.items[0]} items"
        half = asyncio.run(offer(urls[first], middle[first][16]["per_s"] / 2, arguments.open_seconds))
        levels = {name: read_levels(url) for name, url in urls.items() if name.endswith("items")}
    return report(middle, levels, half, arguments)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a real bundle: its encoder, and a fit to its table")
    parser.add_argument("--beside", type=Path, help="another bundle, to be compared with")
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="length of each run")
    parser.add_argument("--open-seconds", type=float, default=20, help="length of the open loop")
    parser.add_argument("-k", type=int, default=10, help="items asked for (default 10)")
    parser.add_argument("--litserve", type=Path, help="a Python that has LitServe: its row, of the first catalogue")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("needs wrk on the PATH (Debian: apt-get install wrk)")
    return arguments


def measure(url: str, script: Path, found: dict[int, list[dict[str, float]]], seconds: int) -> None:
    """Add one run at each number of connections."""
    for connections, runs in found.items():
        runs.append(ask(url, script, connections=connections, seconds=seconds))


def start(bundle: Path, n_items: int, directory: Path, stack: ExitStack, **environment: str) -> str:
    """Make a catalogue and a filled store, and serve them; return the URL. environment: settings."""
    store = make_catalogue(bundle, n_items, directory, stack)
    settings = {"redis_url": store.url, **environment}
    return stack.enter_context(started_service(directory / "bundle", cores=SERVER_CORE, **settings))


def make_catalogue(bundle: Path, n_items: int, directory: Path, stack: ExitStack) -> StoreProcess:
    """Make directory/bundle, a drawn catalogue, and a store that holds its users' histories; return the store."""
    directory.mkdir()
    popularity = draw_bundle(bundle, n_items, directory / "bundle")
    write_histories(directory / "histories.jsonl", popularity)
    store = stack.enter_context(StoreProcess(directory, cores=LOAD_CORE))
    import_histories(directory / "histories.jsonl", redis_url=store.url)
    return store


def write_script(directory: Path, k: int = 10) -> Path:
    """Write the script that lets wrk ask for one user after another; return its path."""
    script = directory / "wrk.lua"
    script.write_text(WRK.replace("USERS", str(N_USERS)).replace("K}", f"{k}}}"))
    return script


def draw_bundle(real: Path, n_items: int, out: Path, *, seed: int = 0, own: str = "") -> np.ndarray:
    """Write a bundle of n_items vectors drawn from a fit to a real table; return the items' popularity.

    own: the prefix of the ids of the less popular half; where it is given, no other bundle has these.
    """
    source = open_bundle(real)
    trained = source.table.dense()
    rng = np.random.default_rng(seed)
    vectors = rng.multivariate_normal(trained.mean(axis=0), np.cov(trained.T), size=n_items, method="cholesky")
    vectors = vectors.astype(np.float32)
    popularity = 1.0 / (1 + np.arange(n_items))
    prefixes = ["item"] * (n_items // 2) + [own or "item"] * (n_items - n_items // 2)
    items = [Item(f"{prefix}-{row:06d}", float(popularity[row])) for row, prefix in enumerate(prefixes)]
    manifest = {"created_at": "2026-01-01T00:00:00+00:00", "max_history": source.manifest.max_history,
                "repeat_consumption": False}  # fmt: skip
    table = quantise(vectors) if source.table.scales is not None else ItemTable(vectors)
    if source.table.parts is not None:
        table = replace(table, parts=draw_parts(source.table.parts, n_items, rng))
    golden = [answer_exactly(source.encoder, table, items, source.manifest.max_history)]
    write_bundle(out, encoder=source.encoder, table=table, items=items, golden=golden, manifest=manifest)
    return popularity


def draw_parts(real: Parts, n_items: int, rng: np.random.Generator) -> Parts:
    """Return neighbours and counts drawn from real ones; the counts are of now."""
    near, trend, neighbours, counts = real.neighbours, real.rule.trend, None, None
    if near is not None:
        like = rng.integers(0, len(near.rows), size=n_items)
        rows = np.where(near.rows[like] < 0, -1, rng.integers(0, n_items, size=(n_items, near.rows.shape[1])))
        neighbours = Neighbours(rows.astype(np.int32), near.weights[like], near.scales[like])
    if trend is not None and real.counts is not None:
        counts = rng.choice(np.asarray(real.counts[0]), size=(1, n_items)).astype(np.float32)
        trend = replace(trend, as_of=float(int(time.time())))
    return Parts(replace(real.rule, trend=trend), neighbours, counts)


def quantise(vectors: np.ndarray) -> ItemTable:
    """Store vectors as int8, as training does."""
    scales = (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
    return ItemTable(np.round(vectors / scales[:, None]).astype(np.int8), scales)


def answer_exactly(encoder: bytes, table: ItemTable, items: list[Item], max_history: int) -> Golden:
    """Return a golden answer: the service checks it before it serves."""
    rows = [0, 1, 2]
    history, length = pad_histories(table, [rows], max_history)
    session = onnxruntime.InferenceSession(encoder, providers=["CPUExecutionProvider"])
    (user,) = session.run(["user"], {"history": history, "length": length})
    scores, now = table.dense() @ user[0], 0.0
    if (parts := table.parts) is not None:
        now = parts.rule.trend.as_of if parts.rule.trend else 0.0
        counts = parts.counts_at(now) if parts.rule.trend else None
        scores = add_up(parts, scores[None], [rows], np.array([np.nan]), counts).whole[0]
    best = np.argsort(-scores)[:20]
    named = [(items[row].item_id, float(scores[row])) for row in best]
    return Golden([items[row].item_id for row in rows], 20, named, now)


def write_histories(path: Path, popularity: np.ndarray) -> None:
    """Write the events of every user, drawn by popularity."""
    rng = np.random.default_rng(1)
    chances = np.sqrt(popularity) / np.sqrt(popularity).sum()
    rows = rng.choice(len(popularity), size=(N_USERS, N_EVENTS), p=chances)
    with path.open("w") as file:
        for user in range(N_USERS):
            for moment, row in enumerate(rows[user]):
                event = {"user_id": f"user-{user}", "item_id": f"item-{row:06d}", "timestamp": 1_700_000_000 + moment}
                file.write(json.dumps(event) + "\n")


def ask(url: str, script: Path, *, connections: int, seconds: int) -> dict[str, float]:
    """Run wrk once; return requests a second, p50 and p99 in milliseconds, and the number of answers other than 2xx."""
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script]
    text = subprocess.run([*map(str, command), url], capture_output=True, text=True, check=True).stdout
    found = {f"p{share}": _milliseconds(*_find(rf"{share}%\s+([\d.]+)(us|ms|s)", text)) for share in (50, 99)}
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return {"per_s": float(_find(r"Requests/sec:\s+([\d.]+)", text)[0]), **found, "bad": int(bad[1]) if bad else 0}


def _find(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    assert found is not None, text
    return found.groups()


def _milliseconds(number: str, unit: str) -> float:
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def read_levels(url: str) -> dict[str, int]:
    """Return how many answers of each level and reason the service has counted."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    found = re.findall(r'retort_recommendations_total\{level="(\w+)",reason="(\w+)"\} ([\d.e+]+)', text)
    return {f"{level} {reason}": int(float(count)) for level, reason, count in found if float(count)}


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure, the spread of the rate, and the sum of bad answers."""
    middle = {name: statistics.median(run[name] for run in runs) for name in ("per_s", "p50", "p99")}
    return {**middle, "spread": max(r["per_s"] for r in runs) - min(r["per_s"] for r in runs),
            "bad": sum(run["bad"] for run in runs)}  # fmt: skip


async def offer(url: str, rate: float, seconds: float) -> dict[str, Any]:
    """Send requests at a rate, whatever the answers take; return the figures."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    os.nice(10)  # it turns without sleeping before a request is due, and the store has the same core
    target = Target(url)
    requests = [target.post("/recommend", b'{"user_id": "user-%d"}' % user) for user in range(N_USERS)]
    async with Load(target, requests, n_connections=256, timeout_s=10) as load:
        return (await load.run(rate, seconds)).summary(BUDGET_S)


def missed_bars(found: dict[str, dict[int, dict[str, float]]], half: dict[str, Any], arguments) -> list[str]:
    """Return the bars that were missed, in words."""
    echo, missed = found["echo"], []
    for n_items in arguments.items:
        by, least = found[f"{n_items} items"], 0.7 if n_items <= 20_000 else 0.4
        if by[16]["per_s"] < least * echo[16]["per_s"]:
            missed.append(f"{n_items} items: {by[16]['per_s'] / echo[16]['per_s']:.2f} of the echo's rate, bar {least}")
        if n_items <= 20_000 and by[1]["p50"] > 2.5 * echo[1]["p50"]:
            missed.append(f"{n_items} items: p50 {by[1]['p50'] / echo[1]['p50']:.2f} times the echo's, bar 2.5")
    if half["p99"] is None or half["p99"] > 10:
        missed.append(f"open loop: p99 {half['p99']} ms, bar 10")
    return missed


def report(found: dict[str, dict[int, dict[str, float]]], levels: dict[str, dict[str, int]], half, arguments) -> int:
    """Print the table, and JSON on the last line; return the exit code."""
    echo = found["echo"]
    print(f"{'':<14}{'16 connections':^38}{'1 connection':^28}")
    print(
        f"{'':<14}{'per s':>8}{'of echo':>9}{'p50 ms':>8}{'p99 ms':>8}{'bad':>5}{'p50 ms':>9}{'x echo':>8}{'p99 ms':>8}"
    )
    for name, by in found.items():
        many, one = by[16], by[1]
        print(
            f"{name:<14}{many['per_s']:>8.0f}{many['per_s'] / echo[16]['per_s']:>9.2f}{many['p50']:>8.2f}"
            f"{many['p99']:>8.2f}{many['bad'] + one['bad']:>5.0f}{one['p50']:>9.3f}{one['p50'] / echo[1]['p50']:>8.2f}"
            f"{one['p99']:>8.2f}"
        )
    print(f"levels: {levels}")
    print(f"open loop at half the rate, {arguments.items[0]} items: {half}")
    missed = missed_bars(found, half, arguments)
    print(f"bars missed: {missed}" if missed else "every bar met")
    print(json.dumps({**machine(), "k": arguments.k, "runs": arguments.runs, "found": found, "levels": levels,
                      "open": half, "missed": missed}))  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
