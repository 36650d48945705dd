"""What the parts of a score cost: taste alone, and the sum with neighbours and trend, in this process on one core.

    python tests/bench/score.py [--items 20000] [--rounds 40] [--users 200]

Tables are drawn at random and stored as int8, with 20 neighbours an item and counts of a power law; every user has 50
events. For each width and kind: weighing, scoring and the best ten of one user, the median over the users of a round,
and the median over rounds that take turns. Also weighing by itself, and a refresh of the counts. JSON last.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from rig import machine

from service.bundle import Float32, Gap, ItemTable, NeighbourRule, Neighbours, Parts, ScoreRule, TrendRule
from service.search.addend import Addends, Standing, stand, weigh
from service.search.exact import Exact

WIDE, NARROW, N_NEIGHBOURS, N_EVENTS, K = 384, 64, 20, 50, 10


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--users", type=int, default=200)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    parts = draw_parts(arguments.items, rng)
    standing = stand(parts, np.asarray(parts.counts[0]))
    histories = rng.integers(0, arguments.items, size=(arguments.users, N_EVENTS)).astype(np.int32)
    ways = {
        f"{width} wide, {name}": one_user(draw_table(arguments.items, width, rng), given, standing, histories)
        for width in (WIDE, NARROW)
        for name, given in (("taste alone", None), ("the sum", parts))
    }
    users = {width: rng.normal(size=(arguments.users, width)).astype(np.float32) for width in (WIDE, NARROW)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            own = users[int(name.split()[0])]
            times[name].append(
                statistics.median(timed(lambda n=n, way=way, own=own: way(own, n)) for n in range(len(own)))
            )
    found = {name: round(statistics.median(each) * 1e6, 1) for name, each in times.items()}
    found["weighing alone"] = round(median_of(lambda n: weigh_one(parts, users[NARROW], histories, standing, n)), 1)
    found["a refresh of the counts"] = round(median_of(lambda n: stand(parts, np.asarray(parts.counts[0]))), 1)
    for name, micros in found.items():
        print(f"{name:30} {micros:10.1f} µs", file=sys.stderr)
    print(json.dumps({"machine": machine(), "items": arguments.items, "micros": found}))
    return 0


def one_user(
    table: ItemTable, parts: Parts | None, standing: Standing, histories: np.ndarray
) -> Callable[[Float32, int], object]:
    """Return what answers one user, by number."""
    search = Exact(table)

    def answer(users: Float32, number: int) -> object:
        own, addends = users[number : number + 1], None
        if parts is not None:
            own, addends = weigh_one(parts, users, histories, standing, number)
        return search.best(search.score(own, K, N_EVENTS, addends), K, [histories[number]])

    return answer


def weigh_one(
    parts: Parts, users: Float32, histories: np.ndarray, standing: Standing, number: int
) -> tuple[Float32, Addends]:
    """Weigh one user, by number."""
    return weigh(parts, users[number : number + 1], [histories[number]], np.array([9.0]), standing)


def draw_table(n_items: int, dim: int, rng: np.random.Generator) -> ItemTable:
    """Return a table of int8."""
    vectors = rng.normal(size=(n_items, dim)).astype(np.float32)
    scales = (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
    return ItemTable(np.round(vectors / scales[:, None]).astype(np.int8), scales)


def draw_parts(n_items: int, rng: np.random.Generator) -> Parts:
    """Return neighbours and a trend."""
    shape = (n_items, N_NEIGHBOURS)
    neighbours = Neighbours(
        rng.integers(0, n_items, size=shape).astype(np.int32),
        rng.integers(-127, 128, size=shape).astype(np.int8),
        np.full(n_items, 0.01, dtype=np.float32),
    )
    gap = Gap([0.0, 8.0, 16.0], [1.0, 0.8, 0.5], [0.1, 0.3, 0.6], 9.0)
    rule = ScoreRule(gap, True, NeighbourRule(0.7, 0.95, N_EVENTS), TrendRule(86_400.0, 0.05, 1.7e9))
    return Parts(rule, neighbours, rng.pareto(1.2, size=(1, n_items)).astype(np.float32))


def timed(work: Callable[[], object]) -> float:
    """Return how long work takes, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_of(work: Callable[[int], object], n_times: int = 300) -> float:
    """Return the median of a few hundred times, in microseconds."""
    return 1e6 * statistics.median(timed(lambda n=n: work(n % 100)) for n in range(n_times))


if __name__ == "__main__":
    sys.exit(main())
