"""The distill stage: the student taught by soft labels, and beside it the same student without a teacher.

They start from the same weights, see the same batches in the same order and may train equally long; only the loss
differs, and the dropout, for soft labels keep a student from overfitting and hard ones do not. So what separates them
is the teacher. A third has smoothed labels in the teacher's place (Szegedy et al. 2016): what of the gain any soft
target would have given. The one alone may be among the teachers of the other (born-again networks, Furlanello et al.
2018): no mix is then weaker than it on validation, whatever the data.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.prepare import TRAIN, Prepared
from training.distillation.source import Source
from training.distillation.teaching import Recipe, Teaching, hard, smooth, teach
from training.evaluation.judge import judge, validation_score
from training.model.batch import Events, select_events
from training.model.checkpoint import load_model, save_model
from training.model.encoder import SequenceModel, Size, make_model
from training.model.fit import Loss, Schedule, choose_device, fit, save_curve
from training.model.item_table import Start, start_table
from training.progress import Progress
from training.teacher.linear import Setting, covered_rows, fit_linear
from training.teacher.soft_labels import LinearLabels, MixedLabels, SoftLabels, load_soft_labels, save_soft_labels

STUDENT = "student.safetensors"
ALONE = "alone.safetensors"
SMOOTHED = "smoothed.safetensors"
NOTES = {
    STUDENT: "the student, distilled",
    ALONE: "the same student, without the teacher",
    SMOOTHED: "the same student, smoothed labels in the teacher's place",
}

Lesson = Callable[[SequenceModel], tuple[Loss, Teaching | None]]  # what fit takes, for a model to be taught


def distill(
    out: Path,
    prepared: Prepared,
    source: Source,
    *,
    size: Size,
    schedule: Schedule,
    start: Start | None,
    recipe: Recipe,
    alone_size: Size,
    twin: Sequence[Path] | None,
    smoothing: float,
    progress: Progress,
) -> None:
    """Train the students on the training part and write models and learning curves into out.

    start: what the taught one's items start from. alone_size: of those without the teacher. twin: model, curve and
    ranking of the one alone where it was trained already, as one of the teachers. smoothing: the smoothed labels' share
    of all items; 0 leaves them out.
    """

    def taught(model: SequenceModel) -> tuple[Loss, Teaching | None]:
        return teach(recipe, source, model, schedule.seed)

    def smoothed(model: SequenceModel) -> tuple[Loss, Teaching | None]:
        return smooth(smoothing), None

    students = {STUDENT: (taught, size, start), ALONE: (_alone, alone_size, None)}
    if twin is not None:
        del students[ALONE]
        for path, name in zip(twin, (ALONE, "alone_curve.json", "alone_ranking.npz"), strict=True):
            shutil.copyfile(path, out / name)
    if smoothing:
        students[SMOOTHED] = (smoothed, alone_size, None)
    for name, (lesson, own_size, own_start) in students.items():
        if not (out / name).exists():
            progress.note(NOTES[name])
            model = make_model(len(prepared.items), own_size, schedule.seed, own_start).to(choose_device())
            _train_student(out, name, prepared, model, schedule=schedule, lesson=lesson, progress=progress)


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


def _alone(model: SequenceModel) -> tuple[Loss, Teaching | None]:
    return hard, None


def _train_student(
    out: Path,
    name: str,
    prepared: Prepared,
    model: SequenceModel,
    *,
    schedule: Schedule,
    lesson: Lesson,
    progress: Progress,
) -> None:
    checkpoint = out / f"checkpoint.{name}"
    loss, extra = lesson(model)
    curve = fit(
        model,
        select_events(prepared.user, prepared.item, prepared.part == TRAIN, len(prepared.users)),
        loss=loss,
        extra=extra,
        validate=validation_score(prepared),
        schedule=schedule,
        checkpoint=checkpoint,
        progress=progress,
    )
    save_curve(out / f"{Path(name).stem}_curve.json", curve)
    judge(prepared, model).save(out / f"{Path(name).stem}_ranking.npz")
    save_model(out / name, model)
    checkpoint.unlink()
