"""What answers that are kept for a replay, and a shadow, cost plain requests: processor time of the service, in turn.

    python tests/bench/aside.py [--turns 10] [--rounds 40] [--requests 60]

A service of 20,000 items of width 64 for each kind, one worker, each with an embedded store that holds 300 users' ten
events and the same live version. Plain requests name a user. Kinds: `off`; `replay` (RETORT_REPLAY_SHARE=0.01, the
value of the README); `shadow` (another version of that size on 5 % of the requests). In each round every kind answers
as many requests, one caller, in an order that is drawn; the processor time of all threads of its process is read when
the round is over, so that what is done aside later counts too. The store's is not in it. In each turn all processes are
new. JSON last: of each kind the median over rounds of its processor time by that of `off` in the same round, the ratio
of the sums with the interval of 95 % by bootstrap over turns, and how often something was done aside. It exits with 1
where the median of a kind is above 1.03, or nothing was done aside.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from filter import SERVED, write_catalogue
from rig import machine, percentiles, started_process
from tracing import LAST_SENT_S, Kind, interval

from service.child import python_module
from tests.service.running import clean_environment, metric, wait_for

MOST = 1.03
N_USERS, N_EVENTS = 300, 10
SETTINGS = {"off": {}, "replay": {"replay_share": "0.01"}, "shadow": {}}
COUNTED = {
    "replay": ("retort_replay_records_total", {"result": "kept"}),
    "shadow": ("retort_shadow_requests_total", {"result": "compared"}),
}
READY_S = 300.0
TRIES = 5


def prepare(folder: Path) -> None:
    """Write two bundles, and a data directory for each kind, with the histories and what is live in it."""
    write_catalogue(folder / "bundle", SERVED, is_sum=False)
    write_catalogue(folder / "other", SERVED - 1, is_sum=False)
    drawn = random.Random(0)
    with (folder / "histories.jsonl").open("w") as file:
        for user in range(N_USERS):
            for place in range(N_EVENTS):
                event = {"user_id": f"u{user}", "item_id": f"i{drawn.randrange(SERVED - 1)}"}
                file.write(json.dumps({**event, "timestamp": 1_795_000_000 + place}) + "\n")
    call("import", str(folder / "histories.jsonl"), "--data-dir", str(folder / "off"))
    call("publish", str(folder / "bundle"), "--data-dir", str(folder / "off"))
    for name in SETTINGS:
        if name != "off":
            shutil.copytree(folder / "off", folder / name, ignore=shutil.ignore_patterns("*.sock", "*.pid"))
    call("publish", str(folder / "other"), "--as", "shadow", "--share", "5", "--data-dir", str(folder / "shadow"))


def call(*arguments: str) -> None:
    """Run a command of the service until it succeeds: on a busy machine its store may be late."""
    command = python_module("service", *arguments)
    for left in reversed(range(TRIES)):
        done = subprocess.run(command, env=clean_environment({}), check=False, stdout=subprocess.DEVNULL)
        if done.returncode == 0:
            return
        assert left, arguments


def take_turn(kinds: dict[str, Kind], folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Let a new service of each kind answer in rounds, of which the first two warm up; return what was done aside."""
    drawn, urls = random.Random(len(kinds["off"].cpu_ns)), {}
    with ExitStack() as stack:
        for name, own in SETTINGS.items():
            common = {"data_dir": str(folder / name), "budget_ms": "1000", "log_requests": "0", "keep_alive_s": "3600"}
            url, pid = stack.enter_context(started_process(folder / "bundle", **common, **own))
            urls[name] = url
            kinds[name].begin(url, pid, stack)
        wait_for(lambda: read(urls["shadow"], "retort_experiment_share", kind="shadow") == 5, timeout_s=READY_S)
        wait_for(lambda: read(urls["shadow"], "retort_experiment_missing") == 0, timeout_s=READY_S)
        for number in range(arguments.rounds + 2):
            users = [drawn.randrange(N_USERS) for _ in range(arguments.requests)]
            bodies = [json.dumps({"user_id": f"u{user}", "k": 10}).encode() for user in users]
            for name in drawn.sample(sorted(kinds), len(kinds)):
                kinds[name].answer(bodies, is_noted=number > 1)
            for kind in kinds.values():
                kind.end_round(is_noted=number > 1)
        time.sleep(LAST_SENT_S)  # what was kept last is still to be written
        for kind in kinds.values():
            kind.end_turn()
        return {name: read(urls[name], which, **labels) for name, (which, labels) in COUNTED.items()}


def read(url: str, name: str, **labels: str) -> float:
    """Return the sum of a metric of a service."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        return metric(answer.read().decode(), name, **labels)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=60)
    arguments = parser.parse_args()
    kinds = {name: Kind() for name in SETTINGS}
    with tempfile.TemporaryDirectory() as directory:
        prepare(Path(directory))
        aside = [take_turn(kinds, Path(directory), arguments) for _ in range(arguments.turns)]
    found = {}
    for name, kind in kinds.items():
        own, off = (np.reshape(each.cpu_ns, (arguments.turns, -1)) for each in (kind, kinds["off"]))
        sums = own.sum(axis=1), off.sum(axis=1)
        found[name] = {
            "median": round(float(np.median(own / off)), 4),
            "ratio": round(float(sums[0].sum() / sums[1].sum()), 4), "interval": interval(*sums),
            "cpu_us": round(float(own.sum()) / 1000 / len(kind.times_ms), 1), "ms": percentiles(kind.times_ms),
            "aside": sum(each.get(name, 0.0) for each in aside),
        }  # fmt: skip
        print(f"{name:>8} {found[name]}", file=sys.stderr)
    print(json.dumps({**machine(), "requests": len(kinds["off"].times_ms), "found": found}))
    return int(any(found[name]["median"] > MOST or not found[name]["aside"] for name in COUNTED))


if __name__ == "__main__":
    sys.exit(main())
