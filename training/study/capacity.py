"""Where distillation pays: what a teacher adds to a student trained alone, by the student's width and by the teacher.

A student that already does nearly as well as its teacher has nothing to learn from it, and one too small cannot follow
a far larger one (Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant"). So every width is
trained alone, under each teacher of the mix by itself, and under the mix; one seed, for the shape of the region.
Validation picks each student's epoch; gains are those on the judged part, paired by user.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.distillation.source import Source
from training.distillation.teaching import Recipe, hard, teach
from training.evaluation.judge import Ranking
from training.evaluation.metric import ndcg, relative_difference
from training.model.encoder import Size
from training.study.trial import Shared, attempt

TABLE = "capacity.json"
ALONE = "alone"
AT = 10


@dataclass(frozen=True)
class Teaches:
    """A teacher: what its students learn from, and its own validation NDCG@10."""

    source: Source
    validation: float


def measure_capacity(
    shared: Shared,
    dims: Sequence[int],
    teachers: Mapping[str, Teaches],
    *,
    size: Size,
    alone_dropout: float,
    recipe: Recipe,
) -> dict[str, Any]:
    """Train what is not there yet and return and write the table: one row a width and teacher."""
    seed = shared.schedule.seed
    rows = []
    for dim in dims:
        wide = replace(size, dim=dim)
        alone = attempt(
            shared,
            f"{ALONE}-{dim}",
            size=replace(wide, dropout=alone_dropout),
            seed=seed,
            lesson=lambda model: (hard, None),
            about={"dim": dim, "teacher": ALONE},
        )
        rows.append(alone | {f"ndcg@{AT}": float(_judged(shared, ALONE, dim).mean())})
        for name, teacher in teachers.items():
            taught = attempt(
                shared,
                f"{name}-{dim}",
                size=wide,
                seed=seed,
                lesson=lambda model, source=teacher.source: teach(recipe, source, model, seed),  # type: ignore[misc]
                about={"dim": dim, "teacher": name},
            )
            per_user = _judged(shared, name, dim)
            gain = relative_difference(per_user, _judged(shared, ALONE, dim))
            rows.append(taught | {f"ndcg@{AT}": float(per_user.mean()), "gain": gain})
    table = {
        "rows": rows,
        "teachers": {name: teacher.validation for name, teacher in teachers.items()},
        "positions": shared.schedule.positions,
        "minutes": sum(row["seconds"] for row in rows) / 60,
    }
    (shared.out / TABLE).write_text(json.dumps(table, indent=1) + "\n")
    return table


def _judged(shared: Shared, teacher: str, dim: int) -> Any:
    return ndcg(Ranking.load(shared.out / f"{teacher}-{dim}.npz").ranks, AT)
