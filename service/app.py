"""The composition root: opens everything in one order, checks and warms it, and closes it in reverse.

verify the bundle → load the encoder → compare with the golden answers → store → warm up → only then listen. A bundle
that is wrong in any way raises before the first request could arrive.
"""

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.types import ASGIApp

from service import __version__
from service.admission import Limit, Rates
from service.api import Parts, create_api
from service.breaker import Breaker
from service.bundle import Bundle, BundleError, Float32, Golden, open_bundle
from service.embedded import Embedded
from service.endpoint import RecommendEndpoint
from service.errors import DegradedError, StartError
from service.gate import Gate, Keys
from service.index import Index
from service.logs import Log
from service.metrics import Metrics
from service.plan import open_search
from service.profile import Profile, Retention
from service.recommender import Recommender
from service.settings import Settings
from service.store import Store
from service.student import Student

GOLDEN_TOLERANCE = 1e-4
GOLDEN_RECALL = 0.9
_STORE_START_S = 10.0
_COMMAND_TIMEOUT_S = 30.0
_LAG_EVERY_S = 0.1


@dataclass
class Service:
    """A service ready to listen. is_draining: told to stop, so no longer ready."""

    app: ASGIApp
    store: Store
    store_kind: str
    version: str
    is_draining: bool = False

    def readiness(self) -> dict[str, Any]:
        """What /readyz says."""
        breaker = self.store.breaker.state
        store = {"kind": self.store_kind, "is_up": self.store.breaker.is_closed, "breaker": breaker.name.lower()}
        return {"ready": not self.is_draining, "model_version": self.version, "store": store}


@asynccontextmanager
async def open_service(settings: Settings, log: Log, *, store_kind: str | None = None) -> AsyncIterator[Service]:
    """Open the service. Raises StartError with a message for the operator.

    store_kind: embedded, where the URL is that of an embedded server which somebody else owns.
    """
    bundle, student, index = load_model(settings, log)
    metrics = Metrics(__version__)
    async with AsyncExitStack() as stack:
        store = await open_store(settings, stack, metrics=metrics, log=log)
        manifest = bundle.manifest
        profile = Profile(
            store,
            namespace=settings.namespace,
            retention=retention_of(settings),
            dim=manifest.dim,
            version=manifest.version,
        )
        recommender = Recommender(
            student,
            index,
            profile,
            metrics,
            max_history=manifest.max_history,
            store_share=settings.store_share,
            memory_users=settings.memory_users,
        )
        stack.push_async_callback(recommender.flush)
        recommender.warm()
        endpoint = RecommendEndpoint(
            recommender,
            index,
            metrics,
            version=manifest.version,
            exclude_seen=not manifest.repeat_consumption,
            budget_ms=settings.budget_ms,
        )
        kind = store_kind or ("external" if settings.redis_url else "embedded")
        service = Service(_refuse, store, kind, manifest.version)
        service.app = _wrap(settings, log, metrics, Parts(
            endpoint, recommender, profile, metrics, manifest, service.readiness, index.search.describe()
        ))  # fmt: skip
        _publish(metrics, len(index), index.search.recall)
        metrics.refresh()  # before it is ready: another worker may be the one that is scraped
        stack.push_async_callback(_cancel, asyncio.create_task(_watch_lag(metrics)))
        gc.collect()
        gc.freeze()  # what lives as long as the process is not scanned again and again
        yield service


def load_model(settings: Settings, log: Log) -> tuple[Bundle, Student, Index]:
    """Verify and load the bundle, and hold it against its golden answers. Raises StartError."""
    if settings.bundle is None:
        raise StartError("no bundle: give --bundle DIR, the directory that 'python -m training export' wrote")
    try:
        bundle = open_bundle(settings.bundle)
    except BundleError as exc:
        raise StartError(str(exc)) from exc
    student = Student(bundle)
    search = open_search(
        bundle,
        student,
        kind=settings.index,
        directory=settings.data_dir / "index",
        warn=lambda message: log.write("warning", "index", message=message),
    )
    index = Index(bundle, search)
    compare_golden(bundle, student, index)
    return bundle, student, index


def compare_golden(bundle: Bundle, student: Student, index: Index) -> None:
    """Raises StartError unless the loaded model reproduces every golden answer of its bundle.

    An approximate search may miss a few of the best; what it finds must be as good as its recall says, or nearly.
    """
    try:
        users = student.encode([index.find_rows(golden.history)[0] for golden in bundle.golden])
    except DegradedError as exc:
        raise StartError(f"{bundle.path}: the golden answers: {exc}") from exc
    shares = []
    for number, (golden, user) in enumerate(zip(bundle.golden, users, strict=True), start=1):
        is_same, share = _compare_answer(golden, user[None], index)
        shares.append(share)
        if not is_same:
            raise StartError(f"{bundle.path}: the model does not reproduce golden answer {number}; it is not served")
    least = 1.0 if index.search.recall == 1.0 else GOLDEN_RECALL
    if sum(shares) < least * len(shares):
        raise StartError(f"{bundle.path}: the search does not find the golden answers; it is not served")


def _compare_answer(golden: Golden, users: Float32, index: Index) -> tuple[bool, float]:
    """Return whether the named items have their scores and none has better ones; and the share that a search finds."""
    expected = np.array([score for _, score in golden.items])
    rows, _ = index.find_rows([item_id for item_id, _ in golden.items])
    scores = index.exact_scores(users)[0]
    tolerance = GOLDEN_TOLERANCE * max(1e-6, float(abs(scores).max()))
    best = -np.sort(np.partition(-scores, len(rows) - 1)[: len(rows)])
    is_same = bool((abs(scores[rows] - expected) <= tolerance).all() and (abs(best - expected) <= tolerance).all())
    (ranked,) = index.best(index.score(users, len(rows), 0), len(rows), [()])
    n_found = 0 if ranked is None else int((ranked[1] >= expected.min() - tolerance).sum())
    return is_same, n_found / len(rows)


def start_embedded(settings: Settings, stack: AsyncExitStack, log: Log) -> str:
    """Start the embedded server and look after it until the stack ends; return its URL. Raises StartError."""
    embedded = Embedded(settings.data_dir)
    stack.push_async_callback(embedded.stop)
    embedded.start()
    embedded.supervise()
    log.write("info", "embedded_server", pid=embedded.pid, data_dir=str(settings.data_dir))
    return embedded.url


async def open_store(settings: Settings, stack: AsyncExitStack, *, metrics: Metrics | None, log: Log) -> Store:
    """Start the embedded server, or take the one that is named; wait for it a little; go on without it if need be."""
    url = settings.redis_url.get_secret_value() if settings.redis_url else start_embedded(settings, stack, log)
    store = make_store(settings, url, metrics=metrics, log=log)
    stack.push_async_callback(store.close)
    if not await store.wait_until_up(_STORE_START_S if settings.redis_url is None else 1.0):
        log.write("warning", "store_not_up", message="serving without the store until it answers")
    store.open()
    return store


@asynccontextmanager
async def open_profile(settings: Settings) -> AsyncIterator[Profile]:
    """Reach the store that the service uses; start the embedded server only where nobody else runs it."""
    log = Log("error")
    async with AsyncExitStack() as stack:
        stack.callback(log.close)
        embedded = Embedded(settings.data_dir)
        if settings.redis_url is None and not embedded.try_lock():
            store = make_store(settings, embedded.url, metrics=None, log=log)
            stack.push_async_callback(store.close)
        else:
            await embedded.stop()  # gives the lock back; open_store takes it again
            store = await open_store(settings, stack, metrics=None, log=log)
        if not await store.wait_until_up(_COMMAND_TIMEOUT_S if settings.redis_url is None else 2.0):
            raise StartError("the store does not answer")
        yield Profile(store, namespace=settings.namespace, retention=retention_of(settings), dim=1)


def make_store(settings: Settings, url: str, *, metrics: Metrics | None, log: Log) -> Store:
    """Build the store's client."""

    def on_error(kind: str) -> None:
        if metrics is not None:
            metrics.store_errors[kind].inc()
        log.fault("store_error", kind=kind)

    def on_change(state: Any) -> None:
        if metrics is not None:
            metrics.breaker_state.set(int(state))
        log.fault(f"store_breaker_{state.name.lower()}")

    def on_call(op: str, seconds: float) -> None:
        if metrics is not None:
            metrics.store_operation[op].observe(seconds)

    return Store(
        url,
        max_connections=settings.store_connections,
        slow_s=settings.budget_ms / 1000 * settings.store_share,
        breaker=Breaker(on_change),
        on_call=on_call,
        on_error=on_error,
    )


def retention_of(settings: Settings) -> Retention:
    """What the settings say about how much is kept."""
    return Retention(
        events=settings.history_events,
        history_ttl_s=round(settings.history_ttl_days * 86_400),
        embedding_ttl_s=max(1, round(settings.embedding_ttl_hours * 3600)),
        stream=settings.event_stream_max,
    )


def _wrap(settings: Settings, log: Log, metrics: Metrics, parts: Parts) -> ASGIApp:
    return Gate(
        create_api(parts),
        recommend=parts.endpoint,
        keys=Keys(settings.keys, settings.admin_key.get_secret_value()),
        metrics=metrics,
        log=log,
        answers=Limit(target_s=settings.budget_ms / 4000, most=settings.max_in_flight),
        others=Limit(target_s=math.inf, most=max(1, settings.max_in_flight // 8)),
        rates=Rates(settings.rate_per_s),
        log_requests=settings.log_requests,
    )


def _publish(metrics: Metrics, n_items: int, recall: float) -> None:
    metrics.generation_min.set(1)
    metrics.generation_max.set(1)
    metrics.model_swaps["ok"].inc()
    metrics.model_loaded.set(time.time())
    metrics.items.set(n_items)
    metrics.index_recall.set(recall)


async def _watch_lag(metrics: Metrics) -> None:
    while True:
        start = time.monotonic()
        await asyncio.sleep(_LAG_EVERY_S)
        metrics.event_loop_lag.observe(max(0.0, time.monotonic() - start - _LAG_EVERY_S))
        metrics.refresh()


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    raise StartError("not open yet")
