"""The store, and what is kept in it, as the settings say: built in one place for the service and for the commands.

Nothing is connected by importing this. Whoever opens a store closes it, by the stack that is given.
"""

import io
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from service.bundle import HistoryTypes
from service.errors import StartError, StoreError
from service.experiment.attribution import Attribution
from service.experiment.gauge import health_of, note_end, show_report
from service.experiment.guard import Bounds
from service.experiment.record import Experiment
from service.experiment.shelf import ExperimentShelf
from service.experiment.tally import Tally
from service.experiment.watch import ExperimentWatch, Means
from service.item.feed import ItemFeed
from service.item.shelf import ItemShelf
from service.logs import Log
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.recommendation.budget import BudgetRule
from service.replay.recorder import Recorder
from service.replay.shelf import Bound, ReplayShelf
from service.scenario.book import ScenarioBook
from service.scenario.file import read_scenarios
from service.scenario.shelf import ScenarioShelf
from service.settings import Settings
from service.store.breaker import Breaker
from service.store.client import Store
from service.store.embedded import Embedded, read_trouble
from service.user.entry_index import EntryIndex
from service.user.erasure import Erasures
from service.user.event import EffectOf
from service.user.history import History
from service.user.key import UserKeys
from service.user.sample import UserSample
from service.user.stream import EventStream
from service.user.trend import TrendCounter
from service.user.trend_feed import TrendFeed, TrendSnapshots
from service.user.writer import Retention

_STORE_START_S = 10.0
_COMMAND_TIMEOUT_S = 30.0
_LOOK_EVERY_S = 0.5
_MOMENT_S = 1.0


def budget_rule(settings: Settings) -> BudgetRule:
    """Return how the time of a request is shared out."""
    return BudgetRule(settings.budget_ms / 1000, settings.store_share)


def start_embedded(settings: Settings, stack: AsyncExitStack, log: Log) -> str:
    """Start the embedded server and look after it until the stack ends; return its URL. Raises StartError."""

    def on_trouble(reason: str) -> None:
        log.write("error", "embedded_server_down", message=reason)

    embedded = Embedded(settings.data_dir, compact_every_s=settings.compact_hours * 3600, on_trouble=on_trouble)
    stack.push_async_callback(embedded.stop)
    embedded.start()
    embedded.supervise()
    if embedded.pid is not None:
        log.write("info", "embedded_server", pid=embedded.pid, data_dir=str(settings.data_dir))
    return embedded.url


async def open_store(settings: Settings, stack: AsyncExitStack, *, metrics: Metrics | None, log: Log) -> Store:
    """Start the embedded server, or take the one that is named; wait for it a little; go on without it if need be."""
    url = settings.redis_url.get_secret_value() if settings.redis_url else start_embedded(settings, stack, log)
    store = make_store(settings, url, metrics=metrics, log=log)
    stack.push_async_callback(store.close)
    if not await _wait_for(store, _STORE_START_S if settings.redis_url is None else 1.0, settings):
        log.write("warning", "store_not_up", message="serving without the store until it answers")
    store.open()
    return store


@asynccontextmanager
async def reach_store(settings: Settings) -> AsyncIterator[Store]:
    """Reach the store that the service uses; start the embedded server only where nobody else runs it."""
    log = Log("error", io.StringIO())  # what goes wrong is told in the error
    async with AsyncExitStack() as stack:
        stack.callback(log.close)
        embedded = Embedded(settings.data_dir)
        if settings.redis_url is None and not embedded.try_lock():
            store = make_store(settings, embedded.url, metrics=None, log=log)
            stack.push_async_callback(store.close)
        else:
            await embedded.stop()  # gives the lock back; open_store takes it again
            store = await open_store(settings, stack, metrics=None, log=log)
        is_embedded = settings.redis_url is None
        if not await _wait_for(store, _COMMAND_TIMEOUT_S if is_embedded else 2.0, settings):
            reason = trouble_of(settings, store, is_embedded=is_embedded)
            raise StartError(f"the store does not answer: {reason}" if reason else "the store does not answer")
        yield store


async def _wait_for(store: Store, patience_s: float, settings: Settings) -> bool:
    """Return whether the store is up, and wait for it unless it is known, for more than a moment, why there is none."""
    end, n_reasons = time.monotonic() + patience_s, 0
    while not await store.wait_until_up(min(_LOOK_EVERY_S, patience_s)):
        n_reasons = n_reasons + 1 if settings.redis_url is None and read_trouble(settings.data_dir) else 0
        if time.monotonic() >= end or n_reasons * _LOOK_EVERY_S > _MOMENT_S:
            return False
    return True


def trouble_of(settings: Settings, store: Store, *, is_embedded: bool) -> str:
    """Return why the store does not answer, as far as it is known: its owner says so, or the server itself."""
    return (read_trouble(settings.data_dir) if is_embedded else "") or store.last_words


def make_store(settings: Settings, url: str, *, metrics: Metrics | None, log: Log) -> Store:
    """Build the store's client."""

    def on_error(error: StoreError) -> None:
        if metrics is not None:
            metrics.store_errors[error.kind].inc()
        log.fault("store_error", kind=error.kind, message=error.words)

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
    return History(store, UserKeys(settings.namespace), retention_of(settings))


def users_of(settings: Settings, store: Store) -> UserSample:
    """Return what draws users of whom something is kept."""
    return UserSample(store, UserKeys(settings.namespace))


def retention_of(settings: Settings) -> Retention:
    """Return how much is kept of events."""
    return Retention(
        events=settings.history_events,
        history_ttl_s=max(1, round(settings.history_ttl_days * 86_400)),
        stream=settings.event_stream_max,
    )


def stream_of(settings: Settings, store: Store) -> EventStream:
    """Return the stream of events that the service has accepted."""
    keys = UserKeys(settings.namespace)
    return EventStream(store, keys, EntryIndex(store, keys, retention_of(settings).history_ttl_s))


def tally_of(settings: Settings, store: Store) -> Tally:
    """Return what is counted of an experiment."""
    return Tally(store, UserKeys(settings.namespace), stream_of(settings, store))


def watch_of(settings: Settings, store: Store, effect_of: EffectOf, metrics: Metrics, log: Log) -> ExperimentWatch:
    """Return what watches the experiment that runs. effect_of: says what events do at present."""

    def attribute(experiment: Experiment) -> Attribution:
        return Attribution(experiment, effect_of)

    bounds = Bounds(settings.experiment_errors, settings.experiment_late, settings.experiment_loss)
    shelf, tally = experiments_of(settings, store), tally_of(settings, store)
    means = Means(shelf, tally, attribute, partial(health_of, metrics), bounds)
    return ExperimentWatch(means, partial(show_report, metrics), partial(note_end, metrics, log))


def trend_of(settings: Settings, store: Store, catalogue: Catalogue, types: HistoryTypes) -> TrendFeed | None:
    """Return what keeps the trend of a catalogue up to date; None where its scores have none.

    types: those that enter histories count.
    """
    parts, now = catalogue.parts, time.time()
    if parts is None or parts.rule.trend is None:
        return None
    snapshots = TrendSnapshots(store, UserKeys(settings.namespace), parts.rule.trend.half_life_s)
    counter = TrendCounter(parts.rule.trend, parts.counts_at(now), catalogue, now, types)
    return TrendFeed(stream_of(settings, store), snapshots, counter, catalogue.set_counts)


def items_of(settings: Settings, store: Store) -> ItemShelf:
    """Return the live items in the store."""
    return ItemShelf(store, settings.namespace)


def replays_of(settings: Settings, store: Store) -> ReplayShelf:
    """Return the answers that are kept to be made again."""
    return ReplayShelf(store, settings.namespace, Bound(settings.replay_hours * 3600, settings.replay_mb << 20))


def recorder_of(settings: Settings, store: Store, feed: ItemFeed, metrics: Metrics) -> Recorder | None:
    """Return what keeps answers to be made again; None where none are kept. feed: of the live items."""
    if not settings.replay_share:
        return None
    shelf = replays_of(settings, store)
    return Recorder(shelf, feed, settings.replay_share, lambda result: metrics.replay_records[result].inc())


def experiments_of(settings: Settings, store: Store) -> ExperimentShelf:
    """Return the record of what is tried beside the live version."""
    return ExperimentShelf(store, settings.namespace)


async def scenarios_of(settings: Settings, store: Store) -> ScenarioBook:
    """Return the scenarios, of a file and of the store as far as it answers. Raises StartError for a wrong file."""
    book = ScenarioBook(ScenarioShelf(store, settings.namespace), read_scenarios(settings.scenarios))
    await book.begin()
    return book


def erasures_of(settings: Settings, store: Store) -> Erasures:
    """Return the erasures of users, as this process announces them and hears of them."""
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    return Erasures(store, UserKeys(settings.namespace), name=name, lease_s=settings.memory_s)
