"""Fifty kill -9 of refresher, worker and store by turns: no event is lost or counted twice, no answer mixes versions.

    OMP_NUM_THREADS=1 python tests/bench/kills.py [--kills 50] [--workers 2] [--seed 0]

A model of a tiny world is served by several workers with an embedded store, while `python -m training refresh` runs
again and again and publishes what it makes. Two callers send events all the time, each with an id of its own, and send
a list again until it is acknowledged. Two others ask for users who do nothing any more, by name and by history. At
random moments one of the three is killed; the rest goes on. What was going on in the refresher then is noted.

Afterwards two refreshes run in peace, the first while callers go on. Every acknowledged event must stand once in the
files that the refreshes took, once in its user's history, and once in what the last refresh trained on. Every answer
must have the items and scores that the library computes from the bundle of the version it names, and no other version's
bundle may give them too. The live version must be the last one that passed the gate. Under ten minutes on two cores
that have nothing else to do; JSON on the last line; exits with 1 where a bar is missed.
"""

import argparse
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import httpx
from rig import machine

from service.child import python_module
from service.library import Retort
from tests.service.running import SWAP_S, Running, clean_environment, is_alive, run_command, wait_for
from tests.training.world import N_ITEMS, tiny_settings, write_chain_world
from training.data.prepared import load_prepared
from training.loop.event_file import read_event_files
from training.loop.generation import read_generations
from training.loop.history import read_history

KILLED = ("refresher", "worker", "store")
USERS, STILL, LIST, EVERY_S = 120, 8, 3, 0.3  # of the callers' users; who do nothing any more; events a list, and pause
K, CLOSE = 10, 1e-4
SETTINGS = tiny_settings(
    "teacher.epochs=3", "student.epochs=2", "newcomers.epochs=0", "prepare.repeats=yes", "refresh.judged_least=20",
    "baselines.models=popularity",
)  # fmt: skip


@dataclass
class Sender:
    """Sends events of its own users, each list until it is acknowledged. acknowledged: user by event id.

    repeats: lists that were sent again. known: events of such a list that the service had already, unacknowledged.
    """

    name: str
    users: list[str]
    acknowledged: dict[str, str] = field(default_factory=dict)
    repeats: int = 0
    known: int = 0

    def run(self, url: str, is_over: threading.Event) -> None:
        """Send until it is over; what was begun is finished."""
        chance = random.Random(self.name)
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            while not is_over.is_set():
                items = chance.sample(range(N_ITEMS), LIST)
                events = [
                    {
                        "user_id": chance.choice(self.users),
                        "item_id": f"{item:04d}",
                        "event_id": f"{self.name}-{len(self.acknowledged) + place}",
                    }
                    for place, item in enumerate(items)
                ]
                while (known := send(client, events)) is None:
                    self.repeats += 1
                    time.sleep(0.1)
                self.known += known
                self.acknowledged |= {each["event_id"]: each["user_id"] for each in events}
                is_over.wait(EVERY_S)


def send(client: httpx.Client, events: list[dict[str, str]]) -> int | None:
    """Send a list of events; return how many of it were known, None where it is not acknowledged."""
    try:
        response = client.post("/events", json={"events": events})
        found = response.raise_for_status().json()
    except httpx.HTTPError:
        return None
    return found["duplicates"] if found["accepted"] + found["duplicates"] == len(events) else None


@dataclass
class Asker:
    """Asks for users whose history stays as it is, and keeps every answer. failed: requests without one."""

    histories: dict[str, list[str]]
    by_name: bool
    answers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failed: int = 0

    def run(self, url: str, is_over: threading.Event) -> None:
        """Ask until it is over."""
        users = list(self.histories)
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            while not is_over.is_set():
                user = users[(len(self.answers) + self.failed) % len(users)]
                who = {"user_id": user} if self.by_name else {"history": self.histories[user]}
                try:
                    response = client.post("/recommend", json={**who, "k": K, "exclude_seen": False})
                    response.raise_for_status()
                    self.answers.append((user, response.json()))
                except httpx.HTTPError:
                    self.failed += 1
                is_over.wait(0.1)


class Refreshes:
    """Runs the refresher again and again, and keeps a copy of every bundle that it judged."""

    def __init__(self, run: Path, data: Path, kept: Path) -> None:
        self._run, self._data, self._kept = run, data, kept
        self._log = kept.with_name("refresh.log")
        self._process: subprocess.Popen[bytes] | None = None
        self.ended: Counter[str] = Counter()

    def run(self, is_over: threading.Event) -> None:
        """Refresh until it is over; the last one is killed."""
        while not is_over.is_set():
            process = self.start()
            while process.poll() is None and not is_over.wait(0.1):
                self.keep_bundles()
            if is_over.is_set():
                process.kill()
            self.ended[name_end(process.wait(), self._log.read_text())] += 1

    def start(self) -> subprocess.Popen[bytes]:
        """Start one refresh."""
        command = python_module("training", "refresh", "--store", str(self._data), "--out", str(self._run))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--set", "refresh.margin=0.99"], env=clean_environment({}), stdout=log, stderr=log
            )
        return self._process

    def finish(self) -> None:
        """Refresh once, in peace."""
        assert self.start().wait() == 0, self._log.read_text()
        self.keep_bundles()

    def kill(self) -> str:
        """Kill the refresher that runs; return what it was at."""
        wait_for(lambda: self._process is not None and self._process.poll() is None, every_s=0.001)
        assert self._process is not None
        self._process.kill()
        found = re.findall(r"\[(\w+)\] started|^took ", self._log.read_text(), re.MULTILINE)
        return (found[-1] or "taken") if found else "start"

    def keep_bundles(self) -> None:
        """Copy the bundles that were judged since; the refresher removes old ones."""
        for path in (self._run / "refresh").glob("[0-9]*/judged.json"):  # .0004.old is one that is removed just now
            copy = self._kept / path.parent.name
            if not copy.exists():
                aside = copy.with_name(f".{copy.name}")
                with suppress(OSError, shutil.Error):  # it begins to be removed while it is read
                    shutil.copytree(path.parent / "bundle", aside, dirs_exist_ok=True)
                    aside.rename(copy)


def name_end(code: int, said: str) -> str:
    """Return in a word or two how a refresher ended."""
    if code == -signal.SIGKILL:
        return "killed"
    lines = [line for line in said.splitlines() if line.strip()]
    words = ("not published", "published", "waiting", "nothing new")
    return next((word for word in words if code == 0 and any(line.startswith(word) for line in lines)), f"code {code}: "
                + (lines[-1] if lines else ""))  # fmt: skip


def kill_by_turns(service: Running, refreshes: Refreshes, n_kills: int, pause_s: float, seed: int) -> dict[str, Any]:
    """Kill refresher, worker and store by turns at random moments; return how often, and where the refresher was."""
    chance, kills, at = random.Random(seed), Counter(), Counter()
    for number in range(n_kills):
        time.sleep(chance.uniform(0.2 * pause_s, 1.8 * pause_s))
        killed = KILLED[number % len(KILLED)]
        kills[killed] += 1
        if killed == "refresher":
            at[refreshes.kill()] += 1
            continue
        pids = wait_for(partial(living, service, killed), timeout_s=SWAP_S)
        os.kill(chance.choice(pids), signal.SIGKILL)
    return {"kills": dict(kills), "refresher_was_at": dict(at)}


def living(service: Running, name: str) -> list[int]:
    """Return the process ids of the store, or of the workers, that live."""
    if name == "store":
        return [pid for pid in [service.store_pid()] if is_alive(pid)]
    pid = service.process.pid
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if is_alive(child) and is_worker(child)]


def is_worker(pid: int) -> bool:
    """Whether a process is a worker of the service."""
    try:
        return b"--listener-fd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended just now
        return False


@contextmanager
def running(*work: Callable[[threading.Event], None]):
    """Do work in threads, until the block ends."""
    is_over = threading.Event()
    threads = [threading.Thread(target=each, args=(is_over,)) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def send_still(service: Running) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Send what the users did who do nothing any more; return their histories, and user by event id."""
    chance, acknowledged = random.Random(1), {}
    for number in range(STILL):
        for place, item in enumerate(chance.sample(range(N_ITEMS), 6)):
            event = {"user_id": f"still{number}", "item_id": f"{item:04d}", "event_id": f"still-{number}-{place}"}
            assert service.send(event)["accepted"] == 1
            acknowledged[event["event_id"]] = event["user_id"]
    histories = {}
    for user in dict.fromkeys(acknowledged.values()):
        histories[user] = [each["item_id"] for each in service.client.get(f"/users/{user}").json()["history"]]
    return histories, acknowledged


def count_times(wanted: dict[str, str], found: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return how many events were wanted, are not found, are found more than once, and were never acknowledged."""
    pairs = {(user, event_id) for event_id, user in wanted.items()}
    return {
        "acknowledged": len(pairs),
        "lost": sum(found[pair] == 0 for pair in pairs),
        "twice": sum(n > 1 for n in found.values()),
        "strangers": sum(pair not in pairs for pair in found),
    }


def read_taken(run: Path, up_to: int | None = None) -> Counter[tuple[str, str]]:
    """Return how often each event stands in the files that refreshes took. up_to: the number of the last file."""
    found: Counter[tuple[str, str]] = Counter()
    for each in read_event_files(run / "refresh" / "events"):
        if up_to is None or each.number <= up_to:
            lines = gzip.decompress(each.path.read_bytes()).splitlines()
            found.update((event["user_id"], event["event_id"]) for event in map(json.loads, lines))
    return found


def read_histories(service: Running, users: Sequence[str]) -> Counter[tuple[str, str]]:
    """Return how often each event stands in the history of its user."""
    found: Counter[tuple[str, str]] = Counter()
    for user in users:
        response = service.client.get(f"/users/{user}")
        if response.status_code == 200:
            found.update((user, each["key"]) for each in response.json()["history"])
    return found


def check_trained(run: Path) -> dict[str, int]:
    """Return how many events the last refresh was prepared from, and how many it should have been."""
    newest = read_generations(run)[-1]
    n_first = len(load_prepared(run / "prepared").item)
    n_wanted = n_first + sum(read_taken(run, newest.taken).values())
    return {"refreshes": newest.number, "wanted": n_wanted, "found": len(load_prepared(newest.path / "prepared").item)}


def check_live(run: Path, data: Path) -> bool:
    """Whether the live version is the last one that passed the gate, and every refresh is noted once."""
    rows = read_history(run)
    passed = [row["version"] for row in rows if row["passes"]]
    is_once = len({row["number"] for row in rows}) == len(rows)
    return is_once and bool(passed) and live_version(data) == passed[-1]


def live_version(data: Path) -> str:
    """Return the version that the store calls live."""
    return str(json.loads(run_command("status", "--data-dir", str(data)).stdout.splitlines()[-1])["live"]["version"])


def check_answers(askers: Sequence[Asker], bundles: Sequence[Path]) -> dict[str, Any]:
    """Compare every answer with what the library makes of the bundle of its version, and of every other."""
    histories = askers[0].histories
    models = [Retort.load(path) for path in bundles]
    lists = {model.version: {user: scores_of(model, history) for user, history in histories.items()}
             | {None: scores_of(model, [])} for model in models}  # fmt: skip
    counts: Counter[str] = Counter({"mixed": 0, "told_apart_not": 0, "forgotten": 0})
    levels, versions = Counter(), Counter()
    for asker in askers:
        for user, answer in asker.answers:
            level, version = answer["quality"]["level"], answer["model_version"]
            whose = None if level == "fallback" else user
            levels[level] += 1
            versions[version] += 1
            counts["forgotten"] += "cold_user" in answer["quality"]["reasons"]
            counts["mixed"] += version not in lists or not is_from(answer, lists[version][whose])
            others = (of[whose] for other, of in lists.items() if other != version)
            counts["told_apart_not"] += whose is not None and any(is_from(answer, each) for each in others)
    return {
        "answers": sum(levels.values()),
        "failed": sum(each.failed for each in askers),
        "levels": dict(levels),
        "versions": len(versions),
        **counts,
    }


def scores_of(model: Retort, history: list[str]) -> dict[str, float]:
    """Return the score that a model gives every item, the best first."""
    answer = model.recommend(history, N_ITEMS, exclude_seen=False)
    return {each["item_id"]: each["score"] for each in answer["items"]}


def is_from(answer: dict[str, Any], scores: dict[str, float]) -> bool:
    """Whether an answer has the best items by some scores, up to the order of near-equal ones."""
    best, largest = list(scores.values())[:K], max(map(abs, scores.values()))
    near = CLOSE * max(largest, 1e-9)
    found = [(each["item_id"], each["score"]) for each in answer["items"]]
    return len(found) == len(best) and all(
        item_id in scores and abs(score - scores[item_id]) <= near and abs(score - wanted) <= near
        for (item_id, score), wanted in zip(found, best, strict=True)
    )


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, serve, kill, and count."""
    run, data, kept = folder / "run", folder / "data", folder / "kept"
    kept.mkdir()
    world = write_chain_world(folder / "first.csv", users=USERS)
    command = python_module("training", "run", "--interactions", str(world), "--out", str(run), *SETTINGS)
    subprocess.run(command, check=True, env=clean_environment({}), stdout=subprocess.DEVNULL)
    shutil.copytree(run / "bundle", kept / "0000")
    refreshes = Refreshes(run, data, kept)
    with Running(run / "bundle", data, "--workers", str(arguments.workers), budget_ms="250") as service:
        assert run_command("publish", str(run / "bundle"), "--data-dir", str(data)).returncode == 0
        histories, acknowledged = send_still(service)
        senders = [Sender(f"s{n}", [f"u{user}" for user in range(n, USERS, 2)]) for n in range(2)]
        askers = [Asker(histories, by_name) for by_name in (True, False)]
        calls = [lambda is_over, each=each: each.run(service.url, is_over) for each in (*senders, *askers)]
        with running(*calls):
            with running(refreshes.run):
                found = kill_by_turns(service, refreshes, arguments.kills, arguments.pause_s, arguments.seed)
            refreshes.finish()  # what was killed
            wait_for(lambda: askers[1].answers[-1][1]["model_version"] == live_version(data), timeout_s=SWAP_S)
        refreshes.finish()  # it takes what came meanwhile
        for each in senders:
            acknowledged |= each.acknowledged
        users = [*histories, *(user for each in senders for user in each.users)]
        return found | {
            "refreshes": dict(refreshes.ended),
            "repeats": sum(each.repeats for each in senders),
            "known": sum(each.known for each in senders),
            "taken": count_times(acknowledged, read_taken(run)),
            "histories": count_times(acknowledged, read_histories(service, users)),
            "trained": check_trained(run),
            "live_is_the_last_that_passed": check_live(run, data),
            "answers": check_answers(askers, sorted(kept.glob("0*"))),
        }


def judge(found: dict[str, Any]) -> list[str]:
    """Return the bars that were missed."""
    taken, histories, trained, answers = (found[name] for name in ("taken", "histories", "trained", "answers"))
    bad = {
        "an event was lost or counted twice on its way to a refresh": any(
            taken[name] for name in ("lost", "twice", "strangers")
        ),
        "an event is not in its user's history once": any(histories[name] for name in ("lost", "twice", "strangers")),
        "the last refresh was trained on other events": trained["wanted"] != trained["found"],
        "the live version is another one": not found["live_is_the_last_that_passed"],
        "an answer mixes versions": answers["mixed"],
        "a user was forgotten": answers["forgotten"],
        "versions cannot be told apart": answers["told_apart_not"],
        "only one version answered": answers["versions"] < 2,
    }
    return [name for name, is_so in bad.items() if is_so]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause-s", type=float, default=6.0, help="seconds between two kills, in the mean")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, suppress(KeyboardInterrupt):
        found = measure(Path(directory), arguments)
        found |= {**machine(), "seconds": round(time.monotonic() - start), "missed": judge(found)}
        for name, value in found.items():
            print(f"{name}: {value}")
        print(json.dumps(found))
        return int(bool(found["missed"]))
    return 1


if __name__ == "__main__":
    sys.exit(main())
