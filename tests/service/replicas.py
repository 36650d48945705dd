"""Three services behind haproxy and a Cluster of three nodes, each in a network of its own, while parts of it die.

    unshare --net --mount python -m tests.service.replicas --bundle DIR --next DIR --out DIR [--seconds 2]

Callers ask for lists and send events all the while. A service is killed, a node of the Cluster is killed, every service
is restarted in turn, a version is published. JSON last: of each phase the answers by status and by level, and at the
end whether every event is there once, and whether all services give the same answers. A caller repeats an event that
was refused because its node is gone, as a client does.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from service.bench.load import percentile
from service.bundle import read_manifest
from tests.service.cluster import Nodes
from tests.service.running import Running, run_command, wait_for
from tests.service.whole.test_proxy import proxy

USERS = [f"user-{number}" for number in range(60)]
N_READERS, N_WRITERS, N_ITEMS = 3, 2, 40
SERVICES = {f"10.77.0.{11 + number}": f"service{number}" for number in range(3)}
NODES = {f"10.77.0.{21 + number}": f"node{number}" for number in range(3)}
PORT = 8000
PATIENCE_S = 180.0  # for a part to be there again: seven processes share the cores of one machine


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, capture_output=True)


def make_networks() -> None:
    """Make a network for each service and node, all on one bridge, inside this process's own network."""
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "address", "add", "10.77.0.1/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
    for address, name in {**SERVICES, **NODES}.items():
        run("ip", "netns", "add", name)
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", name, "master", "bridge", "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            run("ip", "-n", name, *words)


def inside(name: str) -> list[str]:
    """Return what stands before a command that runs in a network."""
    return ["ip", "netns", "exec", name]


class Replica(Running):
    """A service in a network of its own."""

    def __init__(self, name: str, bundle: Path, data_dir: Path, **environment: str) -> None:
        super().__init__(bundle, data_dir, port=str(PORT), **environment)
        self._command = [*inside(name), *self._command]


class Load:
    """Callers that ask and send events without a pause, and what became of that, by phase."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.phase = "begin"
        self.statuses: dict[str, Counter[str]] = defaultdict(Counter)
        self.levels: dict[str, Counter[str]] = defaultdict(Counter)
        self.times_ms: dict[str, list[float]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self._numbers = count()
        self._is_over = threading.Event()
        works = [self._read] * N_READERS + [self._write] * N_WRITERS
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every caller finish what it has begun."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        pause = threading.Event()
        with httpx.Client(base_url=self._url, trust_env=False, timeout=30) as client:
            while not self._is_over.is_set():
                phase, began = self.phase, time.perf_counter()
                answer = self._post(client, phase, "/recommend", {"user_id": USERS[next(self._numbers) % len(USERS)]})
                self.times_ms[phase].append((time.perf_counter() - began) * 1000)
                if answer is not None and answer.status_code == 200:
                    self.levels[phase][answer.json()["quality"]["level"]] += 1
                pause.wait(0.005)

    def _write(self) -> None:
        pause = threading.Event()
        with httpx.Client(base_url=self._url, trust_env=False, timeout=30) as client:
            while not self._is_over.is_set():
                number = next(self._numbers)
                user = USERS[number % len(USERS)]
                event = {"user_id": user, "item_id": f"i{number % N_ITEMS}", "event_id": f"e{number}"}
                while not self._is_taken(client, event):
                    pause.wait(0.05)
                self.sent[user] += 1
                pause.wait(0.01)

    def _is_taken(self, client: httpx.Client, event: dict[str, str]) -> bool:
        phase = self.phase
        answer = self._post(client, phase, "/events", {"events": [event]}, is_refusal_fine=True)
        if answer is None or answer.status_code != 200:
            return False
        body = answer.json()
        assert body["accepted"] + body["duplicates"] == 1, body
        return True

    def _post(
        self, client: httpx.Client, phase: str, path: str, body: Any, *, is_refusal_fine: bool = False
    ) -> httpx.Response | None:
        try:
            answer = client.post(path, json=body)
        except httpx.HTTPError as exc:
            self.statuses[phase][type(exc).__name__] += 1
            return None
        if is_refusal_fine and answer.status_code == 503 and answer.json()["error"]["code"] == "store_unavailable":
            self.refused[phase] += 1
        else:
            self.statuses[phase][str(answer.status_code)] += 1
        return answer


class Site:
    """All of it, running."""

    def __init__(self, arguments: argparse.Namespace, stack: ExitStack) -> None:
        out: Path = arguments.out
        self._arguments, self._pause = arguments, threading.Event()
        (out / "nodes").mkdir()
        places = {address: inside(name) for address, name in NODES.items()}
        self.nodes = Nodes(out / "nodes", stack, places)
        settings = {
            "redis_url": self.nodes.url, "allow_anonymous": "1", "drain_s": "0.5", "history_events": "10000",
            "budget_ms": "1000",  # a busy machine is no fault of the store
        }  # fmt: skip
        self.replicas = [
            stack.enter_context(Replica(name, arguments.bundle, out / name, host=address, **settings))
            for address, name in SERVICES.items()
        ]
        url = stack.enter_context(proxy("haproxy", out / "haproxy", [(address, PORT) for address in SERVICES]))
        self.load = Load(url)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what callers see under a name, from its beginning until a while after all is whole again."""
        self.load.phase = name
        yield
        wait_for(self.is_whole, PATIENCE_S)
        self._pause.wait(self._arguments.seconds)

    def is_whole(self) -> bool:
        """Whether every service answers, and has a store."""
        answers = [replica.client.get("/readyz").json() for replica in self.replicas]
        return all(answer["ready"] and answer["store"]["is_up"] for answer in answers)

    def run(self) -> None:
        """Go through all phases."""
        with self.phase("steady"):
            pass
        with self.phase("service killed"):
            self.replicas[0].kill()
            self._pause.wait(self._arguments.seconds)
            self.replicas[0].start()
        with self.phase("node killed"):
            self.nodes.kill(1)
            self._pause.wait(self._arguments.seconds)
            self.nodes.restart(1)
        with self.phase("rolling restart"):
            for replica in self.replicas:
                replica.process.terminate()
                assert replica.process.wait(PATIENCE_S) == 0
                replica.client.close()
                replica.start()
                wait_for(lambda replica=replica: replica.metric("retort_recommendations_total") > 5, PATIENCE_S)
        with self.phase("publish"):
            done = run_command("publish", str(self._arguments.next), "--wait", "150", redis_url=self.nodes.url)
            assert done.returncode == 0, done.stderr
        self.load.stop()


def compare(site: Site) -> dict[str, Any]:
    """Return whether every event is there once, and whether all services give the same answers, whole ones."""
    kept, answers = [], []
    for replica in site.replicas:
        wait_for(
            lambda replica=replica: all(
                replica.recommend(user_id=user, budget_ms=1000)["quality"]["level"] == "full" for user in USERS
            ),
            PATIENCE_S,
        )
        kept.append({user: replica.client.get(f"/users/{user}").json()["count"] for user in USERS})
        lists = [replica.recommend(user_id=user, k=10, budget_ms=1000) for user in USERS]
        answers.append([(each["model_version"], [item["item_id"] for item in each["items"]]) for each in lists])
    return {
        "events_sent": site.load.sent.total(),
        "events_kept": [sum(each.values()) for each in kept],
        "are_counts_exact": all(each == {user: site.load.sent[user] for user in USERS} for each in kept),
        "are_answers_the_same": all(each == answers[0] for each in answers),
        "versions": sorted({version for each in answers for version, _ in each}),
    }


def main() -> int:
    """Run it; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--bundle", "--next", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    os.environ["RETORT_REQUIRE_PROXIES"] = "1"
    make_networks()
    with ExitStack() as stack:
        site = Site(arguments, stack)
        site.run()
        found = compare(site)
    load = site.load
    phases = {
        phase: {
            "statuses": dict(load.statuses[phase]), "levels": dict(load.levels[phase]),
            "events_refused": load.refused[phase],
            "ms": {f"p{round(share * 100)}": round(percentile(times, share), 1) for share in (0.5, 0.99)},
        }
        for phase, times in list(load.times_ms.items())
    }  # fmt: skip
    next_version = read_manifest(arguments.next).version
    print(json.dumps({"phases": phases, **found, "is_next_served": found["versions"] == [next_version]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
