"""The distill stage: the student taught by soft labels, and beside it the same student without a teacher.

They start from the same weights, see the same batches in the same order and may train equally long; only the loss
differs, and the dropout, for soft labels keep a student from overfitting and hard ones do not. So what separates them
is the teacher. A third has smoothed labels in the teacher's place (Szegedy et al. 2016): what of the gain any soft
target would have given. The one alone may be among the teachers of the other (born-again networks, Furlanello et al.
2018): no mix is then weaker than it on validation, whatever the data.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from training.data.event import select_events
from training.data.prepared import Prepared
from training.data.split import TRAIN
from training.distillation.source import Source
from training.distillation.teaching import Lesson, Recipe, Teaching, hard, smooth, teach
from training.evaluation.judge import judge, validation_score
from training.model.checkpoint import save_model
from training.model.curve import save_curve
from training.model.device import choose_device
from training.model.encoder import SequenceModel, Size, make_model
from training.model.fit import Loss, Schedule, fit
from training.model.item_table import Start
from training.progress import Progress

STUDENT = "student.safetensors"
ALONE = "alone.safetensors"
SMOOTHED = "smoothed.safetensors"
NOTES = {
    STUDENT: "the student, distilled",
    ALONE: "the same student, without the teacher",
    SMOOTHED: "the same student, smoothed labels in the teacher's place",
}


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
