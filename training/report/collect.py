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
from training.evaluation.given import Given
from training.evaluation.judge import (
    AskedScorer,
    Ranking,
    popularity_scorer,
    rank,
    rank_asked,
    shown,
    with_popularity,
)
from training.evaluation.metric import ndcg
from training.evaluation.quality import (
    COMPARED,
    MEANING,
    beside_baselines,
    detail,
    make_yardstick,
    overlaps,
    summarise_quality,
    verdict,
)
from training.evaluation.question import Question, ask, judged_part
from training.evaluation.request_kind import ALL, BAR, by_kind, judge_bar
from training.export.onnx_student import ExportedStudent, time_encoder
from training.model.checkpoint import load_model
from training.model.curve import Epoch, load_curve
from training.model.encoder import count_parameters
from training.progress import Progress
from training.report.diversity import measure_diversity
from training.teacher.kind import CURVE, RANKING, Kind
from training.teacher.mix import load_shares
from training.teacher.registry import KINDS, mixed_members, open_member, peer_pairs

STUDENTS = {"student": "student", "student_smoothed": "smoothed", "student_alone": "alone"}  # the stems of their files
COMPRESSED = "compressed/ranking.npz"
REFRESHES = "refreshes.jsonl"
PEERS, BASELINES = "peers", "baselines"


def collect_metrics(run: Path, prepared: Prepared, progress: Progress) -> tuple[dict[str, Any], dict[str, Ranking]]:
    """Return what metrics.json will hold, and the rankings by model that it is about.

    Raises InputError where a note of a peer or a baseline cannot be read, and BundleError where the bundle cannot be
    opened.
    """
    bundle = open_bundle(run / "bundle")
    question = ask(prepared, judged_part(prepared))
    rankings = own_rankings(run)
    check_asked(run, rankings, question)
    own = {*rankings, "bundle"}
    if not bundle.manifest.refit:
        rankings["bundle"] = rank_bundle(bundle, question, prepared, progress)
    others, about = other_rankings(run, prepared, question, progress)
    rankings |= others
    if "popularity" not in rankings:
        rankings["popularity"] = rank(question, popularity_scorer(prepared), 1, both_rules=True)
    quality = summarise_quality(rankings, len(prepared.items), [*COMPARED, *peer_pairs()])
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
        "mix": load_shares(run / "mix"),
        "ndcg@10_differences": quality["ndcg@10_differences"],
        **beside_the_bar(rankings, question, about, progress),
        "beside_baselines": beside_baselines(rankings, [name for name in rankings if name not in own]),
        "overlap": overlaps(rankings),
        **beside_diversity(bundle, question, prepared, yardstick.features.by, progress),
        "meaning": MEANING,
        **_beside_the_models(run, prepared),
        "bundle": {"version": bundle.manifest.version, "refit": bundle.manifest.refit},
        "seconds": {name: value for name, value in _seconds(run).items() if name in rankings},
        "data": prepared.report,
        "lineage": bundle.manifest.lineage,
    }, rankings


def _beside_the_models(run: Path, prepared: Prepared) -> dict[str, Any]:
    """Return what stages left that are about other questions than what a user takes next of what is known."""
    return {"newcomers": read_newcomers(run, prepared), "similar": read_similar(run)}


def read_refreshes(run: Path) -> list[dict[str, Any]]:
    """Return the refreshes that a directory knows of, the oldest first; none where it has had none."""
    path = run / REFRESHES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def beside_the_bar(
    rankings: Mapping[str, Ranking], question: Question, about: Mapping[str, Mapping[str, Any]], progress: Progress
) -> dict[str, Any]:
    """Return how the models do on each kind of request beside recent popularity: bar and by_request.

    bar holds the model's name, its setting, and standing and verdict of what is served (None where it found nothing);
    it is None where recent popularity was not ranked. about: what is said of each baseline.
    """
    kinds = by_kind(rankings, question)
    if BAR not in rankings:
        return {"bar": None, "by_request": kinds}
    setting = about.get(BAR, {}).get("setting", {})
    served = next((kinds[ALL]["models"][name] for name in ("bundle", "student") if name in rankings), {"of_bar": None})
    standing, sentence = judge_bar(served["of_bar"], setting) or (None, None)
    if sentence:
        progress.note(sentence)
    bar = {"model": BAR, "setting": setting, "standing": standing, "verdict": sentence}
    return {"bar": bar, "by_request": kinds}


def check_asked(run: Path, rankings: Mapping[str, Ranking], question: Question) -> None:
    """Raise InputError where a ranking of the run is of other requests than the question."""
    for name, ranking in rankings.items():
        if len(ranking.ranks) != len(question.users):
            raise InputError(
                f"{run}: {name} was ranked on {len(ranking.ranks):,} requests, and {len(question.users):,} are asked "
                "now: it was made by an older version; make the run anew in another --out"
            )


def own_rankings(run: Path) -> dict[str, Ranking]:
    """Return the rankings that the run's own stages left: the mix as the teacher, each kind of teacher, the students.

    Where the mix is one teacher, the kinds are left out: one of them is the teacher itself.
    """
    places = {"teacher": f"mix/{RANKING}"}
    if (run / "mix").exists() and len(mixed_members(run)) > 1:
        places |= {kind.name: f"{kind.place}/{RANKING}" for kind in _shown_kinds()}
    places |= {name: f"student/{stem}_ranking.npz" for name, stem in STUDENTS.items()}
    return {name: Ranking.load(run / place) for name, place in places.items() if (run / place).exists()}


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


def rank_bundle(bundle: Bundle, question: Question, prepared: Prepared, progress: Progress) -> Ranking:
    """Rank the question with a bundle through onnxruntime, under both rules about seen items."""
    with shown(progress, question, bundle_scorer(bundle, question, prepared)) as scorer:
        return rank_asked(question, scorer, bundle.manifest.max_history, both_rules=True)


def bundle_scorer(bundle: Bundle, question: Question, prepared: Prepared) -> AskedScorer:
    """Return what scores the requests of a question as the bundle does, through onnxruntime."""
    taste, parts = ExportedStudent(bundle).padded_scores, bundle.table.parts
    if parts is None:
        return with_popularity(question, taste)
    return Given(prepared, parts).scorer(question, taste, parts.rule)


def beside_diversity(
    bundle: Bundle, question: Question, prepared: Prepared, by: str, progress: Progress
) -> dict[str, Any]:
    """Return diversity_by, and by_diversity: what diversity does to the bundle's lists.

    Nothing is measured where the bundle was refitted, so that no request is new to it. by: what diversity goes by.
    """
    if bundle.manifest.refit:
        return {"diversity_by": by, "by_diversity": []}
    scorer = bundle_scorer(bundle, question, prepared)
    rows = measure_diversity(question, scorer, bundle.table.dense(), bundle.manifest.max_history, progress)
    return {"diversity_by": by, "by_diversity": rows}


def learning_curves(run: Path) -> dict[str, list[Epoch]]:
    """Return the learning curves of all teachers and students that were trained in epochs."""
    places = {kind.name: f"{kind.place}/{CURVE}" for kind in _shown_kinds()}
    places |= {name: f"student/{stem}_curve.json" for name, stem in STUDENTS.items()}
    return {name: load_curve(run / place) for name, place in places.items() if (run / place).exists()}


def read_trials(run: Path) -> list[dict[str, Any]]:
    """Return the trials that a search under a budget measured; an empty list where there was no search."""
    path = run / "search" / "trials.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def read_table(run: Path, name: str) -> dict[str, Any] | None:
    """Return the table that a study left in the run's directory, None where it was not run. name: "ablation", ..."""
    path = run / name / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_newcomers(run: Path, prepared: Prepared) -> dict[str, Any]:
    """Return what the stages of new items left: encoder and judged, each empty where its stage was not run.

    What was judged on other data than prepared is left out.
    """
    places = {"encoder": "item_encoder/about.json", "judged": "newcomers/newcomers.json"}
    found = {name: run / place for name, place in places.items()}
    said = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.exists()}
    judged = said.get("judged", {})
    is_stale = judged.get("data") != prepared.report["fingerprint"]
    return {"titles": NEWCOMERS, "encoder": said.get("encoder", {}), "judged": {} if is_stale else judged}


def read_similar(run: Path) -> dict[str, Any]:
    """Return how items that go with others are weighed and how good that is; titles alone where not judged."""
    return {"titles": SIMILAR_TITLES} | (read_table(run, "similar") or {})


def lineage_of(run: Path) -> dict[str, Any]:
    """Return what the bundle's manifest says of its making: seeds, config, commit, packages and data.

    Raises InputError where there is no bundle that can be read.
    """
    try:
        return dict(read_manifest(run / "bundle").lineage)
    except BundleError as exc:
        raise InputError(f"{exc}; export the run first") from exc


def _shown_kinds() -> list[Kind]:
    """Return the kinds of teachers that a report shows under their own name, and not as the student alone."""
    return [kind for kind in KINDS.values() if not kind.is_student_alone]


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
    titles = TITLES | {kind.name: kind.title for kind in KINDS.values()}
    return titles | {
        name: titles.get(name) or row.get("title") or name.replace("_", " ") for name, row in models.items()
    }


NEWCOMERS = {
    "encoder": "Item encoder",
    "text_neighbour": "Mean of the nearest texts",
    "popular_in_category": "Most popular attribute",
    "random": "Chance",
}
SIMILAR_TITLES = {
    "mix": "What is served",
    "next": "What users do next",
    "neighbours": "Neighbours, in both directions",
    "angle": "Direction of the vectors",
    "trend": "Trend",
    "together": "Co-occurrence in training",
}
TITLES = {
    "teacher": "Teacher",
    "student": "Student, distilled",
    "student_smoothed": "Student, smoothed labels for a teacher",
    "student_alone": "Student alone, no teacher",
    "compressed": "Student, compressed",
    "bundle": "Bundle, as it is served",
    "popularity": "Popularity",
    "recent_popularity": "Recent popularity (the bar)",
    "item_knn": "Item-kNN",
    "ease": "EASE",
    "ials": "iALS",
}
