"""A tiny chain world (each item is followed by the next) and the settings of a run of it that takes seconds."""

import csv
import signal
from pathlib import Path

import numpy as np

N_ITEMS = 60
TINY = (
    "teacher.members=transformer", "teacher.dim=32", "teacher.blocks=attention", "teacher.heads=2",
    "teacher.dropout=0.0", "teacher.epochs=6", "compress.items=float32", "compress.encoder=float32",
    "teacher.max_history=12", "teacher.learning_rate=0.01", "teacher.batch_positions=256",
    "student.parts=taste", "student.dim=16", "student.epochs=4", "student.alone_dropout=0.0", "distill.smoothing=0",
    "student.max_history=8", "student.learning_rate=0.01", "student.batch_positions=256",
)  # fmt: skip


def write_chain_world(path: Path, *, users: int = 120, seed: int = 0) -> Path:
    """Users walk along a ring of items, with a jump now and then; ids start with zeros, every fifth user's times tie.

    The lines are shuffled: file order must not matter.
    """
    rng = np.random.default_rng(seed)
    lines = []
    for user in range(users):
        item = int(rng.integers(N_ITEMS))
        for step in range(int(rng.integers(4, 20))):
            minute = step // 2 if user % 5 == 0 else step
            lines.append([f"u{user}", f"{item:04d}", 1_700_000_000 + 1000 * user + 60 * minute])
            item = (item + 1) % N_ITEMS if rng.random() < 0.9 else int(rng.integers(N_ITEMS))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        writer.writerows(lines[i] for i in rng.permutation(len(lines)))
    return path


def tiny_settings(*more: str) -> list[str]:
    """The --set arguments of a run that takes seconds."""
    return [word for setting in (*TINY, *more) for word in ("--set", setting)]


def heed_interrupts() -> None:
    """A shell's background jobs ignore SIGINT; a child of ours must not inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
