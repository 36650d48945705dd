"""Training a model to its end: fit, judge, save, the same for every teacher and every student.

Validation keeps the best epoch. The judged part is ranked once the model is final, and nothing is chosen by it. The
checkpoint is removed last: a training that is interrupted before its results are written goes on from its last epoch.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from training import ranks
from training.data.prepared import Prepared, all_events, training_events
from training.data.split import TRAIN
from training.evaluation.given import Given
from training.evaluation.judge import Ranking
from training.evaluation.with_given import judge_given, learn_rule, validation_score_given
from training.model.checkpoint import load_model, save_model, whole_model
from training.model.curve import Epoch, save_curve
from training.model.encoder import SequenceModel
from training.model.fit import Course, Schedule, fit
from training.model.importance import importance_of
from training.model.objective import Lesson
from training.model.warm import Warm
from training.parallel.table import divide, is_too_large
from training.progress import Progress


@dataclass(frozen=True)
class Files:
    """Where the results of a training are written, and its checkpoint until then."""

    model: Path
    curve: Path
    ranking: Path
    checkpoint: Path
    rule: Path  # how the score adds up, where the model was given something


def open_course(
    prepared: Prepared, schedule: Schedule, progress: Progress, given: Given | None = None, warm: Warm | None = None
) -> Course:
    """Return the course that trains on the training part and is validated by NDCG@10 over all validation users.

    warm: where it goes on from an earlier training, which shortens the schedule.
    """
    if warm:
        epochs, rate = min(schedule.epochs, warm.epochs), schedule.learning_rate * warm.rate
        schedule = replace(schedule, epochs=epochs, patience=epochs, learning_rate=rate)
    events = training_events(prepared)
    importance = importance_of(events, None if prepared.weight is None else prepared.weight[prepared.part == TRAIN])
    validate = validation_score_given(prepared, given, progress=progress)
    return Course(events, schedule, validate, progress, given, importance, warm)


def open_refit_course(
    prepared: Prepared, schedule: Schedule, epochs: int, progress: Progress, given: Given | None = None
) -> Course:
    """Return the course that trains on the events of every part for exactly so many epochs, without validation."""
    fixed = replace(schedule, epochs=epochs, positions=sys.maxsize, patience=epochs)
    given = None if given is None else replace(given, on_everything=True)
    events = all_events(prepared)
    return Course(events, fixed, None, progress, given, importance_of(events, prepared.weight))


def given_of(course: Course) -> Given | None:
    """Return what the models of a course are given beside the history."""
    return course.given if isinstance(course.given, Given) else None


@contextmanager
def trained(model: SequenceModel, lesson: Lesson, course: Course, checkpoint: Path) -> Iterator[list[Epoch]]:
    """Train model in place and yield its learning curve; remove the checkpoint when the context ends without an error.

    What is made of the model is written inside the context, so that an interruption does not lose the training. Of
    several processes that train together the first writes it, and removes the checkpoint.
    """
    if is_too_large(model.n_items, model.size.dim, course.schedule.shard_above_mb):
        course.progress.note(f"the item table lies in {ranks.count()} shards")
        divide(model)
    yield fit(model, lesson(model), course, checkpoint)
    ranks.alone(checkpoint.unlink)


def train_and_save(model: SequenceModel, lesson: Lesson, course: Course, prepared: Prepared, files: Files) -> None:
    """Train model in place, judge it, and write its curve, its ranking and, last, its weights.

    Processes that train together all call it. They share what judging costs, and the first writes.
    """
    with trained(model, lesson, course, files.checkpoint) as curve:
        given, rule = given_of(course), None
        whole = whole_model(model)
        if given is not None:
            rule = learn_rule(whole, given, files.rule, course.progress, by_first=model.shard is not None)
        ranking = judge_given(prepared, model, given, rule, course.progress)
        ranks.alone(lambda: _save(whole, curve, ranking, files))


def _save(model: SequenceModel, curve: list[Epoch], ranking: Ranking, files: Files) -> None:
    """Write the curve of a trained model, its ranking and, last, its weights."""
    save_curve(files.curve, curve)
    ranking.save(files.ranking)
    save_model(files.model, model)


def train_or_load(path: Path, model: SequenceModel, lesson: Lesson, course: Course) -> SequenceModel:
    """Return the model that path holds; where there is none, train model in place, write it there and return it."""
    if path.exists():
        return load_model(path).to(model.device)
    with trained(model, lesson, course, path.with_name(f"checkpoint.{path.name}")):
        whole = whole_model(model)
        ranks.alone(lambda: save_model(path, whole))
    return whole
