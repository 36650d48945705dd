"""Put together what a finished run holds: the rankings of its models and of what they are compared with, and metrics.

The rankings were left in the run's directory by its stages. Only the bundle is ranked here, through onnxruntime,
because that is what will be served.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.bundle import Bundle, BundleError, open_bundle, read_manifest
from training.data.prepared import Prepared
from training.data.split import TEST
from training.errors import InputError
from training.evaluation.judge import Ranking, popularity_scorer, rank
from training.evaluation.metric import ndcg
from training.evaluation.quality import (
    MEANING,
    beside_baselines,
    detail,
    make_yardstick,
    overlaps,
    summarise_quality,
    verdict,
)
from training.evaluation.question import Question, ask, judged_part
from training.export.onnx_student import ExportedStudent, time_encoder
from training.model.checkpoint import load_model
from training.model.curve import Epoch, load_curve
from training.model.encoder import count_parameters
from training.progress import Progress
from training.teacher.kind import PLACES, mixed_members, open_member
from training.teacher.mix import load_shares

OWN = {  # where a model's ranking lies: the first path that is there. Where teachers are mixed, the mix is the teacher
    "teacher": ("mix/ranking.npz", "teacher/ranking.npz"),
    "transformer": ("teacher/ranking.npz",),
    "linear": ("linear/ranking.npz",),
    "text": ("text_teacher/ranking.npz",),
    "student": ("student/student_ranking.npz",),
    "student_smoothed": ("student/smoothed_ranking.npz",),
    "student_alone": ("student/alone_ranking.npz",),
}
CURVES = {
    "transformer": "teacher/curve.json",
    "text": "text_teacher/curve.json",
    "student": "student/student_curve.json",
    "student_smoothed": "student/smoothed_curve.json",
    "student_alone": "student/alone_curve.json",
}
COMPRESSED = "compressed/ranking.npz"
PEERS, BASELINES = "peers", "baselines"


def collect_metrics(run: Path, prepared: Prepared, progress: Progress) -> tuple[dict[str, Any], dict[str, Ranking]]:
    """Return what metrics.json will hold, and the rankings by model that it is about.

    Raises InputError where a note of a peer or a baseline cannot be read, and BundleError where the bundle cannot be
    opened.
    """
    bundle = open_bundle(run / "bundle")
    question = ask(prepared, judged_part(prepared))
    rankings = own_rankings(run)
    if not bundle.manifest.refit:
        rankings["bundle"] = rank_bundle(bundle, question)
    others, about = other_rankings(run, prepared, question, progress)
    rankings |= others
    if "popularity" not in rankings:
        rankings["popularity"] = rank(question, popularity_scorer(prepared), 1, both_rules=True)
    quality = summarise_quality(rankings, len(prepared.items))
    paid, sentence = verdict(quality)
    progress.note(sentence)
    yardstick = make_yardstick(prepared, question)
    details = {name: detail(ranking, yardstick) for name, ranking in rankings.items()}
    sizes = _sizes(run, bundle)
    return {
        "paid": paid,
        "verdict": sentence,
        "judged_on": "test" if judged_part(prepared) == TEST else "validation",
        "exclude_seen": question.exclude_seen,
        "models": {
            name: quality[name] | details[name] | sizes.get(name, {}) | about.get(name, {}) for name in rankings
        },
        "mix": load_shares(run / "mix") if (run / "mix").exists() else {},
        "ndcg@10_differences": quality["ndcg@10_differences"],
        "beside_baselines": beside_baselines(rankings),
        "overlap": overlaps(rankings),
        "diversity_by": yardstick.features.by,
        "meaning": MEANING,
        "bundle": {"version": bundle.manifest.version, "refit": bundle.manifest.refit},
        "seconds": {name: value for name, value in _seconds(run).items() if name in rankings},
        "data": prepared.report,
        "lineage": bundle.manifest.lineage,
    }, rankings


def own_rankings(run: Path) -> dict[str, Ranking]:
    """Return the rankings by model that the run's own stages left.

    Where the mix holds a single teacher, that teacher is not listed a second time under its own name.
    """
    found: dict[str, Path] = {}
    for name, places in OWN.items():
        path = next((run / place for place in places if (run / place).exists()), None)
        if path is not None and path not in found.values():
            found[name] = path
    if (run / "mix").exists() and len(mixed_members(run)) == 1:  # it is the teacher itself
        found = {name: path for name, path in found.items() if name not in PLACES}
    return {name: Ranking.load(path) for name, path in found.items()}


def other_rankings(
    run: Path, prepared: Prepared, question: Question, progress: Progress
) -> tuple[dict[str, Ranking], dict[str, dict[str, Any]]]:
    """Return the rankings in peers/ and baselines/ by name, the strongest first, and what is said of each.

    The latter are title, seconds, parameters and setting, as far as NAME.json has them. A ranking that was made of
    other data is left out, and named by progress: its users are not those of the question. Raises InputError where a
    NAME.json cannot be read.
    """
    rankings: dict[str, Ranking] = {}
    about: dict[str, dict[str, Any]] = {}
    for path in [*sorted((run / PEERS).glob("*.npz")), *sorted((run / BASELINES).glob("*.npz"))]:
        says = _read_about(path.with_suffix(".json"))
        ranking = Ranking.load(path)
        if says.get("data", prepared.report["fingerprint"]) != prepared.report["fingerprint"] or len(
            ranking.ranks
        ) != len(question.users):
            progress.note(f"{path}: of other data than this run, left out of the report")
            continue
        rankings[path.stem] = ranking
        about[path.stem] = {key: says[key] for key in ("title", "seconds", "parameters", "setting") if key in says}
    order = sorted(rankings, key=lambda name: -float(ndcg(rankings[name].ranks, 10).mean()))
    return {name: rankings[name] for name in order}, about


def rank_bundle(bundle: Bundle, question: Question) -> Ranking:
    """Rank the question with a bundle through onnxruntime, under both rules about seen items."""
    return rank(question, ExportedStudent(bundle).padded_scores, bundle.manifest.max_history, both_rules=True)


def learning_curves(run: Path) -> dict[str, list[Epoch]]:
    """Return the learning curve of each model of the run that was trained in epochs."""
    return {name: load_curve(run / place) for name, place in CURVES.items() if (run / place).exists()}


def read_trials(run: Path) -> list[dict[str, Any]]:
    """Return the trials that a search under a budget measured; an empty list where there was no search."""
    path = run / "search" / "trials.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def read_table(run: Path, name: str) -> dict[str, Any] | None:
    """Return the table that a study left in the run's directory, None where it was not run. name: "ablation", ..."""
    path = run / name / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def lineage_of(run: Path) -> dict[str, Any]:
    """Return what the bundle's manifest says of its making: seeds, config, commit, packages and data.

    Raises InputError where there is no bundle that can be read.
    """
    try:
        return dict(read_manifest(run / "bundle").lineage)
    except BundleError as exc:
        raise InputError(f"{exc}; export the run first") from exc


def _read_about(path: Path) -> dict[str, Any]:
    """Return the JSON beside a ranking, empty where there is none. Raises InputError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        raise InputError(f"{path}: not JSON ({exc}); delete it or write it again") from exc


def _sizes(run: Path, bundle: Bundle) -> dict[str, dict[str, float]]:
    """Return parameters, float32 bytes and microseconds to encode one history, of each model that has them.

    All students have an encoder of the bundle's size, so its time is theirs. A mix has the sums of its members.
    """
    dim, longest = bundle.manifest.dim, bundle.manifest.max_history
    encode_us = time_encoder(bundle.encoder, dim=dim, max_history=longest)
    own = _size(count_parameters(load_model(run / "student" / "student.safetensors")), encode_us)
    files = sum(entry["size"] for entry in bundle.manifest.files.values())
    members = {name: open_member(run, name) for name in mixed_members(run)}
    sizes = {name: _size(member.parameters, member.time_encoding()) for name, member in members.items()}
    whole = {key: sum(size[key] for size in sizes.values()) for key in ("parameters", "bytes", "encode_us")}
    return {
        **sizes,
        "teacher": whole,
        **dict.fromkeys(("student", "student_smoothed", "student_alone"), own),
        "bundle": own | {"bytes": files},
    }


def _size(parameters: int, encode_us: float) -> dict[str, float]:
    """Return the row of a model whose parameters are float32."""
    return {"parameters": parameters, "bytes": 4 * parameters, "encode_us": encode_us}


def _seconds(run: Path) -> dict[str, float]:
    """Return how many seconds the training of each model took; a mix took the sum of its members."""
    members = {name: open_member(run, name).seconds for name in mixed_members(run)}
    curves = {name: sum(row.seconds for row in rows) for name, rows in learning_curves(run).items()}
    return curves | members | {"teacher": sum(members.values())}


def titles_of(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a title for the reader of every known model, and of those in models: their own, or made of their name."""
    return TITLES | {
        name: TITLES.get(name) or row.get("title") or name.replace("_", " ") for name, row in models.items()
    }


TITLES = {
    "teacher": "Teacher",
    "student": "Student, distilled",
    "student_smoothed": "Student, smoothed labels for a teacher",
    "student_alone": "Student alone, no teacher",
    "transformer": "Transformer alone",
    "linear": "Linear model alone",
    "text": "Transformer over texts alone",
    "compressed": "Student, compressed",
    "twin": "Student alone in the teacher",
    "bundle": "Bundle, as it is served",
    "popularity": "Popularity",
    "recent_popularity": "Recent popularity (knows the day)",
    "item_knn": "Item-kNN",
    "ease": "EASE",
    "ials": "iALS",
}
