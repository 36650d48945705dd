"""Every metric of the service. Label values are listed here and created at start, so that no series is ever missing.

A process has one Metrics, with a registry of its own; nothing is registered at import. User and item ids are never
labels. Series that the request path uses are kept in attributes or dictionaries, because finding one is slow. They add
up in plain numbers (see Tally and Spread), which reach Prometheus' own at every refresh(): tests/bench/README.md,
"Metrics add up in plain numbers".

With several workers, `serve` sets PROMETHEUS_MULTIPROC_DIR in their environment. Values are then in files of that
directory, and every worker reports the sum over all workers, dead ones included.
"""

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.errors import REASONS
from service.spread import Spread, Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04,
    0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.5, 1, 2.5,
)  # fmt: skip
STAGE_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075,
    0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1,
)  # fmt: skip
ROUTES = (
    "/recommend", "/recommend/batch", "/similar", "/page", "/scenarios", "/scenarios/{name}", "/events", "/items",
    "/items/{item_id}", "/items/search", "/users/{user_id}", "/model", "/model/activate", "/model/rollback",
    "/model/compare", "/model/versions", "/livez", "/readyz", "/metrics", "/metrics/hour", "/docs", "/openapi.json",
    "/", "unmatched",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
STAGES = ("parse", "queue", "store", "encode", "score", "rules", "shape", "explain", "serialize")
_LEVELS_AND_REASONS = [
    ("full", "none"), ("full", "stale_trend"), ("full", "not_enough_items"), ("degraded", "stale_profile"),
    *[("fallback", reason) for reason in REASONS if not reason.startswith("stale") and reason != "not_enough_items"],
]  # fmt: skip
STORE_OPS = ("read", "write_embedding", "append", "user", "erase", "items", "scenarios", "ping", "release", "replay")
STORE_KINDS = (
    "timeout", "connection", "pool_exhausted", "loading", "readonly", "oom", "wrongtype", "decode", "noauth",
    "noperm", "other",
)  # fmt: skip
SHED_REASONS = ("concurrency", "events", "other_routes", "rate", "gone", "connections")
EVENT_RESULTS = ("accepted", "duplicate", "invalid", "future", "too_old", "unavailable")
EVENT_EFFECTS = ("history", "stream", "hide", "undo")
ATTRIBUTIONS = ("whole", "no_position", "no_recommendation", "unknown_form", "position_out_of_range")
SHOWN_KINDS = ("made", "live")
SCENARIO_RESULTS = ("used", "unknown", "misfit")
CACHE_RESULTS = ("hit", "miss", "stale", "invalid")
MASK_RESULTS = ("hit", "miss")
TREND_SOURCES = ("bundle", "anonymous", "admin", *(f"key_{number}" for number in range(1, 10)), "other")
"""Whose events the trend is made of. A key is named by its place in RETORT_API_KEYS; later ones are "other"."""
EXPERIMENT_KINDS = ("shadow", "canary", "experiment")
VERSION_ROLES = ("live", "other")
"""Of the versions that an experiment compares, so that no label grows with them."""
EXPERIMENT_USERS = ("users", "shown", "converted", "hit")
VERSION_LEVELS = ("full", "degraded", "fallback", "refused", "error")
"""refused: a field of the request is nothing that the version's items have. error: a bug."""
REPLAY_RESULTS = ("kept", "moved", "dropped", "erased", "failed")
SHADOW_RESULTS = ("compared", "dropped", "too_slow", "failed")
SWAP_RESULTS = ("ok", "rejected_checksum", "rejected_schema", "rejected_canary", "rejected_signature", "error")
SPAN_RESULTS = ("sent", "failed", "dropped")
_Sum = Literal["livesum", "livemin", "livemax", "livemostrecent"]
"""What a gauge of several workers is: the sum, the least, the greatest or the newest over those that live."""


class Metrics:
    """The metrics of one process."""

    def __init__(self, version: str) -> None:
        """version: of the service, a label of build_info."""
        self.registry = CollectorRegistry()
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        self._buffers: list[Tally | Spread] = []
        self._http_children: dict[tuple[str, str, int], tuple[Tally, Spread]] = {}
        self._answer_children: dict[tuple[str, str], Tally] = {}
        self._declare_http()
        self._declare_recommendations()
        self._declare_experiment()
        self._declare_store()
        self._declare_process(version)

    def render(self) -> bytes:
        """Return all metrics, of all workers, in Prometheus' text format."""
        self.refresh()
        return generate_latest(self._of_everybody())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, of all workers, as they were at the last refresh()."""
        yield from self._of_everybody().collect()

    def _of_everybody(self) -> CollectorRegistry:
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory is None:
            return self.registry
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody, directory)  # type: ignore[no-untyped-call]
        return everybody

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Set a gauge to what read() returns, at every refresh()."""
        self._watched.append((gauge, read))

    def refresh(self) -> None:
        """Set the gauges that are watched, and hand on what was counted. Other workers see only what is here then."""
        for gauge, read in self._watched:
            gauge.set(read())
        for buffer in self._buffers:
            buffer.flush()

    def count_http(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count one finished HTTP request.

        route: one of ROUTES; anything else is counted as "unmatched". seconds: what it took, or None if it was refused
        before it was read: so short a time would only make the durations look better.
        """
        found = self._http_children.get((route, method, status))
        if found is None:
            found = self._find_http(
                route if route in ROUTES else "unmatched", method if method in METHODS else "OTHER", status
            )
        found[0].inc()
        if seconds is not None:
            found[1].observe(seconds)

    def count_answer(self, level: str, reason: str, *, is_within: bool) -> None:
        """Count one answer of /recommend or /similar.

        reason: its most important one, or "none". is_within: whether it came within its budget.
        """
        child = self._answer_children.get((level, reason))
        if child is None:
            child = self._tally(self.recommendations.labels(level, reason))
            self._answer_children[level, reason] = child
        child.inc()
        self.within[is_within].inc()

    def _find_http(self, route: str, method: str, status: int) -> tuple[Tally, Spread]:
        """Return the series of finished requests by labels of closed lists."""
        found = self._http_children.get((route, method, status))
        if found is None:
            found = self._http_children[route, method, status] = (
                self._tally(self.http_requests.labels(route, method, str(status))),
                self._spread(self.http_duration.labels(route, f"{status // 100}xx"), REQUEST_BUCKETS_S),
            )
        return found

    def _declare_http(self) -> None:
        self.http_requests = self._counter("http_requests", "Finished HTTP requests", "route", "method", "code")
        self.http_duration = self._histogram(
            "http_request_duration_seconds", "Duration of HTTP requests", REQUEST_BUCKETS_S, "route", "code"
        )
        posted = {
            "/recommend", "/recommend/batch", "/similar", "/page", "/events", "/items", "/items/search",
            "/model/activate", "/model/rollback", "/model/compare",
        }  # fmt: skip
        for route in ROUTES:
            method = "POST" if route in posted else "GET"
            self.http_requests.labels(route, method, "404" if route == "unmatched" else "200")
            self.http_duration.labels(route, "4xx" if route == "unmatched" else "2xx")
        for code in ("2xx", "4xx", "5xx"):
            self.http_duration.labels("/recommend", code)
        self.http_requests.labels("/recommend", "POST", "503")
        self.in_flight = self._gauge("http_requests_in_flight", "HTTP requests being answered")
        self.connections = self._gauge("connections", "Open connections of callers")
        shed = self._counter("shed", "Requests refused because of overload", "reason")
        self.shed = {name: shed.labels(name) for name in SHED_REASONS}
        self.concurrency_limit = self._gauge("concurrency_limit", "Answers in flight that are let in at present")
        self.queue_depth = self._gauge("queue_depth", "Requests waiting for a batch")

    def _declare_recommendations(self) -> None:
        self.recommendations = self._counter(
            "recommendations",
            "Answers with items by level and most important reason",
            "level",
            "reason",
        )
        for level, reason in _LEVELS_AND_REASONS:
            self.recommendations.labels(level, reason)
        within = self._counter("within_budget", "Answers with items inside and past their budget", "within")
        self.within = {True: self._tally(within.labels("yes")), False: self._tally(within.labels("no"))}
        self.explored = self._tally(self._counter("explored_places", "Places of lists given to live items to explore"))
        replayed = self._counter("replay_records", "Answers sampled for a replay", "result")
        self.replay_records = {result: replayed.labels(result) for result in REPLAY_RESULTS}
        shown = self._counter("shown_items", "Items in answers, of the bundle and live ones", "kind")
        self.shown_items = {name: self._tally(shown.labels(name)) for name in SHOWN_KINDS}
        self.shown_coverage = self._gauge("shown_coverage", "Share of the items that were lately shown", of="livemax")
        self.shown_gini = self._gauge("shown_gini", "How unequally items were lately shown, 0 to 1", of="livemin")
        self.new_items = self._gauge("new_items", "Items that may be shown and are not the bundle's", of="livemax")
        stage = self._histogram("stage_duration_seconds", "Time in one stage of an answer", STAGE_BUCKETS_S, "stage")
        self.stage = {name: self._spread(stage.labels(name), STAGE_BUCKETS_S) for name in STAGES}
        self.batch_size = self._histogram("batch_size", "Histories encoded at once", (1, 2, 4, 8, 16, 32))
        exceeded = self._counter("deadline_exceeded", "Requests whose budget ran out, by the stage not begun", "stage")
        self.deadline_exceeded = {
            name: exceeded.labels(name) for name in ("queue", "store", "encode", "score", "explain")
        }
        scenarios = self._counter("scenario_requests", "Requests that name a scenario", "result")
        self.scenario_requests = {name: self._tally(scenarios.labels(name)) for name in SCENARIO_RESULTS}
        cache = self._counter("embedding_cache", "Cached user embeddings asked for", "result")
        self.embedding_cache = {name: self._tally(cache.labels(name)) for name in CACHE_RESULTS}
        masks = self._counter("filter_masks", "Filters asked for, by whether their items were known", "result")
        self.filter_masks = {name: masks.labels(name) for name in MASK_RESULTS}
        events = self._counter("events", "Events received", "result")
        self.events = {name: events.labels(name) for name in EVENT_RESULTS}
        effects = self._counter("event_effects", "New events by what their type does", "effect")
        self.event_effects = {name: effects.labels(name) for name in EVENT_EFFECTS}
        attributions = self._counter("event_attributions", "New events that name an answer or a position", "result")
        self.event_attributions = {name: attributions.labels(name) for name in ATTRIBUTIONS}
        self.items_written = self._counter("live_items_written", "Live items that the store has confirmed")
        self.live_items = self._gauge("live_items", "Records of live items", of="livemax")
        self.live_changes = self._counter("live_items_applied", "Changes of live items that a worker has taken in")
        self.live_lag = self._gauge("live_items_lag_seconds", "Since when changes were not heard of", of="livemax")
        self.trend_age = self._gauge("trend_age_seconds", "Since when no event was heard of", of="livemax")
        mass = self._gauge("trend_mass", "Events counted in the trend, decayed, by source", "source", of="livemax")
        self.trend_mass = {name: mass.labels(name) for name in TREND_SOURCES}

    def _declare_experiment(self) -> None:
        share = self._gauge("experiment_share", "Percent that is tried beside the live version", "kind", of="livemax")
        self.experiment_share = {kind: share.labels(kind) for kind in EXPERIMENT_KINDS}
        self.experiment_missing = self._gauge("experiment_missing", "Processes that lack the version to be tried")
        answers = self._counter("version_answers", "Answers to users while versions are compared", "version", "level")
        within = self._counter("version_within_budget", "The same, inside and past the budget", "version", "within")
        duration = self._histogram(
            "version_duration_seconds", "From request to answer, of the same", REQUEST_BUCKETS_S, "version"
        )
        self.version_answers = {
            (role, level): self._tally(answers.labels(role, level))
            for role in VERSION_ROLES
            for level in VERSION_LEVELS
        }
        self.version_within = {
            (role, is_within): self._tally(within.labels(role, "yes" if is_within else "no"))
            for role in VERSION_ROLES
            for is_within in (True, False)
        }
        self.version_duration = {role: self._spread(duration.labels(role), REQUEST_BUCKETS_S) for role in VERSION_ROLES}

        self._declare_users()
        self._declare_shadow()

    def _declare_users(self) -> None:
        users = self._gauge(
            "experiment_users", "Users of each version, by what they did", "version", "did", of="livemostrecent"
        )
        self.experiment_users = {
            (role, did): users.labels(role, did) for role in VERSION_ROLES for did in EXPERIMENT_USERS
        }
        lift = self._gauge(
            "experiment_lift", "Relative lifts of conversions not excluded", "bound", of="livemostrecent"
        )
        self.experiment_lift = {bound: lift.labels(bound) for bound in ("low", "high")}
        e_value = self._gauge(
            "experiment_e_value", "Evidence of a lift, and of a wrong division", "of", of="livemostrecent"
        )
        self.experiment_e_value = {name: e_value.labels(name) for name in ("lift", "ratio")}
        ended = self._counter("experiments_ended", "Experiments that have ended by themselves", "cause")
        self.experiments_ended = {cause: ended.labels(cause) for cause in ("errors", "late", "quality")}

    def _declare_shadow(self) -> None:
        requests = self._counter("shadow_requests", "Requests sampled for a shadow", "result")
        self.shadow_requests = {result: requests.labels(result) for result in SHADOW_RESULTS}
        tenths = tuple(tenth / 10 for tenth in range(11))
        self.shadow_overlap = self._histogram("shadow_overlap", "Share of a list that the shadow's has too", tenths)
        self.shadow_same_order = self._histogram(
            "shadow_same_order", "Share of the pairs of common items in the same order", tenths
        )
        levels = self._counter("shadow_levels", "Answers that were compared, by level", "version", "level")
        duration = self._histogram("shadow_duration_seconds", "Time of the answers", REQUEST_BUCKETS_S, "version")
        coverage = self._gauge("shadow_coverage", "Share of the catalogue in some list", "version", of="livemax")
        score = self._gauge("shadow_mean_score", "Mean score of the items", "version", of="livemostrecent")
        self.shadow_levels = {
            (role, level): levels.labels(role, level) for role in VERSION_ROLES for level in VERSION_LEVELS[:3]
        }
        self.shadow_duration = {role: duration.labels(role) for role in VERSION_ROLES}
        self.shadow_coverage = {role: coverage.labels(role) for role in VERSION_ROLES}
        self.shadow_score = {role: score.labels(role) for role in VERSION_ROLES}

    def count_version(self, role: str, level: str, seconds: float, *, is_within: bool) -> None:
        """Count an answer to a user while two versions are compared. role: one of VERSION_ROLES."""
        self.version_answers[role, level].inc()
        self.version_within[role, is_within].inc()
        self.version_duration[role].observe(seconds)

    def _declare_store(self) -> None:
        operation = self._histogram(
            "store_operation_duration_seconds", "Time of one store operation", STAGE_BUCKETS_S, "op"
        )
        self.store_operation = {name: self._spread(operation.labels(name), STAGE_BUCKETS_S) for name in STORE_OPS}
        errors = self._counter("store_errors", "Store operations that failed, and unreadable records", "kind")
        self.store_errors = {name: errors.labels(name) for name in STORE_KINDS}
        self.breaker_state = self._gauge("store_breaker_state", "0 closed, 1 probing, 2 open", of="livemax")

    def _declare_process(self, version: str) -> None:
        self.generation_min = self._gauge("model_generation_min", "Oldest model generation still serving", of="livemin")
        self.generation_max = self._gauge("model_generation_max", "Newest model generation serving", of="livemax")
        swaps = self._counter("model_swaps", "Models loaded or refused", "result")
        self.model_swaps = {name: swaps.labels(name) for name in SWAP_RESULTS}
        self.model_loaded = self._gauge("model_loaded_timestamp_seconds", "When the model was loaded", of="livemin")
        agreement = self._gauge(
            "refresh_agreement", "Overlap of the live model and its teacher in a refresh", "of", of="livemostrecent"
        )
        self.refresh_agreement = {name: agreement.labels(name) for name in ("live", "offline", "least")}
        self.items = self._gauge("items", "Items in the catalogue being served", of="livemax")
        self.index_recall = self._gauge("index_recall", "Share of the true best 100 that are found", of="livemin")
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop woke a sleeping task", STAGE_BUCKETS_S
        )
        self.bugs = self._counter("bugs", "Errors that nobody foresaw; the log has each with its traceback")
        spans = self._counter("trace_spans", "Spans of recorded requests by what became of them", "result")
        self.trace_spans = {name: spans.labels(name) for name in SPAN_RESULTS}
        self.watch(self._gauge("resident_memory_bytes", "Resident memory of the service"), _resident_bytes)
        self._gauge("build_info", "1, labelled with the version", "version", of="livemax").labels(version).set(1)

    def _tally(self, counter: Counter) -> Tally:
        buffer = Tally(counter)
        self._buffers.append(buffer)
        return buffer

    def _spread(self, histogram: Histogram, bounds: Sequence[float]) -> Spread:
        buffer = Spread(histogram, bounds)
        self._buffers.append(buffer)
        return buffer

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"retort_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, of: _Sum = "livesum") -> Gauge:
        return Gauge(f"retort_{name}", text, labels, registry=self.registry, multiprocess_mode=of)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"retort_{name}", text, labels, buckets=buckets, registry=self.registry)


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the peak, where /proc is missing
