"""Continual quality: the last 20 % of a data set in ten steps, refreshed warm, retrained from nothing, or never.

    nice -n 15 python tests/bench/refresh.py --interactions FILE --out DIR [--columns ...] [--set ...]

The first 80 % of the events, by time, are trained on by `python -m training run`. Then a tenth of the rest at a time is
accepted by a log that stands in for the store, and the real refresh takes it: in one directory with warm training, in
another with a full training each time, both with a gate that is open, so that what is compared is the training. Each
model is asked for the events of the next tenth, each at its own time, through onnxruntime; the model of the first 80 %
too, which is never trained again. The refreshes hold out 40 % of what is new, as they do by default. Every refresh runs
in a process of its own, so that processor time and peak memory are its own. What was ended goes on after its last
whole step, in the same directory. JSON on the last line.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.bundle import open_bundle, read_manifest
from training.__main__ import main as train
from training.data.interaction_file import Cleaning
from training.data.prepare import parse_columns, prepare
from training.data.prepared import Prepared
from training.data.split import TEST, TRAIN, SplitRule
from training.evaluation.metric import bootstrap_interval, relative_difference
from training.evaluation.question import ask
from training.loop.history import read_history
from training.loop.judge import judge_bundle, ndcg_of
from training.loop.refresh import Refresher, Wishes
from training.loop.service_command import Exported
from training.progress import Progress

STEPS, SHARE = 10, 0.2
ARMS = {"warm": 0, "full": 1}  # --full-every


@dataclass(frozen=True)
class FileService:
    """Stands in for the store: a file of accepted events, and a file that names the live version."""

    directory: Path

    def live_version(self) -> str | None:
        """Return the live version."""
        return (self.directory / "live").read_text()

    def tried(self) -> str | None:
        """Return what is tried beside the live version: nothing."""
        return None

    def wanted(self) -> list[str]:
        """Return the versions that may become live by a word: none."""
        return []

    def export(self, path: Path, after: str | None) -> Exported:
        """Write the events that came after a position."""
        lines = (self.directory / "log.jsonl").read_bytes().splitlines(keepends=True)
        first = int(after.partition("@")[2]) if after else 0
        with gzip.open(path, "wb") as file:
            file.writelines(lines[first:])
        return Exported(len(lines) - first, f"1-{len(lines)}@{len(lines)}", 0)

    def note_agreement(self, live: float, offline: float, least: float) -> None:
        """Tell nobody: there is no service."""

    def publish(self, bundle: Path, live: str | None) -> None:
        """Make a bundle live."""
        assert live == self.live_version()
        (self.directory / "live").write_text(read_manifest(bundle).version)


def main() -> None:
    """Run all steps of all arms, or one step in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", default="")
    parser.add_argument("--steps", type=int, default=STEPS - 1, help="of the ten, whose next one is asked for")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        place = arguments.out / arguments.arm
        wishes = Wishes((*arguments.set, "refresh.margin=0.99"), full_every=ARMS[arguments.arm])
        print(Refresher(place / "run", FileService(place), wishes, Progress()).refresh())  # type: ignore[arg-type]
        return
    measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Run all steps, print a row for each, and the means as JSON."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    whole = read_whole(arguments)
    order = np.argsort(whole.timestamp_ms, kind="stable")
    edges = (len(order) * (1 - SHARE + SHARE * np.arange(STEPS + 1) / STEPS)).astype(int)
    kept = arguments.out / "rows.jsonl"
    if not kept.exists():
        start(arguments, whole, order[: edges[0]])
        kept.touch()
    rows: list[dict[str, Any]] = [json.loads(line) for line in kept.read_text().splitlines()]
    for step in range(len(rows) + 1, arguments.steps + 1):
        asked = order[edges[step] : edges[step + 1]]
        costs = {}
        for arm in ARMS:
            write_lines(arguments.out / arm / "log.jsonl", whole, order[edges[0] : edges[step]])
            command = [sys.executable, __file__, *sys.argv[1:], "--arm", arm]
            with (arguments.out / f"{arm}.log").open("ab") as log:
                subprocess.run(command, check=True, stdout=log, stderr=log)
            costs[arm] = read_history(arguments.out / arm / "run")[-1]
        rows.append(compare(step, judge(arguments.out, whole, asked), costs))
        print(json.dumps(rows[-1]), flush=True)
        kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(json.dumps(summarise(rows)))


def read_whole(arguments: argparse.Namespace) -> Prepared:
    """Return the whole file, as one set of data."""
    out = arguments.out / "whole"
    return prepare(arguments.interactions, None, out, Cleaning(parse_columns(arguments.columns)), SplitRule())


def start(arguments: argparse.Namespace, whole: Prepared, first: np.ndarray) -> None:
    """Train the model of the first events, and give each arm a copy of it."""
    write_lines(arguments.out / "first.jsonl", whole, first)
    run = arguments.out / "run"
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    assert train(["run", "--interactions", str(arguments.out / "first.jsonl"), "--out", str(run), *settings]) == 0
    for arm in ARMS:
        place = arguments.out / arm
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(run, place / "run")
        (place / "live").write_text(read_manifest(run / "bundle").version)


def write_lines(path: Path, whole: Prepared, events: np.ndarray) -> None:
    """Write events as JSON lines."""
    with path.open("wb") as file:
        for at in events.tolist():
            event = {"user_id": whole.users[whole.user[at]], "item_id": whole.items[whole.item[at]].item_id}
            file.write(orjson.dumps(event | {"timestamp": int(whole.timestamp_ms[at]) / 1000, "weight": 1}) + b"\n")


def judge(out: Path, whole: Prepared, asked: np.ndarray) -> dict[str, Any]:
    """Return NDCG@10 of each arm's live model for each of the asked events, and who asks."""
    part = np.full(len(whole.user), TRAIN, dtype=np.uint8)
    part[asked] = TEST
    data = replace(whole, part=part)
    question = ask(data, TEST)
    found = {"users": question.users}
    for arm, place in {"never": out, **{arm: out / arm for arm in ARMS}}.items():
        bundles = [place / "run" / "bundle", *sorted((place / "run" / "refresh").glob("*/bundle"))]
        live = read_manifest(bundles[0]).version if arm == "never" else (place / "live").read_text()
        bundle = next(each for each in bundles if read_manifest(each).version == live)
        found[arm] = ndcg_of(judge_bundle(open_bundle(bundle), question, data))
    return found


def compare(step: int, found: dict[str, Any], costs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a row of a step."""
    users = found["users"]
    row: dict[str, Any] = {"step": step, "requests": len(users)}
    for arm in ("never", *ARMS):
        low, high = bootstrap_interval(found[arm], users)
        row[arm] = {"ndcg@10": float(found[arm].mean()), "low": low, "high": high}
    for arm, cost in costs.items():
        row[arm] |= {name: cost[name] for name in ("kind", "cpu_seconds", "seconds", "peak_mb", "events", "requests")}
        row[arm]["gate"] = [cost[name] for name in ("difference", "low", "high")]
    row["warm / full"] = relative_difference(found["warm"], found["full"], users)
    row["warm / never"] = relative_difference(found["warm"], found["never"], users)
    return row


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over steps."""
    arms = {arm: {"ndcg@10": float(np.mean([row[arm]["ndcg@10"] for row in rows]))} for arm in ("never", *ARMS)}
    for arm in ARMS:
        arms[arm] |= {name: float(np.mean([row[arm][name] for row in rows])) for name in ("cpu_seconds", "peak_mb")}
    return {"steps": len(rows), **arms}


if __name__ == "__main__":
    main()
