"""The learning curve of one training: what each epoch cost and how good the model was after it, kept as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Epoch:
    """One finished epoch. loss: the mean over its targets; validation: NDCG@10 on the validation part, after it."""

    epoch: int  # 0 is the first
    loss: float
    validation: float
    seconds: float  # validation included


def save_curve(path: Path, curve: Sequence[Epoch]) -> None:
    """Write a learning curve as JSON."""
    path.write_text(json.dumps([asdict(row) for row in curve], indent=1) + "\n")


def load_curve(path: Path) -> list[Epoch]:
    """Read a learning curve that save_curve wrote. Raises FileNotFoundError where there is none."""
    return [Epoch(**row) for row in json.loads(path.read_text())]


def best_epochs(curve: Sequence[Epoch]) -> int:
    """Return after how many epochs validation was best; the first of equals."""
    return 1 + max(curve, key=lambda row: row.validation).epoch
