"""Which student: candidates taught by the same soft labels, measured on validation and through onnxruntime.

First every size (width, blocks), then, for the best that fits the budget, how it is taught (alpha, temperature). A
trial is trained on less than the real student, judged on validation users only, with its item table as it would be
stored, and timed on one core of this machine: a full history encoded, the whole catalogue scored and the best K taken
through onnxruntime, int8 multiplied as the service does it. A finished
trial is kept, so an interrupted search goes on, and a wider one only adds to it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from training.data.event import select_events
from training.data.prepared import Prepared
from training.data.split import TRAIN
from training.distillation.source import Source
from training.distillation.teaching import Recipe, teach
from training.errors import InputError
from training.evaluation.judge import validation_score
from training.export.compress import compress_table, table_bytes
from training.export.graph import export_encoder, scoring_graph
from training.export.onnx_student import time_encoder, time_scoring
from training.export.rounding import round_encoder
from training.model.device import choose_device
from training.model.encoder import SequenceModel, Size, settle
from training.model.fit import Schedule, fit
from training.progress import Progress

TRIALS = "trials.json"
TOP = 10


@dataclass(frozen=True)
class Candidate:
    """One student and how it is taught."""

    dim: int
    blocks: tuple[str, ...]
    alpha: float
    temperature: float

    def name(self) -> str:
        """Return the directory of its trial."""
        return f"{self.dim}-{'-'.join(self.blocks)}-a{self.alpha:g}-t{self.temperature:g}"


@dataclass(frozen=True)
class Budget:
    """What a student may cost. ms: median time of encode, score and top K; mb: encoder and item table. 0: no limit."""

    ms: float = 0.0
    mb: float = 0.0

    def allows(self, trial: dict[str, Any]) -> bool:
        """Return whether a trial fits."""
        return (not self.ms or trial["model_ms"] <= self.ms) and (not self.mb or trial["bytes"] <= self.mb * 1e6)


@dataclass(frozen=True)
class Stored:
    """How the student will be stored: float32, float16 or int8 items, float32 or int8 encoder."""

    items: str
    encoder: str


@dataclass(frozen=True)
class Space:
    """What is tried. minutes: no trial starts after so many; 0: no limit."""

    dims: Sequence[int]
    blocks: Sequence[tuple[str, ...]]
    alphas: Sequence[float]
    temperatures: Sequence[float]
    minutes: float


def search(
    out: Path,
    prepared: Prepared,
    source: Source,
    *,
    space: Space,
    start: Candidate,
    recipe: Recipe,
    size: Size,
    schedule: Schedule,
    stored: Stored,
    budget: Budget,
    progress: Progress,
) -> Candidate:
    """Try the space and return the candidate of highest validation NDCG@10 that fits; writes trials.json, which the
    report draws.

    start: alpha and temperature of the first round; recipe, size: what the candidates share.
    Raises InputError where none fits.
    """
    started, trials = monotonic(), list[dict[str, Any]]()
    evaluate = _evaluator(
        out, prepared, source, recipe=recipe, size=size, schedule=schedule, stored=stored, progress=progress
    )

    def attempt(candidates: Sequence[Candidate]) -> Candidate:
        for candidate in candidates:
            done = (out / f"{candidate.name()}.json").exists()
            if not done and trials and space.minutes and monotonic() - started > 60 * space.minutes:
                progress.note(f"search: {space.minutes:g} minutes are over, {candidate.name()} was not tried")
                continue
            trials.append(evaluate(candidate))
            progress.note(_describe(trials[-1], budget))
        return _best(trials, budget)

    best = attempt([replace(start, dim=dim, blocks=blocks) for blocks in space.blocks for dim in space.dims])
    taught = [
        replace(best, alpha=alpha, temperature=temperature)
        for alpha in space.alphas
        for temperature in space.temperatures
        if (alpha, temperature) != (start.alpha, start.temperature)
    ]
    best = attempt(taught)
    rows = [trial | {"fits": budget.allows(trial), "chosen": _candidate(trial) == best} for trial in trials]
    (out / TRIALS).write_text(json.dumps(rows, indent=1) + "\n")
    return best


def _evaluator(
    out: Path,
    prepared: Prepared,
    source: Source,
    *,
    recipe: Recipe,
    size: Size,
    schedule: Schedule,
    stored: Stored,
    progress: Progress,
) -> Callable[[Candidate], dict[str, Any]]:
    """Return what trains and measures one candidate, or reads what an earlier search measured."""
    events = select_events(prepared.user, prepared.item, prepared.part == TRAIN, len(prepared.users))
    validate = validation_score(prepared)

    def evaluate(candidate: Candidate) -> dict[str, Any]:
        path = out / f"{candidate.name()}.json"
        if path.exists():
            return dict(json.loads(path.read_text()))
        torch.manual_seed(schedule.seed)
        model = SequenceModel(len(prepared.items), replace(size, dim=candidate.dim, blocks=candidate.blocks))
        model.to(choose_device())
        taught = replace(recipe, alpha=candidate.alpha, temperature=candidate.temperature)
        loss, extra = teach(taught, source, model, schedule.seed)
        checkpoint = path.with_suffix(".safetensors")
        progress.note(f"trial {candidate.name()}")
        fit(
            model,
            events,
            loss=loss,
            extra=extra,
            validate=validate,
            schedule=schedule,
            checkpoint=checkpoint,
            progress=progress,
        )
        trial = _fields(candidate) | measure(model, stored, validate)
        path.write_text(json.dumps(trial) + "\n")
        checkpoint.unlink()
        return trial

    return evaluate


def measure(model: SequenceModel, stored: Stored, validate: Callable[[SequenceModel], float]) -> dict[str, Any]:
    """Return NDCG@10 with the table stored as items says, bytes, and the times through onnxruntime."""
    model = settle(model.cpu())
    table = compress_table(model.items.weight.detach().numpy(), stored.items)
    if stored.encoder == "int8":
        round_encoder(model.encoder)
    with torch.no_grad():
        model.items.weight.copy_(torch.from_numpy(table.dense()))
    quality = validate(model.to(choose_device()))
    encoder = export_encoder(model.cpu(), stored.encoder)
    encode_us = time_encoder(encoder, dim=model.size.dim, max_history=model.size.max_history)
    scored = {"items": table.embeddings} | ({} if table.scales is None else {"scales": table.scales})
    score_us = time_scoring(scoring_graph(scored, model.size.dim, min(TOP, len(table.embeddings))), dim=model.size.dim)
    return {
        "items": stored.items,
        "ndcg@10": quality,
        "encode_us": encode_us,
        "score_us": score_us,
        "model_ms": (encode_us + score_us) / 1000,
        "bytes": len(encoder) + table_bytes(table),
    }


def _best(trials: Sequence[dict[str, Any]], budget: Budget) -> Candidate:
    fitting = [trial for trial in trials if budget.allows(trial)]
    if not fitting:
        cheapest = min(trials, key=lambda trial: trial["model_ms"])
        raise InputError(
            f"no student fits {budget.ms:g} ms and {budget.mb:g} MB; the fastest of {len(trials)} takes "
            f"{cheapest['model_ms']:.3g} ms and {cheapest['bytes'] / 1e6:.3g} MB. Raise the budget, or add smaller "
            "sizes with --set search.dims=8,16"
        )
    return _candidate(max(fitting, key=lambda trial: trial["ndcg@10"]))


def _fields(candidate: Candidate) -> dict[str, Any]:
    blocks = candidate.blocks
    return asdict(candidate) | {"blocks": list(blocks), "kind": "+".join(blocks), "layers": len(blocks)}


def _candidate(trial: dict[str, Any]) -> Candidate:
    return Candidate(trial["dim"], tuple(trial["blocks"]), trial["alpha"], trial["temperature"])


def _describe(trial: dict[str, Any], budget: Budget) -> str:
    fits = "" if budget.allows(trial) else ", over the budget"
    return (
        f"trial {_candidate(trial).name()}: validation NDCG@10 {trial['ndcg@10']:.4f}, {trial['model_ms']:.3f} ms, "
        f"{trial['bytes'] / 1e6:.2f} MB{fits}"
    )
