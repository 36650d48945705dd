"""The pictures of the reports. Each is returned as a data address of an SVG, so that a page needs no other file.

A model has the same colour in every picture; what a model is compared with is grey. matplotlib keeps a list of the
machine's fonts under HOME unless it is told otherwise; here the list goes with the process, and HOME stays as it was.
"""

import atexit
import base64
import io
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

if not os.environ.get("MPLCONFIGDIR"):
    os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="retort-matplotlib-")
    atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.model.curve import Epoch
from training.teacher.registry import KINDS

matplotlib.use("Agg")

COLOURS = {
    "teacher": "#475569",
    "student": "#0f766e",
    "student_smoothed": "#7c3aed",
    "student_alone": "#d97706",
    "bundle": "#134e4a",
    "compressed": "#134e4a",
}
GREY = "#b6bcc6"
INK = "#1f2937"
GOOD, BAD = "#0f766e", "#b91c1c"
MARKERS = "osD^vP"
WIDTH = 6.6  # inches


def colour_of(name: str) -> str | None:
    """Return the colour of one of the run's own models; None of what they are compared with."""
    return COLOURS.get(name) or (KINDS[name].colour if name in KINDS else None)


def plot_bars(models: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Plot NDCG@10 of each model with its interval, the first on top."""
    figure, axes = _blank(0.42 * len(models) + 0.7)
    names = list(models)[::-1]
    for place, name in enumerate(names):
        row = models[name]
        low, high = row["ndcg@10_interval"]
        error = [[row["ndcg@10"] - low], [high - row["ndcg@10"]]]
        axes.barh(place, row["ndcg@10"], xerr=error, color=colour_of(name) or GREY, ecolor=INK, capsize=2.5, height=0.7)
        axes.annotate(
            f"{row['ndcg@10']:.4f}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(names)), [titles[name] for name in names])
    axes.set(xlabel="NDCG@10; lines: 95 % over users", xlim=(0, axes.get_xlim()[1] * 1.08))
    return _as_address(figure, axes)


def plot_curves(curves: Mapping[str, Sequence[Epoch]], titles: Mapping[str, str]) -> str:
    """Plot validation NDCG@10 of each model over its epochs; a dot marks the epoch that was kept."""
    figure, axes = _blank(3.4)
    for name, rows in curves.items():
        colour = colour_of(name) or GREY
        axes.plot([row.epoch + 1 for row in rows], [row.validation for row in rows], label=titles[name], color=colour)
        best = max(rows, key=lambda row: row.validation)
        axes.plot(best.epoch + 1, best.validation, "o", color=colour)
    axes.set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
    axes.legend(frameon=False)
    return _as_address(figure, axes)


def plot_groups(
    models: Mapping[str, Mapping[str, Any]], names: Sequence[str], titles: Mapping[str, str], group: str
) -> str:
    """Plot NDCG@10 of the named models side by side in each group of users. group: by_popularity or by_history."""
    figure, axes = _blank(3.2)
    width = 0.8 / len(names)
    greys = iter(("#8b94a3", "#c3c9d2"))
    rows = models[names[0]][group]
    for number, name in enumerate(names):
        heights = [row["ndcg@10"] or 0 for row in models[name][group]]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(rows))]
        axes.bar(places, heights, width, label=titles[name], color=colour_of(name) or next(greys, GREY))
    axes.set_xticks(range(len(rows)), [f"{group_label(group, row)}\n{row['users']:,} users" for row in rows])
    axes.set_ylabel("NDCG@10")
    axes.legend(frameon=False, fontsize=9)
    return _as_address(figure, axes)


def group_label(group: str, row: Mapping[str, Any]) -> str:
    """Return the name of one row of a group, which is by_popularity or by_history."""
    if group == "by_popularity":
        return f"{row['items']:,} items"
    if row["to"] == 0:
        return "no history"
    return f"{row['from']} to {row['to']} events" if row["to"] else f"{row['from']} and more"


def plot_front(trials: Sequence[Mapping[str, Any]], cost: str, label: str, scale: float = 1.0) -> str:
    """Plot NDCG@10 of a search's trials against a cost, with their Pareto front and the trial that was chosen.

    cost: the key of the cost in a trial. label: of its axis. scale: what its values are multiplied with there.
    """
    figure, axes = _blank(3.6)
    kinds = sorted({str(trial["kind"]) for trial in trials})
    for marker, kind in zip(MARKERS * len(kinds), kinds, strict=False):
        own = [trial for trial in trials if str(trial["kind"]) == kind]
        axes.plot(*_points(own, cost, scale), marker, label=kind, color="#64748b", alpha=0.75, linestyle="")
    best = pareto_front(trials, cost)
    axes.step(*_points(best, cost, scale), where="post", color=GOOD, label="none is better in both")
    for trial in trials:
        if trial.get("chosen"):
            at = (trial[cost] * scale, trial["ndcg@10"])
            axes.plot(*at, "*", color=BAD, markersize=15, label="chosen")
            axes.annotate(
                f"{trial['dim']} wide, {trial['kind']}, {trial['items']}",
                at,
                (8, -12),
                textcoords="offset points",
            )
    axes.set(xlabel=label, ylabel="validation NDCG@10", xscale="log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")
    axes.legend(frameon=False, fontsize=9)
    return _as_address(figure, axes)


def plot_differences(rows: Sequence[tuple[str, Mapping[str, float], bool]]) -> str:
    """Plot relative differences with their intervals, one bar each, the first on top.

    rows: of each bar the title, the difference (difference, low, high), and whether it is of several seeds; that of one
    seed is drawn pale.
    """
    figure, axes = _blank(0.28 * len(rows) + 0.9)
    for place, (_, found, several) in enumerate(reversed(rows)):
        colour = GREY if found["low"] <= 0 <= found["high"] else GOOD if found["low"] > 0 else BAD
        value = 100 * found["difference"]
        error = [[value - 100 * found["low"]], [100 * found["high"] - value]]
        axes.barh(
            place, value, xerr=error, color=colour, ecolor=INK, capsize=2, height=0.7, alpha=1 if several else 0.5
        )
    axes.set_yticks(range(len(rows)), [title for title, _, _ in reversed(rows)], fontsize=9)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="NDCG@10 beside its base, %")
    return _as_address(figure, axes)


def plot_widths(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Plot NDCG@10 of students of several widths against what they cost: left bytes of an item, right microseconds.

    rows: of capacity.json. titles: the teachers of the lines that are drawn, and their names in the legend.
    """
    figure = Figure(figsize=(1.4 * WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = [GREY, COLOURS["student_alone"], COLOURS["student"]]
    for axes, cost in zip(panels, ("item_bytes", "score_us"), strict=True):
        for place, (name, title) in enumerate(titles.items()):
            own = [row for row in rows if row["teacher"] == name]
            x, y = [row[cost] for row in own], [row["ndcg@10"] for row in own]
            axes.plot(x, y, color=colours[place], marker=MARKERS[place], label=title)
            for row, at in zip(own, zip(x, y, strict=True), strict=True):
                axes.annotate(str(row["dim"]), at, xytext=(3, 4), textcoords="offset points", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(xlabel="bytes of an item", ylabel="NDCG@10", ylim=(0, None), xlim=(0, None))
    panels[1].set(xlabel="microseconds to find one user's best items", xlim=(0, None))
    panels[0].legend(frameon=False, fontsize=9)
    return _as_address(figure, panels[0])


def plot_capacity(table: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Plot the capacity study: left NDCG@10 of students by width, right what each teacher added, with its interval.

    table: what capacity.json holds. titles: of its teachers, for the legend.
    """
    figure = Figure(figsize=(1.4 * WIDTH, 3.4), layout="constrained")
    quality, gain = figure.subplots(1, 2)
    for place, name in enumerate(["alone", *table["teachers"]]):
        rows = [row for row in table["rows"] if row["teacher"] == name]
        dims = [row["dim"] for row in rows]
        colour = COLOURS["student_alone"] if name == "alone" else COLOURS["student"] if name == "mix" else GREY
        style = {"color": colour, "marker": MARKERS[place % len(MARKERS)], "label": titles.get(name, name)}
        quality.plot(dims, [row["ndcg@10"] for row in rows], **style)
        if name != "alone":
            found = [row["gain"] for row in rows]
            value = [100 * one["difference"] for one in found]
            low = [100 * (one["difference"] - one["low"]) for one in found]
            high = [100 * (one["high"] - one["difference"]) for one in found]
            gain.errorbar(dims, value, yerr=[low, high], capsize=2, **style)
    gain.axhline(0, color=INK, linewidth=0.8)
    for axes in (quality, gain):
        axes.set_xscale("log", base=2)
        axes.set_xticks(dims, [str(dim) for dim in dims])
        axes.set_xlabel("student's width")
        axes.spines[["top", "right"]].set_visible(False)
    quality.set(ylabel="NDCG@10", ylim=(0, None))
    quality.legend(frameon=False, fontsize=9)
    gain.set_ylabel("NDCG@10 beside the student alone, %")
    return _as_address(figure, quality)


def pareto_front(trials: Sequence[Mapping[str, Any]], cost: str) -> list[Mapping[str, Any]]:
    """Return the trials that beat every cheaper one in NDCG@10, the cheapest first. cost: its key in a trial."""
    best: list[Mapping[str, Any]] = []
    for trial in sorted(trials, key=lambda trial: (trial[cost], -trial["ndcg@10"])):
        if not best or trial["ndcg@10"] > best[-1]["ndcg@10"]:
            best.append(trial)
    return best


def _blank(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the page's width and the given height in inches, and its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _points(trials: Sequence[Mapping[str, Any]], cost: str, scale: float) -> tuple[list[float], list[float]]:
    """Return where trials stand: their scaled costs, and their NDCG@10."""
    return [trial[cost] * scale for trial in trials], [trial["ndcg@10"] for trial in trials]


def _as_address(figure: Figure, axes: Axes) -> str:
    """Take the frame off and return the picture as a data address."""
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
