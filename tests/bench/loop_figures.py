"""What a run of the closed loop (loop.py) came to: figures of what was shown, counted, answered and decided."""

import gzip
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from loop_traffic import Shown, Told

from service.experiment.answer_id import prefix_of
from tests.contract.prometheus import Prometheus
from training.data.prepared import Prepared, load_prepared
from training.loop.event_file import read_event_files
from training.loop.generation import read_generations

BUDGET_S = 0.05
SERIES = 'retort_http_request_duration_seconds_bucket{route="/recommend",code="2xx"}'
BUCKETS = f"sum by (le) (last_over_time({SERIES}[2m]))"  # a busy machine misses scrapes
Buckets = dict[float, float]
"""How many answers took at most so many seconds."""


@dataclass(frozen=True)
class Phase:
    """Something that went on for a while, in Unix seconds. kind: refresh or release."""

    kind: str
    name: str
    start: float
    end: float


def of_lists(shown: Sequence[Shown], phases: Sequence[Phase]) -> list[dict[str, Any]]:
    """Return how good the lists of each version were, between the ends of phases."""
    ends = [phase.end for phase in phases]
    groups: dict[tuple[int, str], list[Shown]] = defaultdict(list)
    for each in shown:
        groups[sum(end <= each.at for end in ends), each.version].append(each)
    return [
        {
            "after": phases[number - 1].name if number else "the begin", "version": version, "lists": len(found),
            "hit": mean(each.place > 0 for each in found), "ndcg": mean(each.gain for each in found),
            "full": mean(each.level == "full" for each in found),
        }
        for (number, version), found in sorted(groups.items())
    ]  # fmt: skip


def mean(values: Iterable[float]) -> float:
    """Return the mean, to four digits."""
    listed = list(values)
    return round(float(sum(listed)) / max(1, len(listed)), 4)


def count_mixed(shown: Sequence[Shown], catalogues: Mapping[str, set[str]]) -> int:
    """Return how many answers have an id or an item that is not of the version which they name."""
    return sum(
        prefix_of(each.answer_id) != prefix_of(each.version) or not catalogues.get(each.version, set()) >= {*each.items}
        for each in shown
    )


def of_answers(prometheus: Prometheus, phases: Sequence[Phase], begin: float, end: float) -> dict[str, Any]:
    """Return p99 and the share within the budget as Prometheus has them, by kind of phase; calm is what is left."""
    whole = grown(prometheus, begin, end)
    kinds: dict[str, Buckets] = {"all": whole, "calm": dict(whole)}
    for phase in phases:
        if phase.start >= end:
            continue
        found = grown(prometheus, phase.start, min(phase.end, end))
        kind = kinds.setdefault(phase.kind, dict.fromkeys(whole, 0.0))
        for edge, count in found.items():
            kind[edge] += count
            kinds["calm"][edge] -= count
    return {
        kind: {
            "answers": round(buckets[math.inf]), "p50_ms": quantile_ms(buckets, 0.5),
            "p99_ms": quantile_ms(buckets, 0.99), "within": round(buckets[BUDGET_S] / max(1, buckets[math.inf]), 5),
        }
        for kind, buckets in kinds.items()
        if buckets.get(math.inf)
    }  # fmt: skip


def grown(prometheus: Prometheus, begin: float, end: float) -> Buckets:
    """Return by how much the buckets have grown between two times."""
    before, after = (
        {
            float(series["metric"]["le"]): float(series["value"][1])
            for series in prometheus.ask("query", query=BUCKETS, time=f"{at:.3f}")["result"]
        }
        for at in (begin, end)
    )
    return {edge: count - before.get(edge, 0.0) for edge, count in after.items()}


def quantile_ms(buckets: Buckets, share: float) -> float | None:
    """Return a quantile, as Prometheus interpolates it; None of nothing, and of what is beyond the last bucket."""
    wanted, low, below = share * buckets[math.inf], 0.0, 0.0
    if not wanted:
        return None
    for edge, count in sorted(buckets.items()):
        if count >= wanted:
            inside = (wanted - below) / max(1e-9, count - below)
            return None if math.isinf(edge) else round(1000 * (low + (edge - low) * inside), 1)
        low, below = edge, count
    return None


def of_alerts(prometheus: Prometheus, begin: float, end: float) -> list[str]:
    """Return the names of the alerts that fired in between."""
    query = f'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{math.ceil(end - begin)}s]))'
    series = prometheus.ask("query", query=query, time=f"{end:.3f}")["result"]
    return sorted(each["metric"]["alertname"] for each in series)


def of_events(told: Told, out: Path) -> dict[str, Any]:
    """Return how the accepted events stand beside those that refreshes took, and those that the last one learned."""
    files = read_event_files(out / "refresh" / "events")
    newest = read_generations(out)[-1]
    taken: Counter[str] = Counter()
    learned = Counter(keys_of(load_prepared(out / "prepared")))
    for each in files:
        for event in map(orjson.loads, gzip.decompress(each.path.read_bytes()).splitlines()):
            taken[event["event_id"]] += 1
            if event["event"] != "impression" and each.number <= newest.taken:
                learned[event["user_id"], event["item_id"], round(event["timestamp"] * 1000)] += 1
    found = Counter(keys_of(load_prepared(newest.path / "prepared"))) if newest.plan else learned
    return {
        "accepted": len(told.accepted), "of them impressions": sum(name.startswith("s") for name in told.accepted),
        "acknowledged twice": sum(count > 1 for count in told.accepted.values()),
        "taken": len(taken), "lost": len(told.accepted.keys() - taken.keys()),
        "twice": sum(count > 1 for count in taken.values()), "of nobody": len(taken.keys() - told.accepted.keys()),
        "learned by the last refresh": found.total(), "not learned": len(learned.keys() - found.keys()),
        "learned twice": sum(count > 1 for count in found.values()),
    }  # fmt: skip


def keys_of(prepared: Prepared) -> Iterable[tuple[str, str, int]]:
    """Return user, item and time of each event that was trained on or held out."""
    rows = zip(prepared.user.tolist(), prepared.item.tolist(), prepared.timestamp_ms.tolist(), strict=True)
    return ((prepared.users[user], prepared.items[item].item_id, at_ms) for user, item, at_ms in rows)


def of_experiment(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of an experiment that say how it went."""
    experiment, comparison = found["experiment"], found["comparison"]
    ended = experiment["ended"]
    return {
        "kind": experiment["kind"], "version": experiment["version"], "live": experiment["live"],
        "reason": experiment["reason"], "seconds": ended and round(ended - experiment["started"], 1),
        "users": [found[side]["users"] for side in ("other", "live")],
        "converted": [found[side]["converted"] for side in ("other", "live")],
        "lift": comparison["lift"], "interval": [comparison["interval"][end] for end in ("low", "high")],
        "e_value": comparison["e_value"], "decision": comparison["decision"], "astray": found["events"]["astray"],
    }  # fmt: skip
