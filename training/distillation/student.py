"""The distill stage: the student that the teachers teach, and beside it the students that it is compared with.

The student alone has no teacher. It starts from the same weights, sees the same batches in the same order and may train
equally long; only the loss and the dropout differ, because soft labels keep a student from overfitting and hard labels
do not. So what separates the two is the teacher. A third student learns from smoothed labels, showing what any soft
target would give. The student alone may also teach (TWIN), so the mix is never worse than it on validation.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from training import ranks
from training.data.prepared import Prepared
from training.distillation.source import Source
from training.distillation.teaching import Recipe, learn_alone, learn_from, learn_smoothed
from training.errors import InputError
from training.evaluation.trained import Files, train_and_save
from training.model.device import choose_device
from training.model.encoder import SequenceModel, Size, make_model
from training.model.fit import Course
from training.model.item_table import Start, start_table
from training.model.objective import Lesson

PLACE = "student"  # directory of the stage in the run directory
STUDENT = "student.safetensors"
ALONE = "alone.safetensors"
SMOOTHED = "smoothed.safetensors"
NOTES = {
    STUDENT: "the student, distilled",
    ALONE: "the same student, without the teacher",
    SMOOTHED: "the same student, smoothed labels in the teacher's place",
}


@dataclass(frozen=True)
class Taught:
    """The student that the teachers teach. starts_from_teacher: its item table starts from the neural teacher's."""

    size: Size
    recipe: Recipe
    starts_from_teacher: bool = False

    def make(self, n_items: int, seed: int, source: Source) -> SequenceModel:
        """Return the untrained student. Raises InputError where it starts from a teacher and none has an item table."""
        start = None
        if self.starts_from_teacher:
            if source.model is None:
                raise InputError(
                    "student.start=teacher: no transformer takes part in the mix, and a linear model has no table"
                )
            items = source.model.items.weight.detach().cpu().numpy()
            start = Start(start_table(items, self.size.dim, is_frozen=False))
        return make_model(n_items, self.size, seed, start).to(choose_device())


@dataclass(frozen=True)
class Untaught:
    """The students without a teacher that the taught one is compared with.

    smoothing: the share of all items in the smoothed labels; 0 leaves that student out. alone: the files of the student
    alone where it was trained before, as one of the teachers.
    """

    size: Size
    smoothing: float
    alone: Files | None = None


def files_of(out: Path, name: str) -> Files:
    """Return the files of a student in the directory of the stage; name: STUDENT, ALONE or SMOOTHED."""
    stem = Path(name).stem
    return Files(
        out / name,
        out / f"{stem}_curve.json",
        out / f"{stem}_ranking.npz",
        out / f"checkpoint.{name}",
        out / f"{stem}_score.json",
    )


def distill(out: Path, prepared: Prepared, course: Course, source: Source, taught: Taught, untaught: Untaught) -> None:
    """Train the students that are not in out yet, and write their models, learning curves and rankings into it."""
    n_items, seed = len(prepared.items), course.schedule.seed

    def train(name: str, model: SequenceModel, lesson: Lesson) -> None:
        course.progress.note(NOTES[name])
        if course.warm:
            course.warm.start(model, f"{PLACE}/{name}")
        train_and_save(model, lesson, course, prepared, files_of(out, name))

    if (alone := untaught.alone) is not None:
        ranks.alone(lambda: _copy(alone, files_of(out, ALONE)))
    if not (out / STUDENT).exists():
        train(STUDENT, taught.make(n_items, seed, source), learn_from(source, taught.recipe, seed))
    lessons: dict[str, Lesson] = {ALONE: learn_alone}
    if untaught.smoothing:
        lessons[SMOOTHED] = learn_smoothed(untaught.smoothing)
    for name, lesson in lessons.items():
        if not (out / name).exists():
            train(name, make_model(n_items, untaught.size, seed).to(choose_device()), lesson)


def _copy(files: Files, into: Files) -> None:
    """Copy the results of a training."""
    for name in ("model", "curve", "ranking", "rule"):
        if getattr(files, name).exists():
            shutil.copyfile(getattr(files, name), getattr(into, name))
