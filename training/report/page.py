"""metrics.json and report.html: one self-contained page, verdict first, for a reader who was not there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from training.data.prepared import Prepared
from training.errors import InputError
from training.evaluation.question import ask, judged_part
from training.model.curve import Epoch
from training.progress import Progress
from training.report.collect import collect_metrics, learning_curves, read_table, read_trials, titles_of
from training.report.example import Example, draw_examples
from training.report.plot import (
    group_label,
    plot_bars,
    plot_capacity,
    plot_curves,
    plot_differences,
    plot_front,
    plot_groups,
)
from training.report.text import findings, row_title

GROUPS = {"by_popularity": "How popular the next item was", "by_history": "How much was known of the user"}
LISTS = ("accuracy@1", "coverage@10", "gini@10", "novelty@10", "diversity@10")
RANKED = ("recall", "ndcg", "mrr", "precision", "f1")
TIMES = (
    ("model_ms", "milliseconds to encode one history, score the catalogue and take the best", 1.0),
    ("encode_us", "microseconds to encode one history", 1.0),
)
STUDIES = ("ablation", "capacity", "compression")
TEACHERS = {"alone": "alone", "mix": "taught by the mix"}
BYTES = ("bytes", "megabytes of encoder and item table", 1e-6)


def write_report(run: Path, prepared: Prepared, progress: Progress) -> dict[str, Any]:
    """Write run/metrics.json and run/report.html from what the stages left; returns the metrics."""
    metrics, rankings = collect_metrics(run, prepared, progress)
    shown = {name: rankings[name] for name in ("teacher", "bundle" if "bundle" in rankings else "student")}
    examples = draw_examples(ask(prepared, judged_part(prepared)), shown, prepared.items)
    _write(run / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    _write(
        run / "report.html",
        render(
            metrics, learning_curves(run), read_trials(run), examples, {name: read_table(run, name) for name in STUDIES}
        ),
    )
    return metrics


def render(
    metrics: Mapping[str, Any],
    curves: Mapping[str, Sequence[Epoch]],
    trials: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    studies: Mapping[str, Any],
) -> str:
    """Return the page."""
    models = metrics["models"]
    titles = titles_of(models)
    compared = [name for name in ("teacher", "student", "student_alone") if name in models]
    compared += list(metrics["beside_baselines"])[:1]
    return _template("report.html.j2").render(
        metrics=metrics,
        titles=titles,
        data=metrics["data"],
        cutoffs=(5, 10, 20),
        ranked=RANKED,
        lists=LISTS,
        compared=compared,
        beaten_by=stronger_baselines(metrics),
        bars=plot_bars(models, titles),
        curves=plot_curves(curves, titles),
        groups={key: (text, plot_groups(models, compared, titles, key)) for key, text in GROUPS.items()},
        group_label=group_label,
        fronts=[plot_front(trials, *cost) for cost in _measured_costs(trials)],
        examples=examples,
        ablation=studies["ablation"],
        differences=_differences(studies["ablation"]),
        findings=findings(studies["ablation"]) if studies["ablation"] else [],
        capacity=studies["capacity"],
        region=_region(studies["capacity"]),
        compression=studies["compression"],
        row_title=row_title,
        config=json.dumps(metrics["lineage"]["config"], indent=1),
    )


def _differences(ablation: Mapping[str, Any] | None) -> list[str]:
    """A picture for each base of the ablation, the most helpful term first."""
    pictures = []
    for base in ("hard", "kl") if ablation else ():
        rows = [row for row in ablation["rows"] if row["base"] == base and row["term"]] if ablation else []
        rows.sort(key=lambda row: -row["difference"]["difference"])
        pictures.append(plot_differences([(row_title(row), row["difference"], len(row["seeds"]) > 1) for row in rows]))
    return pictures


def _region(capacity: Mapping[str, Any] | None) -> str | None:
    """The picture of where distillation pays."""
    if capacity is None:
        return None
    titles = {
        name: f"{TEACHERS.get(name, f'taught by {name}')} ({value:.3f})" for name, value in capacity["teachers"].items()
    }
    return plot_capacity(capacity, TEACHERS | titles)


def _measured_costs(trials: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    """The time that all trials know, the fullest first, and the bytes."""
    times = [cost for cost in TIMES if trials and all(cost[0] in trial for trial in trials)]
    return [*times[:1], BYTES] if trials else []


def stronger_baselines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the baselines and peers whose NDCG@10 is above the student's by more than chance."""
    return [name for name, row in metrics["beside_baselines"].items() if row["high"] < 0]


def write_comparison(path: Path, table: Mapping[str, Any]) -> None:
    """Write what compare_runs returned as a page. Raises InputError where there is no such directory."""
    page = _template("comparison.html.j2").render(table=table, bars=plot_bars(table["models"], table["titles"]))
    try:
        _write(path, page)
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}; --html takes a file in a directory that exists") from exc


def _template(name: str) -> Any:
    environment = Environment(
        loader=PackageLoader("training.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "share": lambda value: f"{value:+.1%}",
        "points": lambda value: "" if value is None else f"{value:.4f}",
        "count": lambda value: f"{value:,.0f}",
    }
    return environment.get_template(name)


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.rename(path)
