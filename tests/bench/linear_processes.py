"""The linear teacher in several processes: processor seconds of each, and what waiting for the first one takes.

    python tests/bench/linear_processes.py [--items 5000] [--events 300000] [--processes 2] [--wait 20]

Random histories are multiplied and solved for in one process and in several of one thread each; then the others wait
for the first, which sleeps. Processor time counts nothing in which others have the cores. JSON on the last line; it
exits with 1 where the models differ in a bit.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from time import process_time, sleep

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from rig import machine

from tests.training.together import together
from training import ranks
from training.data.event import Events
from training.teacher.linear_model import Problem, Setting

SETTING = Setting(decay=0.85, future=5, future_decay=0.8, penalty=50.0, discount=0.25)
LENGTH = 40  # events of a user


def work(directory: Path) -> torch.Tensor:
    """Return the seconds of building, of solving and of waiting; the first leaves the sum of the model's bytes."""
    asked = json.loads((directory / "asked.json").read_text())
    events = random_events(asked["events"], asked["items"])
    marks = [process_time()]
    problem = Problem.build(events, asked["items"], np.arange(asked["items"]), SETTING.decay, [(5, 0.8)])
    marks.append(process_time())
    model = problem.end(SETTING)
    marks.append(process_time())
    if ranks.is_first():
        (directory / f"sum-{ranks.count()}").write_text(hashlib.sha256(model.weights.tobytes()).hexdigest())
    waits_since = process_time()
    ranks.alone(lambda: sleep(asked["wait"]))
    marks.append(marks[-1] + process_time() - waits_since)
    return torch.tensor(marks).diff()


def random_events(n_events: int, n_items: int) -> Events:
    """Return histories in which some items are far more frequent than others."""
    rng = np.random.default_rng(0)
    item = (n_items * rng.random(n_events) ** 3).astype(np.int32)
    return Events(item, np.append(np.arange(0, n_events, LENGTH), n_events))


def main() -> int:
    """Run it in one process and in several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("items", 5_000), ("events", 300_000), ("processes", 2), ("wait", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    found, sums = {}, set()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "asked.json").write_text(json.dumps(vars(arguments)))
        for count in (1, arguments.processes):
            seconds = [dict(zip(("build", "solve", "wait"), each.tolist(), strict=True))
                       for each in together(count, work, directory)]  # fmt: skip
            found[count] = [{what: round(value, 2) for what, value in each.items()} for each in seconds]
            print(f"{count} processes: {found[count]}", file=sys.stderr)
            sums.add((directory / f"sum-{count}").read_text())
    print(json.dumps({"machine": machine(), **vars(arguments), "seconds": found, "are_bits_the_same": len(sums) == 1}))
    return 0 if len(sums) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
