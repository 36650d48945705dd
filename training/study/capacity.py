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
from training.study.trial import Room, attempt

TABLE = "capacity.json"
ALONE = "alone"
AT = 10


@dataclass(frozen=True)
class Teaches:
    """A teacher: what its students learn from, and its own validation NDCG@10."""

    source: Source
    validation: float


def measure_capacity(
    room: Room,
    dims: Sequence[int],
    teachers: Mapping[str, Teaches],
    *,
    size: Size,
    alone_dropout: float,
    recipe: Recipe,
) -> dict[str, Any]:
    """Train what is not there yet and return and write the table: one row a width and teacher."""
    seed = room.schedule.seed
    rows = []
    for dim in dims:
        wide = replace(size, dim=dim)
        alone = attempt(
            room,
            f"{ALONE}-{dim}",
            size=replace(wide, dropout=alone_dropout),
            seed=seed,
            lesson=lambda model: (hard, None),
            about={"dim": dim, "teacher": ALONE},
        )
        rows.append(alone | {f"ndcg@{AT}": float(_judged(room, ALONE, dim).mean())})
        for name, teacher in teachers.items():
            taught = attempt(
                room,
                f"{name}-{dim}",
                size=wide,
                seed=seed,
                lesson=lambda model, source=teacher.source: teach(recipe, source, model, seed),  # type: ignore[misc]
                about={"dim": dim, "teacher": name},
            )
            per_user = _judged(room, name, dim)
            gain = relative_difference(per_user, _judged(room, ALONE, dim))
            rows.append(taught | {f"ndcg@{AT}": float(per_user.mean()), "gain": gain})
    table = {
        "rows": rows,
        "teachers": {name: teacher.validation for name, teacher in teachers.items()},
        "positions": room.schedule.positions,
        "minutes": sum(row["seconds"] for row in rows) / 60,
    }
    (room.out / TABLE).write_text(json.dumps(table, indent=1) + "\n")
    return table


def _judged(room: Room, teacher: str, dim: int) -> Any:
    return ndcg(Ranking.load(room.out / f"{teacher}-{dim}.npz").ranks, AT)


def capacity_lines(table: Mapping[str, Any]) -> list[str]:
    """Return the table as plain text."""
    lines = [f"{'width':>6}  {'taught by':14}{'validation':>12}{'NDCG@10':>9}{'beside alone':>30}"]
    for row in table["rows"]:
        gain = row.get("gain")
        beside = f"{gain['difference']:+.1%} ({gain['low']:+.1%} to {gain['high']:+.1%})" if gain else ""
        taught = row["teacher"].replace("_", " ")
        lines.append(f"{row['dim']:>6}  {taught:14}{row['validation']:>12.4f}{row[f'ndcg@{AT}']:>9.4f}{beside:>30}")
    teachers = ", ".join(f"{name} {value:.4f}" for name, value in table["teachers"].items())
    return [*lines, f"teachers on validation: {teachers}; {table['minutes']:.1f} minutes"]
