"""Our training step against RecTools' SASRec of the same width, depth, heads, length, loss and batch, on the same data.

    /tmp/rectools/bin/python tests/bench/teacher_step.py --run runs/shop      (the venv: see rectools_sasrec.py)

Processes, one a side, take turns of a few steps, so that whatever else the machine does falls on all; each tells
its own peak memory. A batch is --batch windows: RecTools pads each to the full length, ours groups windows of like
length up to as many targets as RecTools' mean batch has. All do all their own work: batches, forward, loss over the
whole catalogue, backward, optimiser (ours also clips and averages). Ours runs in bfloat16 where the processor has
it, RecTools in float32 as it comes and once in bfloat16 too. Twice: on windows as they are, and on full windows
alone, where there is no padding to save. Prints a table, and JSON on the last line.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from training.data.event import Events, select_events
from training.data.prepared import load_prepared
from training.data.split import TRAIN
from training.loss.logits import hard_loss
from training.model.batch import training_batches
from training.model.encoder import SequenceModel, Size
from training.model.fit import Learner, train_step
from training.model.objective import Objective

SIDES = ("ours", "rectools", "rectools bf16")


def main() -> None:
    """Run both rounds, or one side of one."""
    arguments = parse_arguments()
    if arguments.side:
        serve(arguments)
        return
    rounds = {name: compare(arguments, name) for name in ("all", "full")}
    report(rounds, arguments)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run directory with prepared/ and config.toml")
    parser.add_argument("--batch", type=int, default=128, help="windows a step (RecTools' default)")
    parser.add_argument("--turns", type=int, default=8, help="turns of each side, after one to warm up")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--max-history", type=int, default=50)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--windows", choices=("all", "full"), help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(arguments: argparse.Namespace, windows: str) -> dict[str, dict[str, float]]:
    """Let the sides take turns; return seconds a thousand targets, targets a step and peak memory of each."""
    command = [sys.executable, *sys.argv, "--windows", windows, "--side"]
    workers = {
        side: subprocess.Popen([*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side in SIDES
    }
    turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(arguments.turns + 1):
        for side, worker in workers.items():
            print("go", file=worker.stdin, flush=True)
            told = json.loads(worker.stdout.readline())
            if turn:
                turns[side].append(told)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return {side: summarise(told) for side, told in turns.items()}


def summarise(turns: list[dict[str, float]]) -> dict[str, float]:
    """Return medians over the turns, and the peak memory after the last."""
    return {
        "ms_per_1000_targets": median(turn["seconds"] / turn["targets"] * 1e6 for turn in turns),
        "ms_per_step": median(turn["seconds"] / turn["steps"] * 1e3 for turn in turns),
        "targets_per_step": sum(turn["targets"] for turn in turns) / sum(turn["steps"] for turn in turns),
        "peak_mb": turns[-1]["peak_mb"],
    }


def serve(arguments: argparse.Namespace) -> None:
    """Be one side: for each line on stdin, take some steps and print how long they took."""
    warnings.filterwarnings("ignore")
    steps = {"ours": our_steps, "rectools": rectools_steps, "rectools bf16": rectools_steps}[arguments.side](arguments)
    for _ in sys.stdin:
        started = perf_counter()
        targets = sum(next(steps) for _ in range(arguments.steps))
        told = {"seconds": perf_counter() - started, "targets": targets, "steps": arguments.steps}
        told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(told), flush=True)


def training_events(arguments: argparse.Namespace) -> tuple[Events, int]:
    """Return the training events and the number of items.

    With --windows full, only users with a full window count, and only their newest one.
    """
    prepared = load_prepared(arguments.run / "prepared")
    kept = prepared.part == TRAIN
    events = select_events(prepared.user, prepared.item, kept, len(prepared.users))
    if arguments.windows == "full":
        wanted = arguments.max_history + 1
        long = np.flatnonzero(events.lengths() >= wanted)
        index = events.offset[1:][long][:, None] - wanted + np.arange(wanted)
        events = Events(events.item[index].ravel(), np.arange(len(long) + 1) * wanted)
    return events, len(prepared.items)


def targets_per_batch(events: Events, arguments: argparse.Namespace) -> int:
    """Return how many targets --batch windows have on average."""
    length = np.maximum(events.lengths() - 1, 0)
    windows = -(-length // arguments.max_history)
    return round(arguments.batch * length.sum() / windows.sum())


def our_steps(arguments: argparse.Namespace) -> Iterator[int]:
    """Train as training.model.fit does; yield the number of targets of each step."""
    events, n_items = training_events(arguments)
    torch.manual_seed(0)
    size = make_size(arguments)
    model = SequenceModel(n_items, size).train()
    objective = Objective(lambda logits, batch, chunk: hard_loss(logits, batch.target[chunk]))
    learner = Learner.start(model, objective, 1e-3)
    positions = targets_per_batch(events, arguments)

    for seed in cycle(range(1000)):
        for batch in training_batches(events, max_history=arguments.max_history, positions=positions, seed=seed):
            train_step(learner, batch, 1e-3)
            yield len(batch.target)


def make_size(arguments: argparse.Namespace) -> Size:
    """Return our model's size for the same width, depth, heads, dropout and length."""
    blocks = ("attention",) * arguments.layers
    return Size(arguments.dim, blocks, arguments.heads, arguments.dropout, arguments.max_history)


def rectools_steps(arguments: argparse.Namespace) -> Iterator[int]:
    """Take RecTools' own training steps, without Lightning's loop; yield the number of targets of each."""
    from rectools_sasrec import Setting, make_model, windows_of

    events, _ = training_events(arguments)
    setting = Setting(
        arguments.dim, arguments.layers, arguments.heads, arguments.dropout, arguments.max_history,
        1, 1, 0, 1e-3, arguments.batch, "",
    )  # fmt: skip
    torch.manual_seed(0)
    user = np.repeat(np.arange(events.n_users), events.lengths())
    model = make_model(setting, windows_of(user, events.item, events, arguments.max_history))
    module = model.lightning_model
    module._xavier_normal_init()
    module.log = lambda *_, **__: None  # nobody listens
    module.train()
    optimizer = torch.optim.Adam(module.torch_model.parameters(), lr=1e-3, betas=module.adam_betas)
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.side.endswith("bf16"))
    while True:
        for number, batch in enumerate(model.data_preparator.get_dataloader_train()):
            optimizer.zero_grad()
            with mixed:
                loss = module.training_step(batch, number)
            loss.backward()
            optimizer.step()
            yield int((batch["y"] != 0).sum())


def report(rounds: dict[str, dict[str, dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Print the table, and JSON on the last line."""
    print(f"{'':34}{'ms/1000 targets':>16}{'ms/step':>10}{'targets/step':>14}{'peak MB':>9}{'ours is':>10}")
    for windows, sides in rounds.items():
        for side, row in sides.items():
            row["ours_is_faster"] = row["ms_per_1000_targets"] / sides["ours"]["ms_per_1000_targets"]
            print(
                f"{windows + ' windows, ' + side:34}{row['ms_per_1000_targets']:16.1f}{row['ms_per_step']:10.0f}"
                f"{row['targets_per_step']:14.0f}{row['peak_mb']:9.0f}{row['ours_is_faster']:9.2f}x"
            )
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": {name: version(name) for name in ("torch", "rectools")},
        "setting": {key: value for key, value in vars(arguments).items() if isinstance(value, int | float)},
        "run": arguments.run.name,
        "ours_runs_in_bfloat16": torch.cpu._is_avx512_bf16_supported(),
    }
    print(json.dumps(about | {"rounds": rounds}))


if __name__ == "__main__":
    main()
