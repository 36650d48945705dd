"""The teacher that is a linear sequence model: its stage, and its logits at the training events.

Its labels need no stage of their own: the logits after a chunk of events are the logarithm of one product, of the
decayed histories that end there with the rows of the matrix that belong to the items in them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training import ranks
from training.data.event import Events
from training.data.prepared import Prepared, all_events, training_events
from training.data.split import VAL
from training.evaluation.judge import Ranking, judge_scorer
from training.evaluation.question import ask
from training.machine import available_bytes
from training.model.device import choose_device, has_bfloat16
from training.progress import Progress
from training.teacher.calibration import log_scores
from training.teacher.kind import RANKING, Kind, Member, Offer, Supplies, time_scorer
from training.teacher.linear_model import (
    MAX_ITEMS,
    TUNED,
    LinearModel,
    Setting,
    choose_setting,
    covered_rows,
    fit_linear,
    most_items,
    with_best_floor,
)

WEIGHTS, ROWS, SETTING = "weights.npy", "rows.npy", "linear.json"
BYTES_A_WEIGHT = 6  # of a model that scores: it is held as float16, and as float32 beside it
USERS, FLOOR_USERS = 3_000, 1_000  # of the validation, drawn with a fixed seed
VALUES = 1 << 26  # scores in memory at once: of a large catalogue fewer users choose the floor
EVENTS_AT_ONCE = (
    64  # of one product; with many more, most of their histories over all items in any of them would be zeros
)


class LinearLabels:
    """The logits of a linear model over the histories that end with training events. See SoftLabels."""

    def __init__(self, model: LinearModel, events: Events, factor: float, device: torch.device) -> None:
        self._item, self._setting, self._factor = events.item, model.setting, factor
        self._first = np.repeat(events.offset[:-1], events.lengths())  # event of the same user [n_events]
        dtype = torch.bfloat16 if has_bfloat16(device.type) else torch.float32
        self._weights = torch.from_numpy(model.weights).to(device, dtype)  # [M, M]
        self._rows = torch.from_numpy(model.rows).to(device)
        self._place = np.full(model.n_items, -1, dtype=np.int64)
        self._place[model.rows] = np.arange(len(model.rows))

    def logits(self, event: Tensor) -> Tensor:
        """Return the teacher's logits [P, N] after events [P]."""
        if self._weights.device.type == "cuda":
            scores = self.add_rows(event.numpy())
        else:
            scores = torch.cat([self.multiply(some.numpy()) for some in event.split(EVENTS_AT_ONCE)])
        logits = log_scores(scores, self._setting.floor).mul_(self._factor)
        if len(self._rows) == len(self._place):
            return logits
        return logits.new_zeros(len(event), len(self._place)).index_copy_(1, self._rows, logits)

    def add_rows(self, event: NDArray[np.int64]) -> Tensor:
        """Return the scores after events [P] as sums of the rows of the items in each history, [P, M].

        A GPU reads rows faster than it multiplies histories that are mostly zeros.
        """
        position, places, steps = self._steps(event)
        starts = np.searchsorted(position, np.arange(len(event)))
        device = self._weights.device
        items, offsets = (torch.from_numpy(numbers).to(device) for numbers in (places, starts))
        steps_there = torch.from_numpy(steps).to(device, self._weights.dtype)
        return F.embedding_bag(items, self._weights, offsets, mode="sum", per_sample_weights=steps_there)

    def _steps(self, event: NDArray[np.int64]) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.floating]]:
        """Return what is in the histories that end with events: position [E], place of the item [E], its decay [E]."""
        age = np.arange(self._setting.max_history)
        source = event[:, None] - age  # [P, age]
        place = np.where(source >= self._first[event][:, None], self._place[self._item[np.maximum(source, 0)]], -1)
        position, column = np.nonzero(place >= 0)
        return position, place[position, column], self._setting.decay ** age[column]

    def multiply(self, event: NDArray[np.int64]) -> Tensor:
        """Return the scores after a few neighbouring events, whose histories share most of their items, [P, M]."""
        history, items = self._histories(event)
        weights = F.embedding(torch.from_numpy(items).to(self._weights.device), self._weights)  # [U, M]
        return torch.from_numpy(history).to(weights.device, weights.dtype) @ weights

    def _histories(self, event: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the decayed histories [P, U] over the U items that are in them, and those items' places."""
        position, places, steps = self._steps(event)
        items, inverse = np.unique(places, return_inverse=True)
        shape = (len(event), len(items))
        history = np.bincount(position * len(items) + inverse, steps, minlength=shape[0] * shape[1])
        return history.astype(np.float32).reshape(shape), items


def train_linear(out: Path, prepared: Prepared, progress: Progress, known: Path | None = None) -> None:
    """Choose the setting on validation, solve for the whole catalogue, write weights and ranking into out.

    known: directory of an earlier model, whose setting is kept. Processes that train together all call it: each
    computes its columns of the products and of the solutions, and ranks some of the requests where memory has room for
    the whole model in each; the first chooses and writes.
    """
    n_items, started = len(prepared.items), monotonic()
    events = training_events(prepared)
    if known is None:
        tuned = covered_rows(events, n_items, TUNED)
        setting, trials = choose_setting(events, ask(prepared, VAL, limit=USERS), tuned, progress)
    else:
        setting, trials = load_linear(known).setting, []
    side = ranks.alone(lambda: most_items(n_items, available_bytes()))
    model = fit_linear(events, n_items, covered_rows(events, n_items, side), setting)
    held: list[LinearModel] = []  # in the first process

    def finish() -> None:
        question = ask(prepared, VAL, limit=max(1, min(FLOOR_USERS, VALUES // n_items)))
        whole = with_best_floor(model, question)
        progress.note(f"linear model: {whole.setting}, over {side:,} items{_why(side, n_items)}")
        whole = replace(whole, seconds=monotonic() - started)
        save_linear(out, whole, trials)
        held.append(whole)

    def judge() -> Ranking:
        whole = held[0] if held else load_linear(out)
        return judge_scorer(prepared, whole.scorer(), whole.setting.max_history)

    ranks.alone(finish)
    is_shared = ranks.has_room(BYTES_A_WEIGHT * side**2, available_bytes())
    ranking = judge() if is_shared else ranks.alone(judge)
    ranks.alone(lambda: ranking.save(out / RANKING))


def _why(side: int, n_items: int) -> str:
    if side < min(n_items, MAX_ITEMS):
        return f", the most popular ones: memory has no room for all {n_items:,}"
    return f", the most popular ones of {n_items:,}" if side < n_items else ""


def save_linear(out: Path, model: LinearModel, trials: list[dict[str, float]]) -> None:
    """Write a model, and the trials by which its setting was chosen."""
    np.save(out / WEIGHTS, model.weights)
    np.save(out / ROWS, model.rows)
    about = {
        "n_items": model.n_items,
        "setting": asdict(model.setting),
        "seconds": model.seconds,
        "trials": trials,
    }
    (out / SETTING).write_text(json.dumps(about, indent=1) + "\n")


def load_linear(out: Path) -> LinearModel:
    """Read what save_linear wrote."""
    about = json.loads((out / SETTING).read_text())
    weights, rows = np.load(out / WEIGHTS), np.load(out / ROWS)
    return LinearModel(weights, rows, about["n_items"], Setting(**about["setting"]), about["seconds"])


@dataclass(frozen=True)
class LinearTeacher(Kind):
    """A teacher that is a linear sequence model. See Kind for its methods."""

    trains_together: bool = True

    def settings(self, supplies: Supplies) -> Mapping[str, Any]:
        """Return what its scores are: it has no settings in the file of settings."""
        return {"scores": "log"}

    def train(self, out: Path, supplies: Supplies) -> None:
        """Choose its setting on validation and solve for the whole catalogue."""
        known = supplies.warm.run / self.place if supplies.warm else None
        train_linear(out, supplies.prepared, supplies.progress, known)

    def open(self, run: Path) -> Member:
        """Open the model; what is timed is a history with its scores."""
        model = load_linear(run / self.place)
        score, longest = model.scorer(), model.setting.max_history
        return Member(
            score,
            longest,
            model.weights.size,
            model.seconds,
            lambda: time_scorer(score, longest, model.n_items),
        )

    def offer(self, run: Path, events: Events, factor: float) -> Offer:
        """Open its labels; a linear model has nothing else to teach."""
        return Offer(LinearLabels(load_linear(run / self.place), events, factor, choose_device()))

    def refit(self, out: Path, run: Path, supplies: Supplies, factor: float) -> Offer:
        """Solve for the events of every part with the setting that was chosen; nothing is written."""
        events, n_items = all_events(supplies.prepared), len(supplies.prepared.items)
        chosen = load_linear(run / self.place)
        model = fit_linear(events, n_items, covered_rows(events, n_items, len(chosen.rows)), chosen.setting)
        return Offer(LinearLabels(model, events, factor, choose_device()))


LINEAR = LinearTeacher("linear", "linear", "Linear model alone", colour="#94a3b8")
