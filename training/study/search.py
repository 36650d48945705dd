"""The search for a student: candidates taught by the same soft labels, measured on validation and through onnxruntime.

First every size (width and blocks) is tried; then, for the best one that fits the budget, how it is taught (alpha and
temperature). A candidate is trained on less than the real student and judged on validation users alone, with its item
table as it would be stored. It is timed on one core of this machine: a full history encoded, the whole catalogue scored
and the best K taken, through onnxruntime, int8 multiplied as the service does it. A finished trial is kept, so a search
that was interrupted goes on, and a wider search only adds to it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any

import torch

from training.distillation.source import Source
from training.distillation.student import Taught
from training.distillation.teaching import learn_from
from training.errors import InputError
from training.evaluation.trained import given_of
from training.evaluation.with_given import validation_score_given
from training.export.compress import compress_table, table_bytes
from training.export.graph import export_encoder, scoring_graph
from training.export.onnx_student import time_encoder, time_scoring
from training.export.rounding import round_encoder
from training.model.curve import Epoch
from training.model.device import choose_device
from training.model.encoder import SequenceModel, settle
from training.study.trial import Shared, Student, attempt

TRIALS = "trials.json"
TOP = 10


@dataclass(frozen=True)
class Candidate:
    """One size of the student, and how it is taught."""

    dim: int
    blocks: tuple[str, ...]
    alpha: float
    temperature: float

    def name(self) -> str:
        """Return the stem of the files of its trial."""
        return f"{self.dim}-{'-'.join(self.blocks)}-a{self.alpha:g}-t{self.temperature:g}"


@dataclass(frozen=True)
class Budget:
    """What a student may cost; 0 is no limit.

    ms: median milliseconds to encode a history, score the catalogue and take the top K. mb: megabytes of encoder, item
    table and what runs them. runtime_mb: of these, what runs them takes.
    """

    ms: float = 0.0
    mb: float = 0.0
    runtime_mb: float = 0.0

    def allows(self, trial: dict[str, Any]) -> bool:
        """Return whether a measured trial fits."""
        n_bytes = trial["bytes"] + self.runtime_mb * 1e6
        return (not self.ms or trial["model_ms"] <= self.ms) and (not self.mb or n_bytes <= self.mb * 1e6)


@dataclass(frozen=True)
class Stored:
    """How the student will be stored. items: float32, float16 or int8. encoder: float32 or int8."""

    items: str
    encoder: str


@dataclass(frozen=True)
class Space:
    """What is tried. minutes: no trial starts when so many are over; 0 is no limit."""

    dims: Sequence[int]
    blocks: Sequence[tuple[str, ...]]
    alphas: Sequence[float]
    temperatures: Sequence[float]
    minutes: float


def search(
    shared: Shared, source: Source, taught: Taught, *, space: Space, stored: Stored, budget: Budget
) -> Candidate:
    """Try the space and return the candidate of highest validation NDCG@10 that fits the budget.

    taught: what the candidates share, and how those of the first round are taught. Writes trials.json, which the report
    draws. Raises InputError where no candidate fits.
    """
    started, trials, note = monotonic(), list[dict[str, Any]](), shared.course.progress.note

    def best_of(candidates: Sequence[Candidate]) -> Candidate:
        """Try candidates and return the best of all that were tried so far."""
        for candidate in candidates:
            done = (shared.out / f"{candidate.name()}.json").exists()
            if not done and trials and space.minutes and monotonic() - started > 60 * space.minutes:
                note(f"search: {space.minutes:g} minutes are over, {candidate.name()} was not tried")
                continue
            trials.append(_evaluate(shared, source, taught, stored, candidate))
            note(_describe(trials[-1], budget))
        return _best(trials, budget)

    first = (taught.recipe.alpha, taught.recipe.temperature)
    best = best_of([Candidate(dim, blocks, *first) for blocks in space.blocks for dim in space.dims])
    others = [(alpha, temperature) for alpha in space.alphas for temperature in space.temperatures]
    best = best_of([Candidate(best.dim, best.blocks, *other) for other in others if other != first])
    rows = [trial | {"fits": budget.allows(trial), "chosen": _candidate(trial) == best} for trial in trials]
    (shared.out / TRIALS).write_text(json.dumps(rows, indent=1) + "\n")
    return best


def _evaluate(shared: Shared, source: Source, taught: Taught, stored: Stored, candidate: Candidate) -> dict[str, Any]:
    """Train and measure one candidate, or read what an earlier search measured."""
    seed = shared.course.schedule.seed
    recipe = replace(taught.recipe, alpha=candidate.alpha, temperature=candidate.temperature)
    size = replace(taught.size, dim=candidate.dim, blocks=candidate.blocks)
    student = Student(candidate.name(), size, seed, learn_from(source, recipe, seed))

    def measured(model: SequenceModel, curve: list[Epoch]) -> dict[str, Any]:
        return _fields(candidate) | measure(
            model, stored, validation_score_given(shared.prepared, given_of(shared.course))
        )

    return attempt(shared, student, measured)


def measure(model: SequenceModel, stored: Stored, validate: Callable[[SequenceModel], float]) -> dict[str, Any]:
    """Return NDCG@10 of the model as it will be stored, its bytes, and its times through onnxruntime."""
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
        runtime = f", of which {budget.runtime_mb:g} MB are the runtime's" if budget.runtime_mb else ""
        raise InputError(
            f"no student fits {budget.ms:g} ms and {budget.mb:g} MB{runtime}; the fastest of {len(trials)} takes "
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
