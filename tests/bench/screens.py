"""Whether people who have the service's page open cost callers their budget.

    python tests/bench/screens.py [--rounds 6] [--seconds 5] [--people 10] [--rate 50]

A service of 20,000 items and a caller that asks at a steady rate, alone and beside people, in turn. Each person is a
process of this machine that asks what the page asks, one screen after the other, with half a second of looking between:
more than anybody clicks. For both: the share of the caller's answers that came within the budget and were full, p50 and
p99 in milliseconds from when they were due. JSON last. It exits with 1 where people cost a hundredth of the share.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from filter import SERVED, write_catalogue
from rig import ask, connect, machine, percentiles, started_service

MOST_COST = 0.01
BUDGET_MS = 50
LOOKING_S = 0.5
USER = {"user_id": "u"}
SCREENS: list[list[tuple[str, dict[str, object] | None]]] = [
    [("/", None), ("/openapi.json", None), ("/model", None)],
    [("/recommend", {**USER, "k": 10, "debug": True})],
    [("/users/u", None), ("/recommend", {**USER, "k": 10, "explain": True, "debug": True})],
    [("/recommend", {**USER, "k": 20}), ("/recommend", {**USER, "k": 20, "diversity": 0.5, "trend": 2})],
    [("/items/search", {"text": "item 12", "k": 8}), ("/items/i12", None), ("/similar", {"item_id": "i12", "k": 10})],
    [("/model/versions", None)],
    [("/metrics/hour", None), ("/readyz", None), ("/model/versions", None)],
]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--rate", type=float, default=50.0)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {"alone": [], "beside people": []}
    n_good = dict.fromkeys(times, 0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_catalogue(folder / "bundle", SERVED, is_sum=False)
        settings = {"data_dir": str(folder / "data"), "budget_ms": str(BUDGET_MS)}
        with started_service(folder / "bundle", **settings) as url, closing(connect(url)) as caller:
            events = [{**USER, "item_id": f"i{row}", "timestamp": 1000 + row} for row in range(20)]
            _, status, answer = ask(caller, "/events", json.dumps({"events": events}).encode())
            assert status == 200, answer
            with looking(url, arguments.people) as (is_on, n_asked):
                call(url, arguments.rate, 2.0)
                for _ in range(arguments.rounds):
                    for name in times:
                        (is_on.set if name == "beside people" else is_on.clear)()
                        time.sleep(2 * LOOKING_S)  # those who ask now have their answers
                        taken, good = call(url, arguments.rate, arguments.seconds)
                        times[name] += taken
                        n_good[name] += good
                asked = n_asked.value
    shares = {name: n_good[name] / len(times[name]) for name in times}
    found = {name: {"within_budget": round(shares[name], 5), **percentiles(times[name])} for name in times}
    print(json.dumps({"machine": machine(), "people": arguments.people, "asked_by_people": asked, "found": found}))
    return 0 if shares["alone"] - shares["beside people"] <= MOST_COST else 1


def call(url: str, rate: float, seconds: float) -> tuple[list[float], int]:
    """Ask at a steady rate; return the milliseconds from when each was due, and how many were full and in time."""
    body, times, n_good = json.dumps({**USER, "k": 10}).encode(), list[float](), 0
    with closing(connect(url)) as caller:
        began = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            _, status, answer = ask(caller, "/recommend", body)
            times.append((time.perf_counter() - due) * 1000)
            n_good += status == 200 and times[-1] <= BUDGET_MS and json.loads(answer)["quality"]["level"] == "full"
    return times, n_good


@contextmanager
def looking(url: str, people: int) -> "Iterator[tuple[Event, Any]]":
    """Start people, who look while the event that is yielded is set; the number yielded counts what they asked."""
    context = get_context("spawn")
    is_on, n_asked = context.Event(), context.Value("i", 0)
    with ExitStack() as ends:
        for number in range(people):
            process = context.Process(target=look, args=(url, number, is_on, n_asked), daemon=True)
            process.start()
            ends.callback(process.terminate)
        yield is_on, n_asked


def look(url: str, number: int, is_on: Event, n_asked: Any) -> None:
    """Ask for one screen after the other, for ever."""
    with closing(connect(url)) as page:
        while True:
            is_on.wait()
            number += 1
            for path, body in SCREENS[number % len(SCREENS)]:
                content = None if body is None else json.dumps(body)
                page.request("GET" if body is None else "POST", path, content, {"Content-Type": "application/json"})
                answer = page.getresponse()
                answer.read()
                assert answer.status < 500, (path, answer.status)
                with n_asked.get_lock():
                    n_asked.value += 1
            time.sleep(LOOKING_S)


if __name__ == "__main__":
    sys.exit(main())
