"""The stage similar/: how items that go with others are weighed, by the student, and how good that is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.bundle import ItemTable
from training.data.event import Int64
from training.distillation.student import STUDENT, files_of
from training.evaluation.similar import judge_similar
from training.model.checkpoint import load_model
from training.run.directory import Run
from training.run.given import open_given, with_parts

SIMILAR = "similar"
TABLE = "similar.json"


def run_similar(run: Run) -> None:
    """Choose the weights on validation and judge them. It is the student's doing, also where a refit is exported."""

    def work(out: Path) -> None:
        prepared = run.prepared()
        model = load_model(run.out / "student" / STUDENT)
        bare = ItemTable(model.items.weight.detach().numpy().astype(np.float32))
        table = with_parts(bare, open_given(run, prepared), files_of(run.out / "student", STUDENT).rule)

        @torch.no_grad()
        def encode(rows: Int64) -> Any:
            return model.users(torch.from_numpy(rows[:, None])).numpy()

        about = judge_similar(prepared, table, encode, run.progress)
        (out / TABLE).write_text(json.dumps(about, indent=1) + "\n")
        run.progress.note(_said(about))

    run.stage(SIMILAR, {}, {"prepared": run.key("prepared"), "student": run.key("student")}, work)


def similar_weights(run: Run) -> dict[str, float]:
    """Return the field `similar` of the manifest, as run_similar chose it."""
    found: dict[str, float] = json.loads((run.out / SIMILAR / TABLE).read_text())["similar"]
    return found


def _said(about: dict[str, Any]) -> str:
    weights = ", ".join(f"{name} x {weight:.3g}" for name, weight in about["similar"].items() if weight)
    if not about["models"]:
        return f"items that go with others: {weights}; no sessions to judge it by"
    mix, other = about["models"]["mix"], about["models"]["together"]
    quality = f"NDCG@10 {mix['ndcg@10']:.4f}, co-occurrence {other['ndcg@10']:.4f}"
    return f"items that go with others: {weights}; {about['pairs']:,} pairs, {quality}"
