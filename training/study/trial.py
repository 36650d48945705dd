"""One student of a study: trained, measured, and kept beside what was measured of it, so that a study can go on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from training.data.prepared import Prepared
from training.evaluation.trained import given_of, trained
from training.evaluation.with_given import judge_given, learn_rule
from training.model.curve import Epoch
from training.model.device import choose_device
from training.model.encoder import SequenceModel, Size, make_model
from training.model.fit import Course
from training.model.objective import Lesson

Measure = Callable[[SequenceModel, list[Epoch]], dict[str, Any]]
"""Takes a trained model and its learning curve; returns what is kept of them."""


@dataclass(frozen=True)
class Shared:
    """What all students of a study share. out: where each leaves NAME.json, beside other files of that name."""

    out: Path
    prepared: Prepared
    course: Course


@dataclass(frozen=True)
class Student:
    """One student to try. name: the stem of its files."""

    name: str
    size: Size
    seed: int
    lesson: Lesson


def attempt(shared: Shared, student: Student, measure: Measure) -> dict[str, Any]:
    """Train a student, measure it and write the result, or read what was written before. Returns the result."""
    path = shared.out / f"{student.name}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    course = shared.course.with_seed(student.seed)
    course.progress.note(f"trial {student.name}")
    model = make_model(len(shared.prepared.items), student.size, student.seed).to(choose_device())
    with trained(model, student.lesson, course, path.with_suffix(".safetensors")) as curve:
        report = measure(model, curve)
        path.write_text(json.dumps(report) + "\n")
    return report


def attempt_and_judge(shared: Shared, student: Student, about: Mapping[str, Any]) -> dict[str, Any]:
    """Train and judge a student, or read what was measured before. Validation keeps the best epoch.

    Where the score is a sum, its weights are fitted to validation requests, as those of the run's own student are.

    Returns about with seed, validation (NDCG@10), epochs and seconds. The ranking of the judged part is in NAME.npz.
    """
    started = monotonic()

    def measure(model: SequenceModel, curve: list[Epoch]) -> dict[str, Any]:
        given, stem = given_of(shared.course), shared.out / student.name
        rule_file = Path(f"{stem}_score.json")
        rule = None if given is None else learn_rule(model, given, rule_file, shared.course.progress)
        judge_given(shared.prepared, model, given, rule).save(Path(f"{stem}.npz"))
        best, seconds = max(row.validation for row in curve), monotonic() - started
        shared.course.progress.note(f"trial {student.name}: validation NDCG@10 {best:.4f}, {seconds:.0f} s")
        return {**about, "seed": student.seed, "validation": best, "epochs": len(curve), "seconds": seconds}

    return attempt(shared, student, measure)
