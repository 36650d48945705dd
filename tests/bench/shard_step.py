"""A training step of one of several shards of a large item table: memory, time, and what would cross the network.

    python tests/bench/shard_step.py [--items 10000000] [--width 64] [--shards 16] [--positions 1024]

One process has the rows of the first shard, with their gradients and moments, and scores them for a whole batch, as it
would beside the others. The others are not there: their part of every sum is missing, which changes neither time nor
memory. Each reduction is counted; a ring sends and receives 2 · (shards - 1) / shards of its bytes. The batch comes
from histories of the shard's own items, so a look-up costs what all shards' look-ups together cost. JSON on the last
line. What a logit and a weight take is in it, in core seconds, so that another size can be told.
"""

import argparse
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import process_time

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from training import ranks
from training.data.event import Events
from training.model.batch import training_batches
from training.model.encoder import SequenceModel, Size
from training.model.fit import Learner, train_step
from training.model.item_table import TABLE_STD
from training.parallel.shard import Shard
from training.parallel.table import ShardedItems
from training.teacher.transformer import learn_hard


def main() -> None:
    """Measure, and print the table and the JSON."""
    arguments = parse_arguments()
    shard = Shard.of(arguments.items, 0, arguments.shards)
    reduced = count_reductions()
    learner = make_learner(shard, arguments.width)
    few, _ = take_steps(learner, make_batches(shard, arguments.positions // 4), arguments.steps)
    reduced.clear()
    many, positions = take_steps(learner, make_batches(shard, arguments.positions), arguments.steps)
    sent = sum(reduced) / (1 + arguments.steps) + 2 * 4 * positions * arguments.width  # and the states, both ways
    report(arguments, shard, (few, many), positions, sent)


def take_steps(learner: Learner, batches: Iterator, steps: int) -> tuple[float, int]:
    """Return the median core seconds of a step, and its positions. The first step, which allocates, does not count."""
    seconds = []
    for batch, _ in zip(batches, range(1 + steps), strict=False):
        started = process_time()  # of all threads: it counts no time in which others have the cores
        train_step(learner, batch, 1e-3)
        seconds.append(process_time() - started)
    return median(seconds[1:]), len(batch.target)


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--positions", type=int, default=1024, help="targets a step")
    parser.add_argument("--steps", type=int, default=3)
    return parser.parse_args()


def count_reductions() -> list[int]:
    """Return a list to which every reduction adds its bytes."""
    counted: list[int] = []

    def count(own: torch.Tensor) -> torch.Tensor:
        counted.append(own.numel() * own.element_size())
        return own

    ranks.total = ranks.largest = count
    return counted


def make_learner(shard: Shard, width: int) -> Learner:
    """Return a student of one block whose item table is the shard."""
    torch.manual_seed(0)
    size = Size(width, ("pool",), 2, 0.0, 50)
    model = SequenceModel(1, size)
    rows = torch.nn.Parameter(torch.randn(shard.stop, width) * TABLE_STD)
    model.items = ShardedItems(rows, shard)
    del rows
    return Learner.start(model.train(), learn_hard(model), 1e-3)


def make_batches(shard: Shard, positions: int) -> Iterator:
    """Yield batches of histories of 50 random items of the shard."""
    users = 8 * (positions // 50)  # so that all batches are full
    item = np.random.default_rng(0).integers(0, shard.stop, users * 51).astype(np.int32)
    events = Events(item, np.arange(0, len(item) + 1, 51))
    for seed in range(1000):
        yield from training_batches(events, max_history=50, positions=positions, seed=seed)


def report(
    arguments: argparse.Namespace, shard: Shard, core_seconds: tuple[float, float], positions: int, sent: float
) -> None:
    """Print what a step takes: a time for each logit, and one for each weight of the shard, whatever the batch is."""
    held = shard.stop - shard.first
    few, many = core_seconds
    ns_a_logit = 1e9 * (many - few) / (0.75 * held * positions)
    found = {
        "items": arguments.items,
        "width": arguments.width,
        "shards": arguments.shards,
        "rows": held,
        "positions": positions,
        "core_seconds": round(many, 2),
        "ns_a_logit": round(ns_a_logit, 2),
        "ns_a_weight": round((1e9 * many - ns_a_logit * held * positions) / (held * arguments.width), 2),
        "table_mb": round(4e-6 * held * arguments.width, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "reduced_mb": round(1e-6 * sent, 3),
        "ring_mb": round(2e-6 * sent * (1 - 1 / arguments.shards), 3),
        "ring_mb_of_a_whole_table": round(8e-6 * arguments.items * arguments.width * (1 - 1 / arguments.shards)),
    }
    print("\n".join(f"{name:>26}  {value:,}" for name, value in found.items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
