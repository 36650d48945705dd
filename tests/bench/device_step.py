"""Training steps of the default teacher and student on the device of this machine: how many a second, and at what use.

    python tests/bench/device_step.py --run runs/shop [--steps 100]

A run directory that is trained to its end gives data, sizes, what models are given, and teachers. Four kinds of steps
take turns of some steps: the transformer and the student by hard labels and taste alone, which is all arithmetic; the
transformer with the trend; and the student with trend, neighbours and the teachers' soft labels, as a run trains it.
What the third and fourth take more than the first two is what is made for each step beside the model.

Operations are counted by torch (matrix products and attention, forward and backward). Their share of what the device
does in large bfloat16 products, measured here first, is the model FLOPs utilisation. JSON on the last line.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.distillation.teaching import learn_from
from training.evaluation.trained import open_course
from training.model.batch import training_batches
from training.model.device import choose_device
from training.model.encoder import make_model
from training.model.fit import Learner, train_step, with_given
from training.progress import Progress
from training.run.config_file import load_config
from training.run.directory import Run, open_recipe, open_schedule, open_size, open_source
from training.run.given import open_given
from training.teacher.transformer import learn_hard

SIDE, PRODUCTS = 8192, 10  # of the products that tell what the device does at best
Steps = Iterator[int]


def main() -> None:
    """Measure, print the table, and JSON on the last line."""
    arguments = parse_arguments()
    device = choose_device()
    peak = measure_peak(device)
    kinds = make_kinds(Run(arguments.run, load_config(arguments.run / "config.toml"), Progress()))
    flops = {name: count_flops(steps) for name, steps in kinds.items()}
    for steps in kinds.values():
        take(steps, arguments.steps // 4, device)
    turns: dict[str, list[tuple[float, int]]] = {name: [] for name in kinds}
    for _ in range(arguments.turns):
        for name, steps in kinds.items():
            turns[name].append(take(steps, arguments.steps, device))
    report(turns, flops, peak, arguments)


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run directory that is trained to its end")
    parser.add_argument("--steps", type=int, default=100, help="a turn")
    parser.add_argument("--turns", type=int, default=5)
    return parser.parse_args()


def make_kinds(run: Run) -> dict[str, Steps]:
    """Return what takes turns: each yields the targets of one step after the other."""
    prepared = run.prepared()
    trend, given = open_given(run, prepared, with_table=False), open_given(run, prepared)
    source = open_source(run, prepared, given)
    taught = learn_from(source, open_recipe(run), 1)
    made = {
        "transformer, taste alone": ("teacher", learn_hard, None),
        "student, taste alone": ("student", learn_hard, None),
        "transformer, with the trend": ("teacher", learn_hard, trend),
        "student, distilled": ("student", taught, given),
    }
    return {name: _steps(run, *what) for name, what in made.items()}


def _steps(run: Run, section: str, lesson: Callable, given: object) -> Steps:
    """Train as a run does; yield the number of targets of each step."""
    prepared = run.prepared()
    schedule = open_schedule(getattr(run.config, section))
    course = open_course(prepared, schedule, run.progress, given, None)
    size = open_size(run.config, section)
    model = make_model(len(prepared.items), size, 1).to(choose_device()).train()
    objective = with_given(lesson(model), model, given)
    learner = Learner.start(model, objective, schedule.learning_rate)
    shape = {"max_history": size.max_history, "positions": schedule.batch_positions}
    for seed in count():
        for batch in training_batches(course.events, **shape, seed=seed):
            train_step(learner, batch, schedule.learning_rate)
            yield len(batch.target)


def take(steps: Steps, how_many: int, device: torch.device) -> tuple[float, int]:
    """Take steps; return the seconds that they took and their targets."""
    wait(device)
    started = perf_counter()
    targets = sum(next(steps) for _ in range(how_many))
    wait(device)
    return perf_counter() - started, targets


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def count_flops(steps: Steps) -> float:
    """Return the operations a target, of three steps."""
    with FlopCounterMode(display=False) as counted:
        targets = sum(next(steps) for _ in range(3))
    return counted.get_total_flops() / targets


def measure_peak(device: torch.device) -> float:
    """Return the operations a second of large products in bfloat16 on random numbers."""
    side = SIDE if device.type == "cuda" else SIDE // 8
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(3 + PRODUCTS):
        wait(device)
        started = perf_counter()
        left @ right
        wait(device)
        seconds.append(perf_counter() - started)
    return 2 * side**3 / median(seconds[3:])


def report(
    turns: dict[str, list[tuple[float, int]]], flops: dict[str, float], peak: float, arguments: argparse.Namespace
) -> None:
    """Print the table, and JSON on the last line."""
    device = choose_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(
        f"{name}: {peak / 1e12:.1f} TFLOP/s in bfloat16\n{'':30}{'ms/step':>9}{'targets/s':>12}{'TFLOP/s':>9}{'use':>8}"
    )
    found = {}
    for kind, taken in turns.items():
        rate = median(targets / seconds for seconds, targets in taken)
        row = {
            "ms_per_step": round(1e3 * median(seconds for seconds, _ in taken) / arguments.steps, 3),
            "targets_per_second": round(rate),
            "tflops": round(rate * flops[kind] / 1e12, 3),
            "use": round(rate * flops[kind] / peak, 4),
        }
        print(f"{kind:30}{row['ms_per_step']:9.2f}{rate:12,.0f}{row['tflops']:9.2f}{row['use']:8.2%}")
        found[kind] = row
    peak_memory = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else None
    about = {"device": name, "torch": torch.__version__, "peak_tflops": round(peak / 1e12, 1), "gpu_mb": peak_memory}
    print(json.dumps(about | {"load": os.getloadavg()[0], "steps": found}))


if __name__ == "__main__":
    main()
