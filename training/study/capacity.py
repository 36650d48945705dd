"""Where distillation pays: what a teacher adds to a student trained alone, by the student's width and by the teacher.

A student that does nearly as well as its teacher has nothing to learn from it, and one that is too small cannot follow
a far larger teacher (Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant"). So a student of
every width is trained alone, under each teacher of the mix by itself, and under the mix, with one seed each, which is
enough to see where the gain begins and ends. Validation picks each student's epoch; gains are those on the judged part,
paired by user.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.distillation.source import Source
from training.distillation.student import Taught, Untaught
from training.distillation.teaching import learn_alone, learn_from
from training.evaluation.judge import Ranking
from training.evaluation.metric import ndcg, relative_difference
from training.study.trial import Shared, Student, attempt_and_judge

TABLE = "capacity.json"
ALONE = "alone"
AT = 10


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
    rows = []
    for dim in dims:
        student = Student(f"{ALONE}-{dim}", replace(untaught.size, dim=dim), seed, learn_alone)
        alone = attempt_and_judge(shared, student, {"dim": dim, "teacher": ALONE})
        rows.append(alone | {f"ndcg@{AT}": float(_judged(shared, ALONE, dim).mean())})
        for name, teacher in teachers.items():
            lesson = learn_from(teacher.source, taught.recipe, seed)
            student = Student(f"{name}-{dim}", replace(taught.size, dim=dim), seed, lesson)
            report = attempt_and_judge(shared, student, {"dim": dim, "teacher": name})
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


def _judged(shared: Shared, teacher: str, dim: int) -> Any:
    """Return the NDCG@10 of each judged user [U]."""
    return ndcg(Ranking.load(shared.out / f"{teacher}-{dim}.npz").ranks, AT)
