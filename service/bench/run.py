"""python -m service bench: asks a running service, finds its peak and reports it.

It takes nothing from the service but what HTTP gives: GET /model and the popular items, of which histories are made
unless a file of user ids is given. The load is open-loop (see load).
"""

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from service.bench.client import Target
from service.bench.load import Load
from service.bench.peak import LEAST_REQUESTS, PeakOptions, find_peak
from service.bench.report import describe_peak, draw_latencies, print_table
from service.errors import StartError

_LEAST_RATE = 10.0
_N_HISTORIES = 2000
_MAX_USERS = 100_000
_PROBE_K = 200
_HELP = {401: "the service wants a key: give --key", 403: "the service refuses the key: give another --key"}


async def run_bench(target: Target, options: PeakOptions) -> int:
    """Find the peak of a running service. Return the exit code: 0, or 1 if no rate keeps the budget.

    Prints a table, draws a plot, and prints JSON on the last line.
    Raises StartError if nothing can be measured: no service there, not ready, a wrong key, an unreadable file.
    """
    model, popular = await _inspect(target)
    bodies, who = _bodies(options, popular, int(model["max_history"]))
    requests = [target.post("/recommend", orjson.dumps(body)) for body in bodies]
    budget_s = options.budget_ms / 1000
    print(f"{target.url}: {model['n_items']} items, version {model['version']}; {who}; budget {options.budget_ms} ms")
    async with Load(target, requests, n_connections=options.n_connections, timeout_s=max(1.0, 10 * budget_s)) as load:
        alone = await load.ask_in_turn(LEAST_REQUESTS)
        peak = await find_peak(load, options, max(_LEAST_RATE, alone.rate / 4))
    print_table(alone, peak, budget_s)
    print(draw_latencies(peak, budget_s, options.plot))
    about = {
        "url": target.url, "model_version": model["version"], "n_items": model["n_items"],
        "budget_ms": options.budget_ms, "k": options.k,
    }  # fmt: skip
    print(json.dumps({**about, **describe_peak(alone, peak, budget_s)}))
    return 0 if peak.best else 1


async def _inspect(target: Target) -> tuple[dict[str, Any], list[str]]:
    """Return the answer of GET /model, and the ids of popular items. Raises StartError."""
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


def _bodies(options: PeakOptions, popular: Sequence[str], max_history: int) -> tuple[list[dict[str, Any]], str]:
    """Return the bodies of the requests, and in words whose they are. Raises StartError."""
    common = {"k": options.k, "budget_ms": options.budget_ms}
    drawn = random.Random(0)  # noqa: S311  # users, not secrets
    if options.users is not None:
        users = list(dict.fromkeys(_read_users(options.users)))
        if not users:
            raise StartError(f"--users: no user id in {options.users}")
        drawn.shuffle(users)
        return [{"user_id": user, **common} for user in users[:_MAX_USERS]], f"{len(users)} users of {options.users}"
    lengths = [drawn.randint(1, max(1, min(max_history, len(popular)))) for _ in range(_N_HISTORIES)]
    histories = [drawn.choices(popular, k=length) if popular else [] for length in lengths]
    return [{"history": history, **common} for history in histories], "histories drawn from its popular items"


def _read_users(path: Path) -> Iterator[str]:
    """Yield the user ids of a file, also .gz: lines are ids, or events in JSON with a user_id. Raises StartError."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for line in file:
                if text := line.strip():
                    yield str(orjson.loads(text)["user_id"]) if text.startswith("{") else text
    except (OSError, UnicodeDecodeError, orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise StartError(f"--users: {path} is not a file of user ids, one a line or JSON with user_id: {exc}") from exc
