"""The composition root: opens everything in one order, checks and warms it, and closes it in reverse.

store → the version that is live there, else --bundle: verify, load, compare with the golden answers, warm → only then
listen. A bundle that is wrong in any way raises before the first request could arrive.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from service import __version__
from service.access.account import Account
from service.access.gate import Gate
from service.access.guard import Guard
from service.access.rate import Ledger
from service.access.toll import Toll
from service.bundle import BundleError, read_manifest
from service.composition.access import admission_of, crowd_of, guard_of, names_of
from service.composition.loading import GenerationLoader, codes_of
from service.composition.storage import (
    budget_rule,
    erasures_of,
    experiments_of,
    history_of,
    items_of,
    open_store,
    recorder_of,
    replays_of,
    scenarios_of,
    stream_of,
    tally_of,
    trouble_of,
    users_of,
    watch_of,
)
from service.errors import StartError
from service.health.hour import Hour
from service.health.lag import watch_lag
from service.health.readiness import Readiness
from service.http.api import create_api
from service.http.comparison import comparison_routes
from service.http.events import event_routes
from service.http.items import ItemWriter, item_routes
from service.http.many import list_endpoints
from service.http.model import model_routes, probe_routes
from service.http.page import Page, page_routes, read_page
from service.http.recommend import Means
from service.http.scenarios import scenario_routes
from service.http.users import Erasing, user_routes
from service.item.feed import ItemFeed
from service.item.shelf import ItemShelf
from service.logs import Log, counted_bugs
from service.metrics import TREND_SOURCES, Metrics
from service.private_directory import make_private
from service.recommendation.exploration import Explored
from service.release.beside import BesideFollower
from service.release.comparison import Comparing
from service.release.fetched import FetchedBundles
from service.release.follower import Follower, show_generation
from service.release.generation import Generation, Generations
from service.release.loader import VersionLoader
from service.release.published import PublishedVersions
from service.release.record import OWN_NUMBER
from service.release.showing import follow_showing
from service.release.signature import Trust
from service.release.trial import try_bundle
from service.scenario.book import ScenarioBook
from service.settings import Settings
from service.store.client import Store
from service.task import Work, end_task, keep_going
from service.tracing.tracer import open_tracer
from service.user.alias import UserNames
from service.user.erasure import Erasures
from service.user.event import source_of
from service.user.trend import ANONYMOUS, OTHERS
from service.user.trend_feed import follow_trends
from service.wire.crowd import Crowd


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
    check_places(settings, is_pinned=is_pinned)
    async with AsyncExitStack() as stack:
        inside = await _open_inside(settings, log, stack, is_pinned=is_pinned)
        metrics, generations = inside.metrics, inside.generations
        stack.enter_context(counted_bugs(metrics.bugs.inc))
        readiness = _make_readiness(settings, inside.store, store_kind, generations)
        hour, page, names = Hour(metrics), read_page() if settings.page else Page(), names_of(settings)
        tracing = open_tracer(settings.otlp_endpoint, settings.trace_share, metrics, log)
        tracer = await stack.enter_async_context(tracing)
        account = Account(metrics, log if settings.log_requests else None, tracer)
        keys, guard = guard_of(settings, account, ledger, page)
        routers = [
            *_data_routes(inside, guard, names, is_keyed=keys.is_on),
            probe_routes(readiness.describe, metrics, hour.describe),
            page_routes(page),
        ]
        admission = admission_of(settings, metrics)
        toll = Toll(guard.charge, admission.answers)
        recorder = recorder_of(settings, inside.store, inside.feed, metrics)
        explored = Explored(settings.explore)
        means = Means(generations, metrics, budget_rule(settings), toll, inside.book, explored, recorder)
        lists = list_endpoints(means, names.in_log if settings.log_requests else None)
        gate = Gate(create_api(routers, is_keyed=keys.is_on), *lists, guard, admission, account)
        _show(metrics, generations)
        watch = watch_of(settings, inside.store, generations.effect_of, metrics, log)
        works: dict[str, Work] = {"lag": partial(watch_lag, metrics), "hour": hour.follow, "health": watch.follow}
        works |= _followers(inside, is_pinned=is_pinned)
        if recorder is not None:
            works["replay"] = recorder.follow
        for name, work in works.items():
            stack.push_async_callback(end_task, asyncio.create_task(keep_going(name, work)))
        yield Service(gate, crowd_of(settings, metrics, log), generations.live.version, readiness.drain)


@dataclass(frozen=True, slots=True)
class _Inside:
    """What stands behind the routes, opened."""

    settings: Settings
    metrics: Metrics
    store: Store
    erasures: Erasures
    feed: ItemFeed
    book: ScenarioBook
    published: PublishedVersions
    follower: Follower
    generations: Generations
    comparing: Comparing


async def _open_inside(settings: Settings, log: Log, stack: AsyncExitStack, *, is_pinned: bool) -> _Inside:
    metrics = Metrics(__version__)
    store = await open_store(settings, stack, metrics=metrics, log=log)
    erasures = erasures_of(settings, store)
    feed = await _begin_items(items_of(settings, store), metrics)
    book = await scenarios_of(settings, store)
    loader = GenerationLoader(settings, store, erasures, feed, metrics, log)
    published = PublishedVersions(store, settings.namespace)
    fetched = fetched_of(settings, published, log)
    versions = VersionLoader(fetched, loader.load, log)
    shelf, shadow_s = experiments_of(settings, store), budget_rule(settings).answer_target_s
    beside = BesideFollower(shelf, published, versions, metrics, log, shadow_s=shadow_s)
    follower = Follower(published, fetched, versions, beside, metrics, log)
    generations = Generations(await _find_first(settings, loader, None if is_pinned else follower))
    stack.push_async_callback(generations.rest)
    if not is_pinned:
        stack.push_async_callback(follower.close)
        await beside.begin(generations)
    comparing = Comparing(generations, versions)
    stack.push_async_callback(comparing.close)
    return _Inside(settings, metrics, store, erasures, feed, book, published, follower, generations, comparing)


def _data_routes(inside: _Inside, guard: Guard, names: UserNames, *, is_keyed: bool) -> list[Any]:
    """Return the routes of what is kept: events, users, items, scenarios, versions."""
    settings, metrics, generations = inside.settings, inside.metrics, inside.generations
    history = history_of(settings, inside.store)
    stream = stream_of(settings, inside.store)
    kept: list[Erasing] = [tally_of(settings, inside.store), replays_of(settings, inside.store)]
    writer = ItemWriter(inside.feed, generations, metrics, settings.live_items)
    return [
        event_routes(history, metrics, guard.charge, generations.effect_of, is_keyed=is_keyed),
        user_routes(history, stream, kept, inside.erasures, generations, names),
        item_routes(writer, generations),
        scenario_routes(inside.book, generations),
        model_routes(generations, inside.published, inside.follower.look_soon, settings.budget_ms),
        comparison_routes(inside.comparing, inside.published, users_of(settings, inside.store), history, generations),
    ]


def _followers(inside: _Inside, *, is_pinned: bool) -> dict[str, Work]:
    """Return what listens to the store until the service ends, by name."""
    settings, generations = inside.settings, inside.generations
    note = _note_trend(settings, inside.metrics, generations)
    works: dict[str, Work] = {}
    if settings.memory_users:
        works["erasures"] = partial(inside.erasures.follow, generations.forget_share)
    if not is_pinned:
        works["versions"] = partial(inside.follower.run, generations)
    return works | {
        "what is shown": partial(follow_showing, inside.metrics, generations),
        "trend": partial(follow_trends, generations.trends, note),
        "scenarios": inside.book.follow,
        "live items": partial(inside.feed.follow, generations.catalogues),
    }


async def _begin_items(shelf: ItemShelf, metrics: Metrics) -> ItemFeed:
    """Read the live items, before there is a catalogue to show them."""
    feed = ItemFeed(shelf, on_changes=metrics.live_changes.inc)
    metrics.watch(metrics.live_items, lambda: len(feed))
    metrics.watch(metrics.live_lag, lambda: max(0.0, time.monotonic() - feed.heard_at))
    await feed.begin()
    return feed


def _note_trend(settings: Settings, metrics: Metrics, generations: Generations) -> Callable[[], None]:
    """Return what sets the gauges of the trend."""
    names = {source_of(key.secret): f"key_{number}" for number, key in enumerate(settings.parsed_keys, start=1)}
    names |= {source_of(settings.admin_key.get_secret_value().encode()): "admin", "bundle": "bundle"}
    names |= {ANONYMOUS: ANONYMOUS}

    def note() -> None:
        live = generations.live
        masses = dict.fromkeys(TREND_SOURCES, 0.0)
        for source, mass in (live.trend.masses() if live.trend else {}).items():
            name = names.get(source, OTHERS)
            masses[name if name in masses else OTHERS] += mass
        for name, mass in masses.items():
            metrics.trend_mass[name].set(mass)
        metrics.trend_age.set(max(0.0, time.time() - live.catalogue.heard_at))

    return note


def _show(metrics: Metrics, generations: Generations) -> None:
    """Set the gauges before the service is ready: another worker may be the one that is scraped."""
    metrics.watch(metrics.queue_depth, generations.depth)
    show_generation(metrics, generations.live)
    metrics.model_swaps["ok"].inc()
    metrics.refresh()
    gc.collect()
    gc.freeze()  # what lives as long as the process is not scanned for garbage again and again


def trial_of(settings: Settings) -> Callable[[Path], Awaitable[None]]:
    """Return what loads a bundle in a process of its own, and leaves the codes of a large one for the service."""
    return partial(try_bundle, kind=settings.index, codes=codes_of(settings))


def fetched_of(settings: Settings, published: PublishedVersions, log: Log) -> FetchedBundles:
    """Return the bundles that are fetched onto this machine."""

    def say() -> None:
        text = "nobody trusted has signed what is followed: whoever can write to the store decides what is served"
        log.write("warning", "release_unsigned", message=text)

    is_required = settings.requires_signature
    trust = Trust(settings.namespace, settings.public_keys, is_required=is_required, on_unsigned=say)
    return FetchedBundles(settings.data_dir / "releases", published, trial_of(settings), trust)


def check_places(settings: Settings, *, is_pinned: bool) -> None:
    """Find at once what cannot be served at all, and what others could have changed. Raises StartError."""
    with suppress(OSError):  # with a store of your own it can do without
        make_private(settings.data_dir)
    if settings.bundle is None:
        if is_pinned:
            raise StartError("--pin: give --bundle DIR, the directory to serve whatever the store says")
        return
    try:
        read_manifest(settings.bundle)
    except BundleError as exc:
        raise StartError(str(exc)) from exc


async def _find_first(settings: Settings, loader: GenerationLoader, follower: Follower | None) -> Generation:
    """Return the generation that is served first: that of the live version, where it is followed and there is one."""
    first = None if follower is None else await follower.find_first(settings.bundle)
    return first or _load_own(settings, loader)


def _load_own(settings: Settings, loader: GenerationLoader) -> Generation:
    if settings.bundle is None:
        raise StartError(
            "no bundle, and no version is live in the store: give --bundle DIR, the directory that "
            "'python -m training export' wrote, or publish it"
        )
    return loader.load(settings.bundle, OWN_NUMBER)


def _make_readiness(settings: Settings, store: Store, store_kind: str | None, generations: Generations) -> Readiness:
    kind = store_kind or ("external" if settings.redis_url else "embedded")
    return Readiness(store, kind, partial(trouble_of, settings, store, is_embedded=kind == "embedded"), generations)
