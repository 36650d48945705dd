"""Where distillation pays: what a teacher adds to a student trained alone, by the student's width and by the teacher.

A student that does nearly as well as its teacher has nothing to learn from it, and one that is too small cannot follow
a far larger teacher (Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant"). So a student of
every width is trained alone, under each teacher of the mix by itself, and under the mix, with one seed each, which is
enough to see where the gain begins and ends. Validation picks each student's epoch; gains are those on the judged part,
paired by user.

Where the score is a sum, a student of taste alone stands beside them, at every width: what neighbours and trend are
worth, in quality, bytes and microseconds. The bytes are those of an item: a row of int8 with its scale, its neighbours,
its count. The microseconds are those in which one user's best items of the whole catalogue are found.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from training.distillation.source import Source
from training.distillation.student import Taught, Untaught
from training.distillation.teaching import learn_alone, learn_from
from training.evaluation.given import Given
from training.evaluation.judge import Ranking
from training.evaluation.metric import ndcg, relative_difference
from training.evaluation.trained import given_of, open_course
from training.export.graph import scoring_graph
from training.export.onnx_student import time_scoring
from training.model.encoder import Size
from training.study.storage import store_table
from training.study.trial import Shared, Student, attempt_and_judge

TABLE = "capacity.json"
ALONE, TASTE = "alone", "taste"
AT = 10
_TURNS = 200


@dataclass(frozen=True)
class Teaches:
    """A teacher of the study: what its students learn from, and its own validation NDCG@10."""

    source: Source
    validation: float


def measure_capacity(
    shared: Shared, dims: Sequence[int], teachers: Mapping[str, Teaches], taught: Taught, untaught: Untaught
) -> dict[str, Any]:
    """Train the students that are not there yet, and return and write the table: one row a width and teacher.

    taught, untaught: the size of a student under a teacher and of one alone, whatever their width.
    """
    seed = shared.course.schedule.seed
    given = given_of(shared.course)
    rows = [] if given is None else [_taste_alone(shared, replace(untaught.size, dim=dim)) for dim in dims]
    for dim in dims:
        cost = _cost(len(shared.prepared.items), dim, given)
        student = Student(f"{ALONE}-{dim}", replace(untaught.size, dim=dim), seed, learn_alone)
        alone = attempt_and_judge(shared, student, {"dim": dim, "teacher": ALONE} | cost)
        rows.append(alone | {f"ndcg@{AT}": float(_judged(shared, ALONE, dim).mean())})
        for name, teacher in teachers.items():
            lesson = learn_from(teacher.source, taught.recipe, seed)
            student = Student(f"{name}-{dim}", replace(taught.size, dim=dim), seed, lesson)
            report = attempt_and_judge(shared, student, {"dim": dim, "teacher": name} | cost)
            per_user = _judged(shared, name, dim)
            gain = relative_difference(per_user, _judged(shared, ALONE, dim))
            rows.append(report | {f"ndcg@{AT}": float(per_user.mean()), "gain": gain})
    table = {
        "rows": rows,
        "teachers": {name: teacher.validation for name, teacher in teachers.items()},
        "positions": shared.course.schedule.positions,
        "minutes": sum(row["seconds"] for row in rows) / 60,
    }
    (shared.out / TABLE).write_text(json.dumps(table, indent=1) + "\n")
    return table


def _taste_alone(shared: Shared, size: Size) -> dict[str, Any]:
    """Train and judge the student that is given neither neighbours nor a trend, without a teacher; return its row."""
    course = shared.course
    plain = open_course(shared.prepared, course.schedule, course.progress)
    seed = course.schedule.seed
    student = Student(f"{TASTE}-{size.dim}", replace(size, has_trend=False), seed, learn_alone)
    about = {"dim": size.dim, "teacher": TASTE} | _cost(len(shared.prepared.items), size.dim, None)
    row = attempt_and_judge(replace(shared, course=plain), student, about)
    return row | {f"ndcg@{AT}": float(_judged(shared, TASTE, size.dim).mean())}


def _cost(n_items: int, dim: int, given: Given | None) -> dict[str, float]:
    """Return the bytes of an item, and the microseconds in which the best items for one user are found."""
    stored = store_table(np.random.default_rng(0).standard_normal((n_items, dim)).astype(np.float32), "int8")
    n_bytes = sum(array.nbytes for array in stored.values()) / n_items
    score_us = time_scoring(scoring_graph(stored, dim, min(AT, n_items)), dim=dim)
    if given is None:
        return {"item_bytes": n_bytes, "score_us": score_us}
    near = given.parts.neighbours
    n_bytes += 0 if near is None else (near.rows.nbytes + near.weights.nbytes + near.scales.nbytes) / n_items
    n_bytes += 0 if given.parts.rule.trend is None else np.dtype(np.float32).itemsize
    return {"item_bytes": n_bytes, "score_us": score_us + _sum_us(given, n_items)}


def _sum_us(given: Given, n_items: int) -> float:
    """Return the median time in which neighbours and trend are added to one user's scores, in microseconds."""
    parts = given.parts
    scores, logs = np.zeros(n_items, dtype=np.float32), np.zeros(n_items, dtype=np.float32)
    depth = 0 if parts.rule.neighbours is None else parts.rule.neighbours.depth
    history = np.random.default_rng(0).integers(0, n_items, depth)
    times = []
    for _ in range(_TURNS):
        started = perf_counter()
        rows, values = parts.speak_singly(history)
        np.add.at(scores, rows, values)
        if parts.rule.trend is not None:
            np.add(scores, logs, out=scores)
        times.append(perf_counter() - started)
    return float(np.median(times) * 1e6)


def _judged(shared: Shared, teacher: str, dim: int) -> Any:
    """Return the NDCG@10 of each judged user [U]."""
    return ndcg(Ranking.load(shared.out / f"{teacher}-{dim}.npz").ranks, AT)
