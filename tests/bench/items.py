"""Live items: how soon every worker shows a new one, whether one is lost, and what 100,000 of them cost a search.

    python tests/bench/items.py [--workers 4] [--changes 300] [--upserts 10000] [--live 100000] [--items 1000000]

First a service with four workers is asked for answers by four callers all the time, while items are put one after the
other: from each PUT's beginning until all workers, each over a connection of its own, answer with the new title.
Then items are put in lists while workers and the store are killed by turns: whatever was acknowledged must be there.
Last, one search of a large catalogue through codes is timed on one core, without live items and with them. JSON last.
It exits with 1 where the 99th percentile until visible is above a second, or an item was lost.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import httpx
import numpy as np
from filter import DIM, write_catalogue
from rig import machine

from service.catalogue.live_item import LiveItem
from service.model.catalogue import Catalogue
from service.model.student import Student
from service.search.choice import open_search
from tests.service.running import Running, wait_for
from tests.service.toy import write_toy

N_CALLERS, N_SEEING, K = 4, 16, 100


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--upserts", type=int, default=10_000)
    parser.add_argument("--live", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        found = {
            "machine": machine(),
            "visible_ms": time_visibility(folder / "a", arguments.workers, arguments.changes),
            "lost": count_lost(folder / "b", arguments.workers, arguments.upserts),
            "search_ms": time_search(folder / "c", arguments.items, arguments.live) if arguments.live else None,
        }
    print(json.dumps(found))
    return int(found["visible_ms"]["p99"] > 1000 or found["lost"]["lost"] > 0)


def time_visibility(folder: Path, n_workers: int, n_changes: int) -> dict[str, float]:
    """Return percentiles of the milliseconds from a PUT's beginning until every worker shows it."""
    bundle = write_toy(folder / "bundle", n_items=20_000)
    found = []
    with Running(bundle.path, folder / "data", "--workers", str(n_workers)) as service, load(service):
        host, port = service.url.removeprefix("http://").split(":")
        seeing = [HTTPConnection(host, int(port)) for _ in range(N_SEEING)]
        for number in range(n_changes):
            start = time.monotonic()
            service.client.put(f"/items/n{number}", json={"title": f"t{number}", "like": ["i5"]}).raise_for_status()
            for caller in seeing:
                wait_for(lambda caller=caller, number=number: shows(caller, number), every_s=0.002)
            found.append((time.monotonic() - start) * 1000)
    return percentiles(found)


def shows(caller: HTTPConnection, number: int) -> bool:
    """Whether the worker that a connection leads to has an item."""
    caller.request("GET", f"/items/n{number}")
    response = caller.getresponse()
    response.read()
    return response.status == 200


@contextmanager
def load(service: Running):
    """Ask for answers all the time."""
    is_over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=service.url, trust_env=False) as client:
            while not is_over.is_set():
                client.post("/recommend", json={"history": ["i1", "i2"], "k": 10})
                is_over.wait(0.005)

    callers = [threading.Thread(target=ask) for _ in range(N_CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        is_over.set()
        for caller in callers:
            caller.join()


def count_lost(folder: Path, n_workers: int, n_upserts: int) -> dict[str, int]:
    """Put items in lists of 50 while workers and the store are killed; return how many were acknowledged and lost."""
    bundle = write_toy(folder / "bundle")
    confirmed: list[str] = []
    n_kills = 0
    with Running(bundle.path, folder / "data", "--workers", str(n_workers)) as service:
        for first in range(0, n_upserts, 50):
            if first % 1000 == 500:
                n_kills += 1
                os.kill(service.store_pid() if n_kills % 2 else worker_of(service), signal.SIGKILL)
            listed = [{"item_id": f"n{first + place}", "title": "x"} for place in range(50)]
            wait_for(lambda listed=listed: put(service.url, listed))
            confirmed += [each["item_id"] for each in listed]
        service.kill()
        service.start()
        with httpx.Client(base_url=service.url, trust_env=False) as client:
            lost = sum(client.get(f"/items/{item_id}").status_code != 200 for item_id in confirmed)
    return {"acknowledged": len(confirmed), "kills": n_kills, "lost": lost}


def put(url: str, listed: list[dict[str, str]]) -> bool:
    """Put a list; whether it was acknowledged."""
    try:
        answer = httpx.post(f"{url}/items", json={"items": listed}, timeout=10, trust_env=False)
    except (httpx.TransportError, HTTPException):
        return False
    return answer.status_code == 200 and answer.json()["accepted"] == len(listed)


def worker_of(service: Running) -> int:
    """Return the process id of a worker."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    return next(int(child) for child in reversed(children) if int(child) != service.store_pid())


def time_search(folder: Path, n_items: int, n_live: int) -> dict[str, dict[str, float]]:
    """Return percentiles of the milliseconds of one search on one core, without and with live items."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    bundle = write_catalogue(folder / "bundle", n_items, is_sum=False)
    student = Student(bundle)
    search = open_search(bundle, student.encode, kind="approximate", directory=folder, warn=lambda text: None)
    catalogue = Catalogue(bundle, search)
    found = {"without": time_best(catalogue)}
    rng = np.random.default_rng(2)
    fields = [{"vectors": vector} for vector in rng.normal(size=(n_live, DIM)).tolist()]
    records = {f"n{place}": LiveItem(2e9, "put", each, bundle.manifest.version) for place, each in enumerate(fields)}
    started = time.monotonic()
    catalogue.take_live(records, 2e9)
    found["taken in"] = {"seconds": round(time.monotonic() - started, 1)}
    return {**found, "with": time_best(catalogue)}


def time_best(catalogue: Catalogue, n_users: int = 300) -> dict[str, float]:
    """Time searches of users, one at a time."""
    rng, found = np.random.default_rng(1), []
    for _ in range(n_users):
        user = catalogue.vectors(rng.integers(0, catalogue.n_made, 10)).mean(axis=0)[None]
        start = time.perf_counter()
        catalogue.best(catalogue.score(user, K, 0), K, [()])
        found.append((time.perf_counter() - start) * 1000)
    return percentiles(found[10:])


def percentiles(found: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the greatest."""
    return {"p50": round(float(np.median(found)), 2), "p99": round(float(np.quantile(found, 0.99)), 2),
            "max": round(max(found), 2)}  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
