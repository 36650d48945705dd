"""The compression study: what each way to shrink a student costs in quality, and what it saves in bytes and time.

Every variant starts from the run's student. It is measured as it is, and again after it was taught on by the same
recipe under its constraint: rounding with a straight-through gradient, zeros that stay zero, factors, centroids. The
student itself is taught on too, so that the cost of a constraint is not mistaken for what more training gives.
Validation keeps the best epoch; the judged part is ranked only for the table.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from torch import nn
from torch.nn.utils import parametrize

from training.distillation.source import Source
from training.distillation.teaching import Recipe, learn_from
from training.evaluation.judge import Ranking
from training.evaluation.metric import bootstrap_interval, ndcg, relative_difference
from training.evaluation.trained import given_of, trained
from training.evaluation.with_given import judge_given, validation_score_given
from training.export.graph import export_encoder, scoring_graph
from training.export.onnx_student import time_encoder, time_scoring
from training.export.rounding import round_encoder
from training.model.device import choose_device
from training.model.encoder import SequenceModel, count_parameters
from training.study.prune import SHAPES
from training.study.storage import Rounded, Zeros, as_stored, store_table, stored_bytes
from training.study.trial import Shared

TABLE = "compression.json"
TIMED_ITEMS = 20_000  # of the scoring that is timed, whatever the catalogue
BY_ITEM = frozenset({"items", "scales", "left", "codes"})  # stored arrays that have a row an item
AT = 10


@dataclass(frozen=True)
class Variant:
    """One way to shrink.

    shape: one of prune.py. items: how the item table is stored, as in storage.py, the R of rank:R being a share of the
    width. encoder: how its matrices are stored. zeros: the share of every matrix that is zero.
    """

    shape: str = "whole"
    items: str = "float32"
    encoder: str = "float32"
    zeros: float = 0.0


VARIANTS = {
    "float32": Variant(),
    "float16": Variant(items="float16", encoder="float16"),
    "int8 items": Variant(items="int8"),
    "int8": Variant(items="int8", encoder="int8"),
    "half zeros": Variant(zeros=0.5),
    "nine tenths zeros": Variant(zeros=0.9),
    "width x 0.75": Variant("width x 0.75"),
    "width x 0.5": Variant("width x 0.5"),
    "heads x 0.5": Variant("heads x 0.5"),
    "a block less": Variant("a block less"),
    "rank x 0.5": Variant(items="rank:0.5"),
    "rank x 0.25": Variant(items="rank:0.25"),
    "codes of 2": Variant(items="codes:2"),
    "codes of 4": Variant(items="codes:4"),
    "width x 0.5, int8": Variant("width x 0.5", "int8", "int8"),
    "half zeros, int8": Variant("whole", "int8", "int8", 0.5),
    "codes of 4, int8": Variant(items="codes:4", encoder="int8"),
}


@dataclass(frozen=True)
class Setup:
    """What all variants share. student: the one that is shrunk, on the CPU. source, recipe: how it is taught on."""

    shared: Shared
    student: SequenceModel
    source: Source
    recipe: Recipe


def compress_all(setup: Setup, names: Sequence[str]) -> dict[str, Any]:
    """Measure the named variants that are not measured yet, and return and write the table."""
    rows = {}
    for name in names:
        report = _study(setup, name)
        if report is None:
            setup.shared.course.progress.note(f"{name} is left out: the student has none to cut")
        else:
            rows[name] = report
    table = tabulate(setup, rows)
    (setup.shared.out / TABLE).write_text(json.dumps(table, indent=1) + "\n")
    return table


def _study(setup: Setup, name: str) -> dict[str, Any] | None:
    """Measure one variant as it is and taught on, or read what was measured; None where it does not apply."""
    path = setup.shared.out / f"{_stem(name)}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    started, variant, note = monotonic(), VARIANTS[name], setup.shared.course.progress.note
    model = SHAPES[variant.shape](setup.student)
    if model is None:
        return None
    note(f"variant {name}")
    items = _items_kind(variant.items, model.size.dim)
    constrain(model, variant, items)
    report: dict[str, Any] = asdict(variant) | measure(_settled(model), variant, items)
    report["validation"] = _judge(setup, model, path.with_suffix(".before.npz"))
    lesson = learn_from(setup.source, setup.recipe, setup.shared.course.schedule.seed)
    with trained(model.to(choose_device()), lesson, setup.shared.course, path.with_suffix(".safetensors")):
        report["validation_taught"] = _judge(setup, model, path.with_suffix(".after.npz"))
        report["seconds"] = monotonic() - started
        path.write_text(json.dumps(report) + "\n")
    note(
        f"variant {name}: validation NDCG@10 {report['validation']:.4f}, taught {report['validation_taught']:.4f}, "
        f"{(report['encoder_bytes'] + report['items_bytes']) / 1e6:.2f} MB"
    )
    return report


def constrain(model: SequenceModel, variant: Variant, items: str) -> None:
    """Put the variant's constraints on the weights of model, in place: the zeros first, then the way of storing."""
    matrices = [module for module in model.encoder.modules() if isinstance(module, nn.Linear)]
    if variant.zeros:
        pruned: list[Any] = [model.items, *matrices]
        for module in pruned:
            parametrize.register_parametrization(module, "weight", Zeros(module.weight, variant.zeros))
    stored = as_stored(model.items.weight, items)
    if stored is not None:
        parametrize.register_parametrization(model.items, "weight", stored)
    if variant.encoder != "float32":
        for module in matrices:
            parametrize.register_parametrization(module, "weight", Rounded(variant.encoder))


def measure(model: SequenceModel, variant: Variant, items: str) -> dict[str, float]:
    """Return bytes, parameters, and the microseconds that encoding and scoring take through onnxruntime.

    What is timed is one full history encoded, and a catalogue of TIMED_ITEMS items scored.
    """
    size, weights = model.size, model.items.weight.detach().numpy()
    stored = store_table(weights, items)
    round_encoder(model.encoder, variant.encoder)
    encoder = export_encoder(model, variant.encoder)
    timed = {
        name: np.resize(array, (TIMED_ITEMS, *array.shape[1:])) if name in BY_ITEM else array
        for name, array in stored.items()
    }
    nonzero = sum(int((parameter != 0).sum()) for parameter in model.parameters())
    others = count_parameters(model) - model.items.weight.numel()
    table = sum(array.size for array in stored.values())
    return {
        "encoder_bytes": len(encoder),
        "items_bytes": stored_bytes(stored),
        "parameters": nonzero if variant.zeros else others + table,
        "encode_us": time_encoder(encoder, dim=size.dim, max_history=size.max_history),
        "score_us": time_scoring(scoring_graph(timed, size.dim, AT), dim=size.dim),
    }


def _judge(setup: Setup, model: SequenceModel, path: Path) -> float:
    """Rank the judged part with the weights as they are stored, and return validation NDCG@10."""
    settled = _settled(model).to(choose_device())
    prepared, given = setup.shared.prepared, given_of(setup.shared.course)
    judge_given(prepared, settled, given).save(path)
    return validation_score_given(prepared, given)(settled)


def _settled(model: SequenceModel) -> SequenceModel:
    """Return a copy on the CPU whose plain weights have the values of the constrained ones."""
    settled = copy.deepcopy(model).cpu().eval()
    for parent in list(settled.modules()):
        for name, child in parent.named_children():
            if parametrize.is_parametrized(child, "weight"):
                setattr(parent, name, _plain(child))
    return settled


def _plain(module: Any) -> nn.Module:
    """Return the module without its constraint; remove_parametrizations would take it from the original too."""
    rows, columns = module.weight.shape
    plain: Any = nn.Embedding(rows, columns) if isinstance(module, nn.Embedding) else nn.Linear(columns, rows, False)
    plain.weight = nn.Parameter(module.weight.detach().clone())
    return plain


def tabulate(setup: Setup, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the table: each variant as it is and taught on, both compared with the student that it starts from."""
    model, given = copy.deepcopy(setup.student).to(choose_device()), given_of(setup.shared.course)
    student = ndcg(judge_given(setup.shared.prepared, model, given).ranks, AT)

    def quality(name: str, when: str) -> dict[str, Any]:
        per_user = ndcg(Ranking.load(setup.shared.out / f"{_stem(name)}.{when}.npz").ranks, AT)
        return {
            f"ndcg@{AT}": float(per_user.mean()),
            f"ndcg@{AT}_interval": list(bootstrap_interval(per_user)),
            "difference": relative_difference(per_user, student),
        }

    return {
        "rows": {
            name: dict(row) | {"before": quality(name, "before"), "after": quality(name, "after")}
            for name, row in rows.items()
        },
        "timed_items": TIMED_ITEMS,
        "minutes": sum(row["seconds"] for row in rows.values()) / 60,
        "positions": setup.shared.course.schedule.positions,
    }


def _items_kind(kind: str, dim: int) -> str:
    """Return the kind with the number of a rank in place of its share of the width."""
    name, _, number = kind.partition(":")
    return f"rank:{max(1, round(float(number) * dim))}" if name == "rank" else kind


def _stem(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
