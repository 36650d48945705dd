"""One student of a study: trained, judged, and kept beside what was measured of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from training.data.event import Events
from training.data.prepared import Prepared
from training.distillation.teaching import Teaching
from training.evaluation.judge import judge, validation_score
from training.model.device import choose_device
from training.model.encoder import SequenceModel, Size
from training.model.fit import Loss, Schedule, fit
from training.progress import Progress

Lesson = Callable[[SequenceModel], tuple[Loss, Teaching | None]]


@dataclass(frozen=True)
class Shared:
    """What all students of a study share. out: where each leaves NAME.json and NAME.npz."""

    out: Path
    prepared: Prepared
    events: Events
    schedule: Schedule
    progress: Progress


def attempt(
    shared: Shared, name: str, *, size: Size, seed: int, lesson: Lesson, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Train and judge a student, or read what was measured before. Validation keeps the best epoch.

    Returns about, and seed, validation (NDCG@10), epochs, seconds; the judged part's ranking is in NAME.npz.
    """
    path = shared.out / f"{name}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    started = monotonic()
    shared.progress.note(f"trial {name}")
    torch.manual_seed(seed)
    model = SequenceModel(len(shared.prepared.items), size).to(choose_device())
    loss, extra = lesson(model)
    checkpoint = path.with_suffix(".safetensors")
    curve = fit(
        model,
        shared.events,
        loss=loss,
        extra=extra,
        validate=validation_score(shared.prepared),
        schedule=replace(shared.schedule, seed=seed),
        checkpoint=checkpoint,
        progress=shared.progress,
    )
    judge(shared.prepared, model).save(path.with_suffix(".npz"))
    report = {
        **about,
        "seed": seed,
        "validation": max(row.validation for row in curve),
        "epochs": len(curve),
        "seconds": monotonic() - started,
    }
    path.write_text(json.dumps(report) + "\n")
    checkpoint.unlink()
    shared.progress.note(f"trial {name}: validation NDCG@10 {report['validation']:.4f}, {report['seconds']:.0f} s")
    return report
