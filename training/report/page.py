"""Write a run's metrics.json and report.html, and the page of several runs.

A page is one file that needs no other and no network: pictures and style are inside it. The verdict stands first, for a
reader who was not there.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, Template

from training.data.prepared import Prepared
from training.errors import InputError
from training.evaluation.metric import CUTOFFS, describe_change
from training.evaluation.question import ask, judged_part
from training.model.curve import Epoch
from training.progress import Progress
from training.report.collect import collect_metrics, learning_curves, read_refreshes, read_table, read_trials, titles_of
from training.report.example import Example, draw_examples
from training.report.plot import (
    group_label,
    plot_bars,
    plot_capacity,
    plot_curves,
    plot_differences,
    plot_front,
    plot_groups,
    plot_widths,
)
from training.report.text import BASES, findings, row_title

GROUPS = {"by_popularity": "How popular the next item was", "by_history": "How much was known of the user"}
LISTS = ("accuracy@1", "coverage@10", "gini@10", "novelty@10", "diversity@10")  # metrics of the lists
RANKED = ("recall", "ndcg", "mrr", "precision", "f1")  # metrics at every cutoff
STUDIES = ("ablation", "capacity", "compression")
TEACHERS = {"alone": "alone", "mix": "taught by the mix"}  # of the capacity study, for the reader
PARTS = {
    "taste": "taste alone, no teacher",
    "alone": "with neighbours and trend, no teacher",
    "mix": "with neighbours and trend, taught by the mix",
}

Cost = tuple[str, str, float]
"""What a trial of the search costs: its key, the label of its axis, and what its value is multiplied with there."""

TIMES: tuple[Cost, ...] = (
    ("model_ms", "milliseconds to encode one history, score the catalogue and take the best", 1.0),
    ("encode_us", "microseconds to encode one history", 1.0),
)
BYTES: Cost = ("bytes", "megabytes of encoder and item table", 1e-6)


def write_report(run: Path, prepared: Prepared, progress: Progress) -> dict[str, Any]:
    """Write metrics.json and report.html into a run's directory from what its stages left; return the metrics.

    Raises InputError where something of the run cannot be read.
    """
    metrics, rankings = collect_metrics(run, prepared, progress)
    shown = {name: rankings[name] for name in ("teacher", "bundle" if "bundle" in rankings else "student")}
    examples = draw_examples(ask(prepared, judged_part(prepared)), shown, prepared.items)
    studies: dict[str, Any] = {name: read_table(run, name) for name in STUDIES}
    _write(run / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    studies["refreshes"] = read_refreshes(run)
    _write(run / "report.html", render(metrics, learning_curves(run), read_trials(run), examples, studies))
    return metrics


def write_comparison(path: Path, table: Mapping[str, Any]) -> None:
    """Write what compare_runs returned as a page. Raises InputError where the file cannot be written."""
    page = _template("comparison.html.j2").render(table=table, bars=plot_bars(table["models"], table["titles"]))
    try:
        _write(path, page)
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}; --html takes a file in a directory that exists") from exc


def render(
    metrics: Mapping[str, Any],
    curves: Mapping[str, Sequence[Epoch]],
    trials: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    studies: Mapping[str, Any],
) -> str:
    """Return the page of a run.

    metrics: what metrics.json holds. curves: the learning curve of each model that has one. trials: what a search
    measured, empty where there was none. studies: the table of each of STUDIES, None where it was not run; and
    refreshes, a row each.
    """
    models = metrics["models"]
    titles = titles_of(models)
    compared = [name for name in ("teacher", "student", "student_alone") if name in models]
    compared += list(metrics["beside_baselines"])[:1]
    ablation, capacity = studies["ablation"], studies["capacity"]
    return _template("report.html.j2").render(
        metrics=metrics,
        titles=titles,
        data=metrics["data"],
        cutoffs=CUTOFFS,
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
        ablation=ablation,
        differences=_plot_terms(ablation) if ablation else [],
        findings=findings(ablation) if ablation else [],
        capacity=capacity,
        region=_plot_region(capacity) if capacity else None,
        widths=_plot_parts(capacity) if capacity else None,
        compression=studies["compression"],
        refreshes=studies.get("refreshes", []),
        row_title=row_title,
        config=json.dumps(metrics["lineage"]["config"], indent=1),
    )


def stronger_baselines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the baselines and peers whose NDCG@10 is above the student's by more than chance, the strongest first."""
    return [name for name, row in metrics["beside_baselines"].items() if row["high"] < 0]


def _plot_terms(ablation: Mapping[str, Any]) -> list[str]:
    """Return a picture for each base of an ablation: what each term adds to it, the most helpful first."""
    pictures = []
    for base in BASES:
        rows = [row for row in ablation["rows"] if row["base"] == base and row["term"]]
        rows.sort(key=lambda row: -row["difference"]["difference"])
        pictures.append(plot_differences([(row_title(row), row["difference"], len(row["seeds"]) > 1) for row in rows]))
    return pictures


def _plot_region(capacity: Mapping[str, Any]) -> str:
    """Return the picture of the widths and teachers with which distillation pays."""
    titles = {
        name: f"{TEACHERS.get(name, f'taught by {name}')} ({value:.3f})" for name, value in capacity["teachers"].items()
    }
    return plot_capacity(capacity, TEACHERS | titles)


def _plot_parts(capacity: Mapping[str, Any]) -> str | None:
    """Return the picture of what the parts of the score are worth; None where it has but one part."""
    rows = capacity["rows"]
    return plot_widths(rows, PARTS) if any(row["teacher"] == "taste" for row in rows) else None


def _measured_costs(trials: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """Return the first of TIMES that every trial has, and the bytes; nothing where there are no trials."""
    times = [cost for cost in TIMES if all(cost[0] in trial for trial in trials)]
    return [*times[:1], BYTES] if trials else []


def _template(name: str) -> Template:
    """Return a template of this folder, with the filters that the pages use."""
    environment = Environment(
        loader=PackageLoader("training.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "share": describe_change,
        "points": lambda value: "" if value is None else f"{value:.4f}",
        "count": lambda value: f"{value:,.0f}",
    }
    return environment.get_template(name)


def _write(path: Path, text: str) -> None:
    """Write a file under another name and rename it, so that it is whole or not there."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.rename(path)
