"""The plot of bench. matplotlib is asked for here alone, and may be missing: a server needs no plots."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_latencies(steps: Sequence[Mapping[str, Any]], budget_ms: float, path: Path | None) -> str:
    """Draw latency percentiles by rate into a PNG; return a line that says where it is, or how to get it."""
    if path is None:
        return "no plot was asked for (--plot FILE.png)"
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError:
        return f"{path} was not drawn: pip install matplotlib"
    figure = figure_module.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="requests/s offered", ylabel="latency, ms")
    rows = sorted(steps, key=lambda step: float(step["rate"]))
    for name, label in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99_9", "p99.9")):
        points = [(row["rate"], row[name]) for row in rows if row[name] is not None]
        axes.plot([rate for rate, _ in points], [latency for _, latency in points], marker="o", label=label)
    axes.axhline(budget_ms, color="black", linestyle="--", label="budget")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as exc:
        return f"{path} was not drawn: {exc}"
    return f"plot: {path}"
