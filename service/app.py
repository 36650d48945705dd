"""The composition root: opens everything in one order, checks and warms it, and closes it in reverse.

store → the version that is live there, else --bundle: verify, load, compare with the golden answers, warm → only then
listen. A bundle that is wrong in any way raises before the first request could arrive.
"""

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from service import __version__
from service.bundle import BundleError, read_manifest
from service.errors import StartError
from service.http.account import Account
from service.http.admission import Admission, Limit, Shares
from service.http.api import create_api
from service.http.caller import Hosts, Proxies
from service.http.events import event_routes
from service.http.gate import Gate
from service.http.guard import Guard
from service.http.key import Keys
from service.http.model import model_routes, probe_routes
from service.http.rate import Ledger, Rates
from service.http.recommend import RecommendEndpoint
from service.http.users import user_routes
from service.logs import Log
from service.metrics import Metrics
from service.model.model import load_model
from service.recommendation.budget import BudgetRule
from service.recommendation.lookup import Lookup
from service.recommendation.memory import Memory
from service.recommendation.ranker import Ranker
from service.recommendation.recommender import Recommender
from service.release.fetched import FetchedBundles
from service.release.follower import Follower, show_generation
from service.release.generation import Generation, Generations
from service.release.published import PublishedVersions
from service.release.record import OWN_NUMBER
from service.release.signature import Trust
from service.release.trial import try_bundle
from service.settings import Settings
from service.store.breaker import Breaker
from service.store.client import Store
from service.store.embedded import Embedded
from service.user.embedding import EmbeddingCache
from service.user.history import History, Retention
from service.user.key import UserKeys
from service.user.stream import EventStream
from service.wire.crowd import Crowd, most_connections

_STORE_START_S = 10.0
_COMMAND_TIMEOUT_S = 30.0
_LAG_EVERY_S = 0.1


class Readiness:
    """What /readyz says. is_draining: told to stop, so no longer ready."""

    def __init__(self, store: Store, store_kind: str, generations: Generations) -> None:
        self._store, self._store_kind, self._generations = store, store_kind, generations
        self.is_draining = False

    def drain(self) -> None:
        """Say from now on that it is not ready."""
        self.is_draining = True

    def describe(self) -> dict[str, Any]:
        """Return the body of /readyz."""
        breaker = self._store.breaker
        store = {"kind": self._store_kind, "is_up": breaker.is_closed, "breaker": breaker.state.name.lower()}
        return {"ready": not self.is_draining, "model_version": self._generations.live.version, "store": store}


@dataclass(frozen=True, slots=True)
class Service:
    """A service ready to listen.

    app: the gate. crowd: its connections, of which there are none yet. version: the one that is served first. drain:
    says that it is not ready any more.
    """

    app: ASGIApp
    crowd: Crowd
    version: str
    drain: Callable[[], None]


@asynccontextmanager
async def open_service(
    settings: Settings,
    log: Log,
    *,
    store_kind: str | None = None,
    ledger: Ledger | None = None,
    is_pinned: bool = False,
) -> AsyncIterator[Service]:
    """Open the service. Raises StartError with a message for the operator.

    store_kind: embedded, where the URL is that of an embedded server which somebody else owns. ledger: of the rates of
    callers, where several processes share them. is_pinned: serve --bundle whatever version the store calls live.
    """
    check_bundle(settings, is_pinned=is_pinned)
    metrics = Metrics(__version__)
    async with AsyncExitStack() as stack:
        store = await open_store(settings, stack, metrics=metrics, log=log)
        loader = GenerationLoader(settings, store, metrics, log)
        published = PublishedVersions(store, settings.namespace)
        follower = Follower(published, _fetched_of(settings, published, log), loader.load, metrics, log)
        first = None if is_pinned else await follower.find_first(settings.bundle)
        generations = Generations(first or _load_own(settings, loader))
        stack.push_async_callback(generations.rest)
        readiness = Readiness(store, store_kind or ("external" if settings.redis_url else "embedded"), generations)
        history = history_of(settings, store)
        account = Account(metrics, log if settings.log_requests else None)
        keys = Keys(settings.parsed_keys, settings.admin_key.get_secret_value())
        guard = _make_guard(settings, keys, account, ledger)
        api = create_api(
            [
                event_routes(history, metrics, guard.charge),
                user_routes(history, stream_of(settings, store), generations),
                model_routes(generations, published, follower.look_soon),
                probe_routes(readiness.describe, metrics),
            ],
            is_keyed=keys.is_on,
        )
        endpoint = RecommendEndpoint(generations, metrics, budget_rule(settings))
        gate = Gate(api, endpoint, guard, _make_admission(settings, metrics), account)
        _show(metrics, generations)
        stack.push_async_callback(_cancel, asyncio.create_task(_watch_lag(metrics)))
        if not is_pinned:
            stack.push_async_callback(_cancel, asyncio.create_task(follower.run(generations)))
        yield Service(gate, _make_crowd(settings, metrics, log), generations.live.version, readiness.drain)


def _freeze() -> None:
    """Keep what lives as long as the process from being scanned for garbage again and again."""
    gc.collect()
    gc.freeze()


def _show(metrics: Metrics, generations: Generations) -> None:
    """Set the gauges before the service is ready: another worker may be the one that is scraped."""
    metrics.watch(metrics.queue_depth, lambda: generations.live.recommender.depth)
    show_generation(metrics, generations.live)
    metrics.model_swaps["ok"].inc()
    metrics.refresh()
    _freeze()


class GenerationLoader:
    """Makes generations out of bundles, all with the same store and settings."""

    def __init__(self, settings: Settings, store: Store, metrics: Metrics, log: Log) -> None:
        self._settings, self._store, self._metrics, self._log = settings, store, metrics, log

    def load(self, path: Path, number: int) -> Generation:
        """Load a bundle, hold it against its golden answers, and warm it. Raises StartError."""
        model = load_model(path, kind=self._settings.index, codes=codes_of(self._settings), warn=self._warn)
        manifest, catalogue = model.manifest, model.catalogue
        history = history_of(self._settings, self._store)
        embeddings = self._embeddings(history, manifest.dim, manifest.version)
        lookup = Lookup(history, embeddings, catalogue, Memory(self._settings.memory_users), self._metrics)
        ranker = Ranker(model.student, catalogue, self._metrics, max_history=manifest.max_history)
        recommender = Recommender(catalogue, lookup, ranker, self._metrics)
        recommender.warm()
        return Generation(manifest, catalogue, recommender, number)

    def _embeddings(self, history: History, dim: int, version: str) -> EmbeddingCache:
        keys, ttl_s = UserKeys(self._settings.namespace), max(1, round(self._settings.embedding_ttl_hours * 3600))
        return EmbeddingCache(self._store, keys, history, ttl_s=ttl_s, dim=dim, version=version)

    def _warn(self, message: str) -> None:
        self._log.write("warning", "index", message=message)


def budget_rule(settings: Settings) -> BudgetRule:
    """Return how the time of a request is shared out."""
    return BudgetRule(settings.budget_ms / 1000, settings.store_share)


def codes_of(settings: Settings) -> Path:
    """Return where the codes of large catalogues are kept."""
    return settings.data_dir / "index"


def trial_of(settings: Settings) -> Callable[[Path], Awaitable[None]]:
    """Return what loads a bundle in a process of its own, and leaves the codes of a large one for the service."""
    return partial(try_bundle, kind=settings.index, codes=codes_of(settings))


def _fetched_of(settings: Settings, published: PublishedVersions, log: Log) -> FetchedBundles:
    def say() -> None:
        text = "nobody trusted has signed what is followed: whoever can write to the store decides what is served"
        log.write("warning", "release_unsigned", message=text)

    is_required = settings.requires_signature
    trust = Trust(settings.namespace, settings.public_keys, is_required=is_required, on_unsigned=say)
    return FetchedBundles(settings.data_dir / "releases", published, trial_of(settings), trust)


def check_bundle(settings: Settings, *, is_pinned: bool) -> None:
    """Find at once what cannot be served at all. Raises StartError."""
    if settings.bundle is None:
        if is_pinned:
            raise StartError("--pin: give --bundle DIR, the directory to serve whatever the store says")
        return
    try:
        read_manifest(settings.bundle)
    except BundleError as exc:
        raise StartError(str(exc)) from exc


def _load_own(settings: Settings, loader: GenerationLoader) -> Generation:
    if settings.bundle is None:
        raise StartError(
            "no bundle, and no version is live in the store: give --bundle DIR, the directory that "
            "'python -m training export' wrote, or publish it"
        )
    return loader.load(settings.bundle, OWN_NUMBER)


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
async def reach_store(settings: Settings) -> AsyncIterator[Store]:
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
        yield store


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
        slow_s=budget_rule(settings).slow_store_s,
        breaker=Breaker(on_change),
        on_call=on_call,
        on_error=on_error,
    )


def history_of(settings: Settings, store: Store) -> History:
    """Return the histories that the service uses."""
    retention = Retention(
        events=settings.history_events,
        history_ttl_s=round(settings.history_ttl_days * 86_400),
        stream=settings.event_stream_max,
    )
    return History(store, UserKeys(settings.namespace), retention)


def stream_of(settings: Settings, store: Store) -> EventStream:
    """Return the stream of events that the service has accepted."""
    return EventStream(store, UserKeys(settings.namespace))


def _make_guard(settings: Settings, keys: Keys, account: Account, ledger: Ledger | None) -> Guard:
    hosts = Hosts([*settings.hosts, settings.host], is_on=not keys.is_on)
    return Guard(hosts, keys, Proxies(settings.proxies), Rates(settings.rate_per_s, ledger), account)


def _make_admission(settings: Settings, metrics: Metrics) -> Admission:
    few = max(1, settings.max_in_flight // 8)
    answers = Limit(target_s=budget_rule(settings).answer_target_s, most=settings.max_in_flight)
    metrics.watch(metrics.concurrency_limit, lambda: answers.value)
    limits = (answers, Limit(target_s=math.inf, most=few), Limit(target_s=math.inf, most=few))
    return Admission(*(Shares(limit, len(settings.keys)) for limit in limits))


def _make_crowd(settings: Settings, metrics: Metrics, log: Log) -> Crowd:
    def note_shed() -> None:
        metrics.shed["connections"].inc()
        log.fault("too_many_connections", most=crowd.most)

    crowd = Crowd(most_connections(settings.max_connections), note_shed)
    metrics.watch(metrics.connections, lambda: len(crowd))
    return crowd


async def _watch_lag(metrics: Metrics) -> None:
    while True:
        start = time.monotonic()
        await asyncio.sleep(_LAG_EVERY_S)
        metrics.event_loop_lag.observe(max(0.0, time.monotonic() - start - _LAG_EVERY_S))
        metrics.refresh()


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
