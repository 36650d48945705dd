"""The whole loop on a recorded log, by one command: traffic, refreshes, gates, an experiment won and one lost.

    nice -n 5 python tests/bench/loop.py --interactions FILE --items FILE --out DIR     # the last 60 days in 25 minutes
    python tests/bench/loop.py --quick --out DIR                                        # a simulated world, 3 minutes

A first model is trained on what came before the last days, and a weak one with hardly any training. A real service of
two processes with its embedded store, scraped by a real Prometheus, serves the weak one, while the log is replayed at
speed (loop_traffic.py). Then an operator acts as the documentation says, by the commands alone:

1. the first model is tried as an experiment of half of the users, and promoted once the sequential test says better;
2. `python -m training refresh` runs again and again, niced, and its gate publishes what is not worse;
3. between two refreshes the weak model is tried as a canary of half of the users, which has to end by itself.

Said at the end: what became of each refresh and experiment; hit rate and NDCG@10 of the lists that were shown, by phase
and version; p99 and the share within 50 ms by Prometheus, during refreshes, around releases and otherwise; events
accepted against those that refreshes took. Bars: no event lost or taken twice, no request failed, no answer of mixed
versions, the experiment won and promoted, the canary ended by itself, a refresh published, 99 % of the answers within
50 ms in each kind of phase. JSON on the last line; exits with 1 where a bar is missed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from loop_figures import Phase, count_mixed, of_alerts, of_answers, of_events, of_experiment, of_lists
from loop_traffic import Log, Traffic, read_log, write_events
from rig import machine, started_process

from service.bundle import open_bundle, read_manifest
from service.child import python_module, tie_to_parent
from tests.contract.prometheus import Prometheus, run_prometheus
from tests.service.running import clean_environment
from training.data.simulate import simulate
from training.loop.event_file import take_events
from training.loop.history import read_history
from training.loop.service_command import ServiceCommand

HALF_LIVES_H = (6, 24, 72)
SETTINGS = (
    "teacher.members=twin", "student.parts=taste,trend", "student.dim=32", "student.max_history=20",
    "student.positions=200000", "distill.smoothing=0", "split.test=time", "split.val=time", "newcomers.epochs=0",
    "baselines.models=popularity",
)  # fmt: skip
QUICK = (
    "student.parts=taste", "student.dim=16", "student.epochs=6", "student.batch_positions=256",
    "student.learning_rate=0.01", "refresh.judged_least=50", "prepare.min_targets=1",
)  # fmt: skip
WEAK = ("student.parts=taste", "student.dim=16", "student.positions=2000", "student.learning_rate=0.0001")
SERVICE = {"conversions": "taken", "log_requests": "0"}
SHARE, WITHIN, LOOK_S = 50, 0.99, 3.0


def main() -> int:
    """Run the loop."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.quick:
        simulate(arguments.out / "world", users=600, items=80, days=60, seed=1, events_per_user=16)
        arguments.interactions, arguments.items = (
            arguments.out / "world" / name for name in ("interactions.csv.gz", "items.csv")
        )
    begins = planned_begin(arguments)
    place = arguments.out / "whole"
    log = read_log(arguments.interactions, arguments.columns, place, arguments.days, arguments.minutes, begins)
    say(f"{len(log.before):,} events train, {len(log.replayed):,} are replayed, {log.factor:,.0f} times as fast")
    train(arguments, log)
    for left in ("data", "prometheus", "run/refresh"):  # by a replay before this one
        shutil.rmtree(arguments.out / left, ignore_errors=True)
    (arguments.out / "run" / "refreshes.jsonl").unlink(missing_ok=True)
    with ExitStack() as stack:
        data, folder = arguments.out / "data", arguments.out / "prometheus"
        started = started_process(
            arguments.out / "weak" / "bundle", "--workers", "2", "--data-dir", str(data), **SERVICE
        )
        url, _ = stack.enter_context(started)
        folder.mkdir()
        target = url.removeprefix("http://")
        prometheus = stack.enter_context(run_prometheus(folder, target=target, alert_after="30s"))
        operator = Operator(arguments)
        operator.prepare()
        time.sleep(max(0.0, begins - time.time()))
        log, began = log.begin(time.time()), time.time()
        say(f"the replay begins, {began - begins:.0f} s late")
        with Traffic(url, log, arguments.k) as traffic:
            operator.act(traffic, log)
            traffic.wait()
        ended = time.time()
        operator.take_all()
        time.sleep(2)  # the last scrape
        found = look_back(operator, traffic, prometheus, (began, ended))
    return report(found)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--columns", default="")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--days", type=float, default=60, help="of the log's end that are replayed")
    parser.add_argument("--minutes", type=float, default=25, help="in which they are replayed")
    parser.add_argument("--train-minutes", type=float, default=6, help="until the replay begins")
    parser.add_argument("--k", type=int, default=10, help="items in a list")
    parser.add_argument("--steps", type=int, default=4, help="refreshes")
    parser.add_argument("--set", action="append", default=[], help="settings of the first model and the refreshes")
    parser.add_argument("--quick", action="store_true", help="a simulated world, in three minutes")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.days, arguments.minutes, arguments.train_minutes, arguments.steps = 10, 2.0, 1.0, 2
        arguments.k = 3
        arguments.set = [*QUICK, *arguments.set]
    elif arguments.interactions is None:
        parser.error("--interactions, or --quick")
    return arguments


def planned_begin(arguments: argparse.Namespace) -> float:
    """Return at which Unix time the replay is to begin; what was planned stays, so that a stopped training goes on."""
    kept = arguments.out / "begins"
    if not kept.exists():
        kept.write_text(str(time.time() + 60 * arguments.train_minutes))
    return float(kept.read_text())


def say(text: str) -> None:
    """Say how far it is, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def train(arguments: argparse.Namespace, log: Log) -> None:
    """Train the first model and the weak one, both on the events before."""
    first = arguments.out / "first.jsonl"
    write_events(first, log.before)
    half_lives = ",".join(f"{hours / log.factor:.9f}" for hours in HALF_LIVES_H)
    own = [*SETTINGS, f"student.half_lives={half_lives}", *arguments.set]
    items = ["--items", str(arguments.items)] if arguments.items else []
    for name, settings in (("weak", [*own, *WEAK]), ("run", own)):
        words = [word for setting in settings for word in ("--set", setting)]
        run(
            python_module(
                "training", "run", "--interactions", str(first), *items, "--out", str(arguments.out / name), *words
            ),
            arguments.out / f"{name}.log",
        )


def run(command: list[str], log: Path) -> str:
    """Run a command to its end; return what it printed. What it says of itself goes to a file."""
    with log.open("ab") as file:
        done = subprocess.run(
            tie_to_parent(list(command)),
            env=clean_environment(SERVICE),
            stdout=subprocess.PIPE,
            stderr=file,
            check=True,
        )
        file.write(done.stdout)
    return done.stdout.decode()


@dataclass
class Operator:
    """Who runs the service: publishes, experiments, refreshes, all by the commands. said: what came of it."""

    arguments: argparse.Namespace
    phases: list[Phase] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    catalogues: dict[str, set[str]] = field(default_factory=dict)
    experiments: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        """Publish the weak model, and import the histories."""
        out = self.arguments.out
        self.learn(out / "weak" / "bundle")
        self.learn(out / "run" / "bundle")
        self.command("publish", str(out / "weak" / "bundle"), "--wait", "90")
        self.command("import", str(out / "run" / "prepared" / "histories.jsonl.gz"))

    def act(self, traffic: Traffic, log: Log) -> None:
        """Win an experiment, refresh so often, and lose an experiment in between."""
        steps, length_s = self.arguments.steps, 60 * self.arguments.minutes
        self.win(traffic)
        for step in range(1, steps + 1):
            due = log.begins_ms / 1000 + length_s * step / (steps + 1)
            while traffic.goes_on and time.time() < due:
                time.sleep(0.2)
            self.refresh(step)
            if step == (steps + 1) // 2:
                self.lose(traffic)

    def win(self, traffic: Traffic) -> None:
        """Try the first model on half of the users, and make it live once it is better."""
        self.try_beside("won", self.arguments.out / "run" / "bundle", "experiment")
        if self.watch("won", traffic, lambda found: found["comparison"]["decision"] == "better"):
            with self.phase("release", "promote"):
                self.command("experiment", "promote", "--wait", "90")
            self.note("won")

    def lose(self, traffic: Traffic) -> None:
        """Try the weak model on half of the users, which has to end by itself."""
        self.try_beside("lost", self.arguments.out / "weak" / "bundle", "canary")
        if not self.watch("lost", traffic, lambda found: found["experiment"]["ended"] is not None):
            self.command("experiment", "stop")

    def refresh(self, step: int) -> None:
        """Run one refresh, niced, as an operator's timer would."""
        out, name = self.arguments.out, f"refresh {step}"
        items = ["--items", str(self.arguments.items)] if self.arguments.items else []
        command = python_module("training", "refresh", "--store", str(out / "data"), "--out", str(out / "run"), *items)
        with self.phase("refresh", name):
            said = run([str(shutil.which("nice")), "-n", "15", *command], out / "refresh.log")
        self.said[name] = said.strip().splitlines()[-1]
        for bundle in (out / "run" / "refresh").glob("*/bundle"):
            self.learn(bundle)
        say(f"{name}: {self.said[name]}")

    def try_beside(self, name: str, bundle: Path, kind: str) -> None:
        """Set a version beside the live one."""
        with self.phase("release", f"begin {name}"):
            self.command("publish", str(bundle), "--as", kind, "--share", str(SHARE), "--wait", "90")

    def watch(self, name: str, traffic: Traffic, is_over: Any) -> bool:
        """Look at an experiment until it is over; return whether that came before the traffic ended."""
        began = time.time()
        while traffic.goes_on:
            if is_over(self.note(name)):
                say(f"{name}: after {time.time() - began:.0f} s")
                return True
            time.sleep(LOOK_S)
        return False

    def note(self, name: str) -> dict[str, Any]:
        """Return what the experiment comes to now, and keep it."""
        found: dict[str, Any] = json.loads(self.command("experiment", "status", "--json").splitlines()[-1])
        self.experiments[name] = found
        return found

    def learn(self, bundle: Path) -> None:
        """Remember the items of a version, which may be pruned later."""
        self.catalogues[read_manifest(bundle).version] = set(open_bundle(bundle).items.ids)

    def take_all(self) -> None:
        """Take what no refresh has taken, as the next one would."""
        out = self.arguments.out
        take_events(out / "run" / "refresh" / "events", ServiceCommand(str(out / "data")))

    def command(self, *words: str) -> str:
        """Run a command of the service."""
        return run(
            python_module("service", *words, "--data-dir", str(self.arguments.out / "data")),
            self.arguments.out / "commands.log",
        )

    @contextmanager
    def phase(self, kind: str, name: str) -> Iterator[None]:
        """Keep when something began and ended."""
        say(f"{name} begins")
        start = time.time()
        yield
        self.phases.append(Phase(kind, name, start, time.time()))


def look_back(
    operator: Operator, traffic: Traffic, prometheus: Prometheus, between: tuple[float, float]
) -> dict[str, Any]:
    """Return all figures of a run that went on between two times."""
    told, out = traffic.told, operator.arguments.out / "run"
    late = sorted(told.late_s)
    return {
        "minutes": round((between[1] - between[0]) / 60, 1),
        "lists": of_lists(told.shown, operator.phases),
        "answers": of_answers(prometheus, operator.phases, *between),
        "alerts": of_alerts(prometheus, *between),
        "events": of_events(told, out),
        "refused": dict(told.refused),
        "mixed": count_mixed(told.shown, operator.catalogues),
        "late_s": {"p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "max": late[-1]},
        "refreshes": [
            {name: row[name] for name in ("number", "kind", "events", "passes", "seconds", "cpu_seconds", "peak_mb")}
            for row in read_history(out)
        ],
        "said": operator.said,
        "experiments": {name: of_experiment(each) for name, each in operator.experiments.items()},
        "phases": [
            [phase.name, round(phase.start - between[0]), round(phase.end - between[0])] for phase in operator.phases
        ],
    }


def report(found: dict[str, Any]) -> int:
    """Print the tables, the bars, and JSON on the last line; return the exit code."""
    for name in ("lists", "refreshes"):
        print(f"{name}:", *found[name], sep="\n  ")
    for name in ("said", "experiments", "answers", "events"):
        print(f"{name}:", *(f"{key}: {value}" for key, value in found[name].items()), sep="\n  ")
    events, experiments = found["events"], found["experiments"]
    won, lost = (experiments.get(name, {}) for name in ("won", "lost"))
    none_of = ("lost", "twice", "of nobody", "not learned", "learned twice", "acknowledged twice")
    bars = {
        **{f"events {name}": events[name] == 0 for name in none_of},
        "no request failed": not found["refused"],
        "no mixed answer": found["mixed"] == 0,
        "won and promoted": str(won.get("reason", "")).startswith("promoted"),
        "lost and ended by itself": str(lost.get("reason", "")).startswith("conversions"),
        "a refresh published": any(row["passes"] for row in found["refreshes"]),
        **{f"within budget, {kind}": each["within"] >= WITHIN for kind, each in found["answers"].items()},
    }
    missed = [name for name, is_met in bars.items() if not is_met]
    print(f"bars missed: {missed}" if missed else "every bar met")
    print(json.dumps({**machine(), "missed": missed, **found}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
