"""metrics.json and report.html: one self-contained page, verdict first, for a reader who was not there."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from service.bundle import Bundle, open_bundle
from training.checkpoint import load_model
from training.encoder import SequenceModel, count_parameters
from training.evaluation import Ranking, ask, judged_part, popularity_scorer, rank
from training.exported import ExportedStudent, time_encoder
from training.fit import Epoch, load_curve
from training.graph import export_encoder
from training.interactions import TEST, Prepared
from training.progress import Progress
from training.quality import MEANING, detail, make_yardstick, overlaps, summarise_quality, verdict

matplotlib.use("Agg")

TITLES = {
    "teacher": "Teacher",
    "student": "Student, distilled",
    "student_alone": "Student alone (same budget, no teacher)",
    "bundle": "Bundle, through onnxruntime",
    "popularity": "Popularity",
}
COLOURS = {
    "teacher": "#6b7280",
    "student": "#0f766e",
    "student_alone": "#d97706",
    "bundle": "#134e4a",
    "popularity": "#9ca3af",
}


def write_report(run: Path, prepared: Prepared, progress: Progress) -> dict[str, Any]:
    """Write run/metrics.json and run/report.html from what the stages left; returns the metrics."""
    bundle = open_bundle(run / "bundle")
    metrics = collect_metrics(run, prepared, bundle, progress)
    curves = {
        "teacher": load_curve(run / "teacher" / "curve.json"),
        "student": load_curve(run / "student" / "student_curve.json"),
        "student_alone": load_curve(run / "student" / "alone_curve.json"),
    }
    _write(run / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    _write(run / "report.html", render(metrics, curves, prepared.report))
    return metrics


def collect_metrics(run: Path, prepared: Prepared, bundle: Bundle, progress: Progress) -> dict[str, Any]:
    """Measure what is left to measure (the bundle itself, popularity, sizes, encode times) and put it together."""
    rankings = {
        "teacher": Ranking.load(run / "teacher" / "ranking.npz"),
        "student": Ranking.load(run / "student" / "student_ranking.npz"),
        "student_alone": Ranking.load(run / "student" / "alone_ranking.npz"),
    }
    question = ask(prepared, judged_part(prepared))
    if not bundle.manifest.refit:
        student = ExportedStudent(bundle)
        histories = lambda rows: [[r for r in row if r >= 0] for row in rows.tolist()]  # noqa: E731 - one use, one line
        rankings["bundle"] = rank(
            question, lambda rows: student.scores(histories(rows)), bundle.manifest.max_history, both_rules=True
        )
    rankings["popularity"] = rank(question, popularity_scorer(prepared), 1, both_rules=True)
    quality = summarise_quality(rankings, len(prepared.items))
    paid, sentence = verdict(quality)
    yardstick = make_yardstick(prepared, question)
    details = {name: detail(ranking, yardstick) for name, ranking in rankings.items()}
    sizes = _sizes(run, bundle)
    progress.note(sentence)
    return {
        "paid": paid,
        "verdict": sentence,
        "judged_on": "test" if judged_part(prepared) == TEST else "validation",
        "exclude_seen": question.exclude_seen,
        "models": {name: quality[name] | details[name] | sizes.get(name, {}) for name in rankings},
        "ndcg@10_differences": quality["ndcg@10_differences"],
        "overlap": overlaps(rankings),
        "diversity_by": yardstick.features.by,
        "meaning": MEANING,
        "bundle": {"version": bundle.manifest.version, "refit": bundle.manifest.refit},
        "seconds": _training_seconds(run),
        "data": prepared.report,
        "lineage": bundle.manifest.lineage,
    }


def render(metrics: Mapping[str, Any], curves: Mapping[str, Sequence[Epoch]], data: Mapping[str, Any]) -> str:
    """Return the page."""
    environment = Environment(loader=PackageLoader("training", "."), autoescape=True, trim_blocks=True)
    return environment.get_template("report.html.j2").render(
        metrics=metrics,
        titles=TITLES,
        data=data,
        cutoffs=(5, 10, 20),
        bars=plot_bars(metrics["models"]),
        curves=plot_curves(curves),
        bundle_mb=metrics["models"].get("bundle", {}).get("bytes", 0) / 1e6,
        config=json.dumps(metrics["lineage"]["config"], indent=1),
    )


def summary_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the table of a run as plain text."""
    lines = [f"{'':40}{'NDCG@10':>9}{'95 %':>18}{'HR@10':>8}{'parameters':>13}{'bytes':>13}{'encode µs':>11}"]
    for name, row in metrics["models"].items():
        low, high = row["ndcg@10_interval"]
        sizes = "".join(
            f"{row[key]:>{width},.0f}" if key in row else " " * width
            for key, width in (("parameters", 13), ("bytes", 13), ("encode_us", 11))
        )
        lines.append(
            f"{TITLES[name]:40}{row['ndcg@10']:9.4f}{f'{low:.4f} to {high:.4f}':>18}{row['hr@10']:8.4f}{sizes}"
        )
    return lines


def plot_curves(curves: Mapping[str, Sequence[Epoch]]) -> str:
    """Return validation NDCG@10 over epochs as a data address."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, rows in curves.items():
        axes.plot(
            [row.epoch + 1 for row in rows], [row.validation for row in rows], label=TITLES[name], color=COLOURS[name]
        )
    axes.set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _as_address(figure)


def plot_bars(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return NDCG@10 with intervals as a data address."""
    figure = Figure(figsize=(7, 0.6 * len(models) + 0.8), layout="constrained")
    axes = figure.subplots()
    for place, (name, row) in enumerate(reversed(list(models.items()))):
        low, high = row["ndcg@10_interval"]
        error = [[row["ndcg@10"] - low], [high - row["ndcg@10"]]]
        axes.barh(place, row["ndcg@10"], xerr=error, color=COLOURS[name], ecolor="#111827", capsize=3)
    axes.set_yticks(range(len(models)), [TITLES[name] for name in reversed(list(models))])
    axes.set_xlabel("NDCG@10, whole catalogue, 95 % interval over users")
    axes.spines[["top", "right"]].set_visible(False)
    return _as_address(figure)


def _sizes(run: Path, bundle: Bundle) -> dict[str, dict[str, float]]:
    """Parameters, float32 bytes and encode time; both students have the bundle's encoder, so its time is theirs."""
    dim, longest = bundle.manifest.dim, bundle.manifest.max_history
    encode_us = time_encoder(bundle.encoder, dim=dim, max_history=longest)
    teacher, student = (
        load_model(run / place) for place in ("teacher/model.safetensors", "student/student.safetensors")
    )
    sizes = {"teacher": _size(count_parameters(teacher), _encode_us(teacher))}
    sizes["student"] = sizes["student_alone"] = _size(count_parameters(student), encode_us)
    files = sum(entry["size"] for entry in bundle.manifest.files.values())
    sizes["bundle"] = sizes["student"] | {"bytes": files}
    return sizes


def _size(parameters: int, encode_us: float) -> dict[str, float]:
    return {"parameters": parameters, "bytes": 4 * parameters, "encode_us": encode_us}


def _encode_us(model: SequenceModel) -> float:
    return time_encoder(export_encoder(model), dim=model.size.dim, max_history=model.size.max_history)


def _training_seconds(run: Path) -> dict[str, float]:
    curves = {"teacher": "teacher/curve", "student": "student/student_curve", "student_alone": "student/alone_curve"}
    return {name: sum(row.seconds for row in load_curve(run / f"{place}.json")) for name, place in curves.items()}


def _as_address(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.rename(path)
