"""The teachers of a run directory by name: what scores with each, how long a history it reads, what it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from training.evaluation.judge import Ranking, Scorer, model_scorer
from training.export.graph import export_encoder
from training.export.onnx_student import time_encoder
from training.model.checkpoint import load_model
from training.model.curve import load_curve
from training.model.device import choose_device
from training.model.encoder import count_parameters
from training.teacher.linear import load_linear
from training.teacher.mix import load_factors

PLACES = {"transformer": "teacher", "linear": "linear", "text": "text_teacher", "twin": "twin"}  # a member's stage
LABELS = {
    "transformer": "soft_labels",
    "text": "text_labels",
    "twin": "twin_labels",
}  # where the states of a neural one are
REPEATS = 50


@dataclass(frozen=True)
class Member:
    """One teacher."""

    scorer: Scorer
    max_history: int
    parameters: int
    seconds: float  # of training
    time_encoding: Callable[[], float]  # microseconds for one full history, on one core


def open_member(run: Path, name: str) -> Member:
    """Open a teacher that was trained in the run directory."""
    return _open_linear(run / PLACES[name]) if name == "linear" else _open_transformer(run / PLACES[name])


def mixed_members(run: Path) -> list[str]:
    """Return the names of those that take part in the mix."""
    return list(load_factors(run / "mix"))


def member_rankings(run: Path) -> dict[str, Ranking]:
    """Return each mixed teacher's own ranking of the judged part, where the mix has more than one."""
    names = mixed_members(run)
    return {name: Ranking.load(run / PLACES[name] / "ranking.npz") for name in names} if len(names) > 1 else {}


def _open_transformer(stage: Path) -> Member:
    model = load_model(stage / "model.safetensors")
    size = model.size
    return Member(
        model_scorer(model.to(choose_device())),
        size.max_history,
        count_parameters(model),
        sum(row.seconds for row in load_curve(stage / "curve.json")),
        lambda: time_encoder(export_encoder(model.cpu()), dim=size.dim, max_history=size.max_history),
    )


def _open_linear(stage: Path) -> Member:
    model = load_linear(stage)
    score, longest = model.scorer(), model.setting.max_history
    history = torch.from_numpy(np.random.default_rng(0).integers(0, model.n_items, (1, longest)))

    def time_encoding() -> float:
        return 1e6 * median(_seconds(lambda: score(history)) for _ in range(REPEATS))

    return Member(score, longest, model.weights.size, model.seconds, time_encoding)


def _seconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started
