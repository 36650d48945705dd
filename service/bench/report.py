"""What is said of a peak: a table, a plot, and figures for JSON."""

import atexit
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from service.bench.load import LoadResult
from service.bench.peak import Peak


def print_table(alone: LoadResult, peak: Peak, budget_s: float) -> None:
    """Print a line for one client and one for each rate, and then what they mean. alone: the result of one client."""
    print(f"{'rate/s':>8}{'p50 ms':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}{'within':>9}  levels, errors")
    for name, step in [("1 client", alone), *[("", step) for step in sorted(peak.steps, key=lambda s: s.rate)]]:
        row = step.summary(budget_s)
        cells = "".join(
            f"{'-' if row[key] is None else format(row[key], '.2f'):>9}" for key in ("p50", "p90", "p99", "p99_9")
        )
        counts = ", ".join(f"{key} {n}" for key, n in {**row["levels"], **row["errors"]}.items())
        print(f"{name or format(row['rate'], '.0f'):>8}{cells}{row['within']:>9.2%}  {counts}")
    print(_verdict(peak, budget_s))


def describe_peak(alone: LoadResult, peak: Peak, budget_s: float) -> dict[str, Any]:
    """Return the figures for JSON. alone: the result of one client."""
    return {
        "max_rate_within_budget": peak.best and peak.best.rate, "limited_by": peak.limit,
        "one_client": alone.summary(budget_s), "steps": [step.summary(budget_s) for step in peak.steps],
    }  # fmt: skip


def draw_latencies(peak: Peak, budget_s: float, path: Path | None) -> str:
    """Draw the latency percentiles by rate into a PNG at path; return a line that says where it is, or why it is not.

    matplotlib is imported only here, because the service does not need it.
    """
    if path is None:
        return "no plot was asked for (--plot FILE.png)"
    try:
        _keep_fonts_elsewhere()
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError:
        return f"{path} was not drawn: pip install matplotlib"
    except OSError as exc:
        return f"{path} was not drawn: {exc.strerror or exc}"
    figure = figure_module.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="requests/s offered", ylabel="latency, ms")
    rows = [step.summary(budget_s) for step in sorted(peak.steps, key=lambda step: step.rate)]
    for name, label in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99_9", "p99.9")):
        points = [(row["rate"], row[name]) for row in rows if row[name] is not None]
        axes.plot([rate for rate, _ in points], [latency for _, latency in points], marker="o", label=label)
    axes.axhline(budget_s * 1000, color="black", linestyle="--", label="budget")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as exc:
        return f"{path} was not drawn: {exc}"
    return f"plot: {path}"


def _verdict(peak: Peak, budget_s: float) -> str:
    if peak.best is None:
        head = f"no rate keeps p99 within {budget_s * 1000:.0f} ms"
    else:
        head = f"p99 is within {budget_s * 1000:.0f} ms up to {peak.best.rate:.0f} requests/s"
    if peak.limit == "generator":
        return f"{head}; at more, this generator itself was late: run it on a machine or core of its own"
    return f"{head}; more was not asked (--max-rate)" if peak.limit == "max_rate" else head


def _keep_fonts_elsewhere() -> None:
    """Let matplotlib's list of fonts, which it would leave under HOME, go with the process. Raises OSError."""
    if not os.environ.get("MPLCONFIGDIR"):
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="retort-matplotlib-")
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
