"""The refit: the student trained once more on every event, with the settings that were chosen."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.event import Events
from training.data.prepared import Prepared
from training.distillation.source import Source
from training.distillation.student import STUDENT, _alone
from training.distillation.teaching import Lesson, Recipe, Teaching, teach
from training.model.checkpoint import load_model, save_model
from training.model.device import choose_device
from training.model.encoder import SequenceModel, Size, make_model
from training.model.fit import Loss, Schedule, fit
from training.model.item_table import Start, start_table
from training.progress import Progress
from training.teacher.linear import Setting, covered_rows, fit_linear
from training.teacher.soft_labels import LinearLabels, MixedLabels, SoftLabels, load_soft_labels, save_soft_labels


def refit_student(
    out: Path,
    prepared: Prepared,
    *,
    factors: Mapping[str, float],
    neural: Mapping[str, tuple[Size, Schedule, int, Start | None]],
    linear: Setting | None,
    student: tuple[Size, Schedule, int],
    starts_from_teacher: bool,
    recipe: Recipe,
    progress: Progress,
) -> None:
    """Train teachers, soft labels and student once more on all events, as they were chosen.

    neural: the transformers among the teachers, each with (size, schedule, epochs, what its table starts from);
    student: (size, schedule, epochs). Nothing is held out, so nothing is measured: quality is the run's own.
    """
    events = Events(prepared.item, _offsets(prepared))
    labels: list[SoftLabels] = []
    taught = states = None
    for name, (size, schedule, epochs, start) in neural.items():
        model = make_model(len(prepared.items), size, schedule.seed, start).to(choose_device())
        path = out / f"{name}.safetensors"
        model = _fit_fixed(path, model, events, schedule, epochs, lesson=_alone, progress=progress)
        (out / name).mkdir(exist_ok=True)
        save_soft_labels(out / name, model, events, progress)
        labels.append(load_soft_labels(out / name, choose_device(), factors[name]))
        if taught is None:
            taught, states = model, load_soft_labels(out / name, choose_device())
    if linear:
        solved = fit_linear(events, len(prepared.items), covered_rows(events, len(prepared.items)), linear)
        labels.append(LinearLabels(solved, events, factors["linear"], choose_device()))
    popularity = np.bincount(events.item, minlength=len(prepared.items)).astype(np.float64)
    source = Source(MixedLabels(labels), popularity, states, taught)
    size, schedule, epochs = student

    def lesson(model: SequenceModel) -> tuple[Loss, Teaching | None]:
        return teach(recipe, source, model, schedule.seed)

    start = None
    if starts_from_teacher and taught is not None:
        start = Start(start_table(taught.items.weight.detach().cpu().numpy(), size.dim, is_frozen=False))
    model = make_model(len(prepared.items), size, schedule.seed, start).to(choose_device())
    _fit_fixed(out / STUDENT, model, events, schedule, epochs, lesson=lesson, progress=progress)


def _offsets(prepared: Prepared) -> NDArray[np.int64]:
    counts = np.bincount(prepared.user, minlength=len(prepared.users))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _fit_fixed(
    path: Path,
    model: SequenceModel,
    events: Events,
    schedule: Schedule,
    epochs: int,
    *,
    lesson: Lesson,
    progress: Progress,
) -> SequenceModel:
    """Train for exactly so many epochs."""
    if path.exists():
        return load_model(path).to(choose_device())
    checkpoint = path.with_name(f"checkpoint.{path.name}")
    loss, extra = lesson(model)
    fit(
        model,
        events,
        loss=loss,
        extra=extra,
        validate=None,
        schedule=replace(schedule, epochs=epochs, positions=sys.maxsize, patience=epochs),
        checkpoint=checkpoint,
        progress=progress,
    )
    save_model(path, model)
    checkpoint.unlink()
    return model
