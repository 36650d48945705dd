"""python -m service bench: the highest rate at which a running service keeps a latency budget for 99 of 100 requests.

Open loop (see load): rates double until one fails, then the gap is halved until it is narrow. A refused or failed
request misses the budget. Prints a table, writes a plot, JSON on the last line.
"""

import asyncio
import atexit
import gzip
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from service.bench.client import Target
from service.bench.load import Load, Step
from service.errors import StartError

KEPT = 0.99
_NARROW = 1.06
_MAX_STEPS = 24
_LEAST_REQUESTS = 200
_LEAST_RATE = 10.0
_N_REQUESTS = 2000
_MAX_USERS = 100_000
_PROBE_K = 200
_HELP = {401: "the service wants a key: give --key", 403: "the service refuses the key: give another --key"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a service.

    users: a file of user ids; without it, histories are drawn from its popular items. pause_s: after a missed budget.
    """

    budget_ms: int
    seconds: float
    max_rate: float
    n_connections: int
    k: int
    users: Path | None = None
    plot: Path | None = None
    pause_s: float = 1.0


class Offers(Protocol):
    """A load."""

    async def run(self, rate: float, seconds: float) -> Step:
        """Offer a rate for some seconds."""


@dataclass(slots=True)
class Found:
    """What was seen. limit: what ended the search: service, generator or max_rate."""

    steps: list[Step] = field(default_factory=list)
    best: Step | None = None
    limit: str = "max_rate"


async def run_bench(target: Target, question: Question) -> int:
    """Measure, and print; return the exit code: 1 if no rate keeps the budget. Raises StartError."""
    model, popular = await _inspect(target)
    bodies, who = _bodies(question, popular, int(model["max_history"]))
    requests = [target.post("/recommend", orjson.dumps(body)) for body in bodies]
    budget_s = question.budget_ms / 1000
    print(f"{target.url}: {model['n_items']} items, version {model['version']}; {who}; budget {question.budget_ms} ms")
    async with Load(target, requests, n_connections=question.n_connections, timeout_s=max(1.0, 10 * budget_s)) as load:
        alone = await load.ask_in_turn(_LEAST_REQUESTS)
        found = await find_peak(load, question, max(_LEAST_RATE, alone.rate / 4))
    _print_table(alone, found, budget_s)
    drawn = draw_latencies([step.summary(budget_s) for step in found.steps], question.budget_ms, question.plot)
    print(drawn)
    print(json.dumps(_report(target, question, model, alone, found)))
    return 0 if found.best else 1


async def find_peak(load: Offers, question: Question, first_rate: float) -> Found:
    """Double the rate until the budget is missed, then halve the gap."""
    found, budget_s = Found(), question.budget_ms / 1000
    good, bad, rate = 0.0, 0.0, min(first_rate, question.max_rate)
    while len(found.steps) < _MAX_STEPS:
        step = await load.run(rate, max(question.seconds, _LEAST_REQUESTS / rate))
        found.steps.append(step)
        _show_progress(step, budget_s)
        if step.within(budget_s) >= KEPT:
            good, found.best = rate, step
            if rate >= question.max_rate:
                break
        else:
            bad = rate
            found.limit = "generator" if step.lag_p99_s() > budget_s / 10 else "service"
            await asyncio.sleep(question.pause_s)  # let what was refused or late be over
        if bad and (bad <= good * _NARROW or bad < 2):
            break
        rate = min(rate * 2, question.max_rate) if not bad else (good * bad) ** 0.5 if good else bad / 2
    return found


async def _inspect(target: Target) -> tuple[dict[str, Any], list[str]]:
    """Return what the service says of its model, and its popular items. Raises StartError if it would not answer."""
    try:
        caller = await target.connect()
    except OSError as exc:
        raise StartError(f"--url: nothing answers at {target.url} ({exc.strerror or 'no answer'})") from exc
    try:
        answers = []
        probe = target.post("/recommend", orjson.dumps({"history": [], "k": _PROBE_K, "budget_ms": 1000}))
        for request, path in ((target.get("/readyz"), "/readyz"), (target.get("/model"), "/model"), (probe, "probe")):
            answers.append(_check(target, path, *await caller.ask(request, 10.0)))
    except OSError as exc:
        raise StartError(f"--url: {target.url} does not answer as a retort service does") from exc
    finally:
        caller.close()
    return answers[1], [item["item_id"] for item in answers[2]["items"]]


def _check(target: Target, path: str, status: int, body: bytes) -> dict[str, Any]:
    if path == "/readyz" and status == 503:
        raise StartError(f"{target.url} is not ready: try again when GET /readyz answers 200")
    if status in _HELP:
        raise StartError(_HELP[status])
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if status != 200 or not isinstance(found, dict):
        raise StartError(f"--url: {target.url} is no retort service, or an ill one (status {status})")
    return found


def _bodies(question: Question, popular: Sequence[str], max_history: int) -> tuple[list[dict[str, Any]], str]:
    """Return the bodies to ask with, and in words whose they are."""
    common = {"k": question.k, "budget_ms": question.budget_ms}
    drawn = random.Random(0)  # noqa: S311  # users, not secrets
    if question.users is not None:
        users = list(dict.fromkeys(_read_users(question.users)))
        if not users:
            raise StartError(f"--users: no user id in {question.users}")
        drawn.shuffle(users)
        return [{"user_id": user, **common} for user in users[:_MAX_USERS]], f"{len(users)} users of {question.users}"
    lengths = [drawn.randint(1, max(1, min(max_history, len(popular)))) for _ in range(_N_REQUESTS)]
    histories = [drawn.choices(popular, k=length) if popular else [] for length in lengths]
    return [{"history": history, **common} for history in histories], "histories drawn from its popular items"


def _read_users(path: Path) -> Iterator[str]:
    """Yield the ids of a file: one a line, or events as JSON lines with a user_id; also .gz."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for line in file:
                if text := line.strip():
                    yield str(orjson.loads(text)["user_id"]) if text.startswith("{") else text
    except (OSError, UnicodeDecodeError, orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise StartError(f"--users: {path} is not a file of user ids, one a line or JSON with user_id: {exc}") from exc


def _show_progress(step: Step, budget_s: float) -> None:
    if sys.stderr.isatty():
        kept = "kept" if step.within(budget_s) >= KEPT else "missed"
        print(f"  {step.rate:8.0f}/s  {step.within(budget_s):7.2%} within the budget: {kept}", file=sys.stderr)


def _print_table(alone: Step, found: Found, budget_s: float) -> None:
    print(f"{'rate/s':>8}{'p50 ms':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}{'within':>9}  levels, errors")
    for name, step in [("1 client", alone), *[("", step) for step in sorted(found.steps, key=lambda s: s.rate)]]:
        row = step.summary(budget_s)
        cells = "".join(
            f"{'-' if row[key] is None else format(row[key], '.2f'):>9}" for key in ("p50", "p90", "p99", "p99_9")
        )
        counts = ", ".join(f"{key} {n}" for key, n in {**row["levels"], **row["errors"]}.items())
        print(f"{name or format(row['rate'], '.0f'):>8}{cells}{row['within']:>9.2%}  {counts}")
    print(_verdict(found, budget_s))


def _verdict(found: Found, budget_s: float) -> str:
    if found.best is None:
        head = f"no rate keeps p99 within {budget_s * 1000:.0f} ms"
    else:
        head = f"p99 is within {budget_s * 1000:.0f} ms up to {found.best.rate:.0f} requests/s"
    if found.limit == "generator":
        return f"{head}; at more, this generator itself was late: run it on a machine or core of its own"
    return f"{head}; more was not asked (--max-rate)" if found.limit == "max_rate" else head


def _report(target: Target, question: Question, model: dict[str, Any], alone: Step, found: Found) -> dict[str, Any]:
    budget_s = question.budget_ms / 1000
    return {
        "url": target.url, "model_version": model["version"], "n_items": model["n_items"],
        "budget_ms": question.budget_ms, "k": question.k, "max_rate_within_budget": found.best and found.best.rate,
        "limited_by": found.limit, "one_client": alone.summary(budget_s),
        "steps": [step.summary(budget_s) for step in found.steps],
    }  # fmt: skip


def draw_latencies(steps: Sequence[Mapping[str, Any]], budget_ms: float, path: Path | None) -> str:
    """Draw latency percentiles by rate into a PNG; return a line that says where it is, or how to get it."""
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


def _keep_fonts_elsewhere() -> None:
    """Let matplotlib's list of fonts go with the process: it would be left under HOME. Raises OSError."""
    if not os.environ.get("MPLCONFIGDIR"):
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="retort-matplotlib-")
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
