"""Follows the live version of the store, while the generation before goes on serving.

A new version is fetched, tried in a process of its own, loaded, compared with its golden answers and warmed. Then the
generations are swapped, and the old one answers the requests that it has begun.

The live record is one small key, read every POLL_S and never in a request's path. A version that is refused is left
alone until the next release. An error that may pass by itself (a store that fails, a full disk) is tried again, at ever
longer intervals. Nothing that the store holds ends the following: what was not foreseen is such an error too.

The swap itself is one assignment; for the loading see loader. What is tried beside the live version is followed by
beside, in turn with this: one version is loaded at a time.
"""

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path

from service.bundle import read_manifest
from service.errors import RefusedError, StoreError
from service.logs import Log, printable
from service.metrics import Metrics
from service.release.beside import BesideFollower
from service.release.fetched import FetchedBundles
from service.release.generation import Generation, Generations
from service.release.loader import VersionLoader, retire
from service.release.published import PublishedVersions
from service.release.record import Live, Replica
from service.store.reply import UNDECODABLE

POLL_S = 1.0
ANNOUNCE_S = 3 * POLL_S
"""A process that follows has said within it that it is there, counted from a release."""
_REPORT_EVERY_S = 10.0
_AGREEMENT_EVERY_S = 10.0
_FIRST_WAIT_S = 2.0
_MAX_WAIT_S = 60.0


class Follower:
    """Keeps one process's generations at the store's live version."""

    def __init__(
        self,
        published: PublishedVersions,
        fetched: FetchedBundles,
        loader: VersionLoader,
        beside: BesideFollower,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._published, self._fetched, self._loader, self._metrics, self._log = (
            published,
            fetched,
            loader,
            metrics,
            log,
        )
        self._beside = beside
        self._settled: Live | None = None  # the release that was served or refused
        self._tried: Live | None = None  # the release that is tried again; None: a record that cannot be read
        self._wait_s, self._again_at = _FIRST_WAIT_S, 0.0
        self._result, self._message, self._reported_at = "ok", "", 0.0
        self._refused: Live | None = None  # what they are about; None: a record that cannot be read
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._is_told = False
        self._told = beside.state
        self._is_due = asyncio.Event()
        self._agreement_read_at = -_AGREEMENT_EVERY_S

    async def find_first(self, own: Path | None) -> Generation | None:
        """Return the generation of the live version, or None where none is live or it is refused.

        While the store is away it is that of the version which was last served on this machine. own: the directory of
        a bundle at hand; if that is the live version, nothing is fetched. Raises StartError if own does not load.
        """
        try:
            live = await self._published.live()
        except StoreError:
            live = self._fetched.last_live()
        if live is None:
            return None
        if own is not None and read_manifest(own).version == live.version:
            return self._loader.load_own(own, live.number)
        return await self._obtain(live)

    async def run(self, generations: Generations) -> None:
        """Follow the live version, and what is tried beside it, until cancelled."""
        while True:
            await self._beside.hear(generations)  # first: what is over makes room for what is loaded now
            await self._look(generations)
            await self._beside.load(generations)
            await self._read_agreement()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._is_due.wait()
            self._is_due.clear()

    async def close(self) -> None:
        """Load nothing more, and say that this process is gone. It follows no longer."""
        self._loader.close()
        with contextlib.suppress(StoreError):
            await self._published.forget(self._name)

    async def _read_agreement(self) -> None:
        """Show what a refresh last said of the live model and its teacher; while the store is away, what was read."""
        if time.monotonic() - self._agreement_read_at < _AGREEMENT_EVERY_S:
            return
        self._agreement_read_at = time.monotonic()
        with contextlib.suppress(StoreError):
            found = await self._published.agreement()
            for name, gauge in self._metrics.refresh_agreement.items():
                gauge.set(getattr(found, name) if found is not None else 0.0)

    def look_soon(self) -> None:
        """Look at once: this process has just made a version live."""
        self._is_due.set()

    async def _look(self, generations: Generations) -> None:
        live = None
        try:
            live = await self._published.live()
            self._note_loss(live, generations.live)
            self._note_end_of_refusal(live)
            if live is not None and live != self._settled and self._is_its_turn(live):
                await self._report(generations.live)  # whoever waits for all waits for this one too
                await self._follow(live, generations)
                self._reported_at = 0.0
        except StoreError as exc:  # the store's client has counted it
            if exc.kind != UNDECODABLE or live is not None:
                return
            self._fail(None, "the live record is none that this service writes")
        except Exception as exc:  # a border: whatever the store holds, it is looked at again
            self._fail(live, f"following raised {type(exc).__name__}")
        if time.monotonic() - self._reported_at > _REPORT_EVERY_S or self._beside.state != self._told:
            with contextlib.suppress(StoreError):
                await self._report(generations.live)

    def _note_loss(self, live: Live | None, generation: Generation) -> None:
        """Say once that the store names no live version any more, as after FLUSHALL: what is served stays."""
        is_lost = live is None and self._is_told
        self._is_told = live is not None
        if is_lost:
            message = f"the store names no live version any more; version {generation.version} is served on"
            self._log.write("warning", "release_lost", model_version=generation.version, message=message)
            self._reported_at = 0.0

    def _note_end_of_refusal(self, live: Live | None) -> None:
        """Say no more why a release was refused that is not the live one any more."""
        if self._result != "ok" and (live is None or live != self._refused):
            self._result, self._message, self._reported_at = "ok", "", 0.0

    def _is_its_turn(self, live: Live | None) -> bool:
        """Whether a release may be tried: another one than the last at once, the same one only after a while."""
        if live != self._tried:
            self._tried, self._wait_s, self._again_at = live, _FIRST_WAIT_S, 0.0
        return time.monotonic() >= self._again_at

    def _fail(self, live: Live | None, text: str) -> None:
        """Count and log what was not foreseen, at ever longer intervals while it goes on."""
        if self._is_its_turn(live):
            self._refuse(live, RefusedError("error", text if live is None else f"version {live.version}: {text}"))

    async def _follow(self, live: Live, generations: Generations) -> None:
        if live.version == generations.live.version:
            self._settle(live)
            generations.live.number = live.number
            self._show(generations.live)
            await asyncio.to_thread(self._fetched.remember, live)
            return
        generation = await self._take_loaded(live, generations) or await self._obtain(live)
        if generation is None:
            return
        started = time.monotonic()
        old = generations.live
        await retire(generations.swap(generation))
        self._show(generation)
        self._settle(live)
        self._metrics.model_swaps["ok"].inc()
        await old.recommender.rest()
        await asyncio.to_thread(self._fetched.remember, live)
        self._log.write(
            "info", "model_swapped", model_version=generation.version, number=live.number, before=old.version,
            drained_s=round(time.monotonic() - started, 3),
        )  # fmt: skip

    async def _take_loaded(self, live: Live, generations: Generations) -> Generation | None:
        """Return a version's generation if it is loaded already, and let go of all others but the live one."""
        kept = None
        for generation in (generations.drop_beside(), generations.drop_previous()):
            if generation is not None and generation.version == live.version:
                kept, generation.number = generation, live.number
            else:
                await retire(generation)
        return kept

    async def _obtain(self, live: Live) -> Generation | None:
        """Fetch, try and load a version. Return None if it must not be served, which is counted and logged."""
        try:
            return await self._loader.obtain(live)
        except RefusedError as exc:
            self._refuse(live, exc)
        return None

    def _refuse(self, live: Live | None, exc: RefusedError) -> None:
        """Stay with the generation that serves. An error may pass by itself; every other refusal is for good."""
        self._metrics.model_swaps[exc.result].inc()
        self._log.write(
            "error",
            "model_refused",
            model_version=live and live.version,
            number=live and live.number,
            result=exc.result,
            message=str(exc),
        )
        if exc.result == "error" or live is None:
            self._again_at = time.monotonic() + self._wait_s
            self._wait_s = min(_MAX_WAIT_S, 2 * self._wait_s)
        else:
            self._settle(live)
        self._result, self._message, self._refused = exc.result, str(exc), live

    def _settle(self, live: Live) -> None:
        self._settled, self._tried, self._wait_s, self._again_at = live, None, _FIRST_WAIT_S, 0.0
        self._result, self._message = "ok", ""

    def _show(self, generation: Generation) -> None:
        show_generation(self._metrics, generation)

    async def _report(self, generation: Generation) -> None:
        self._reported_at, self._told = time.monotonic(), self._beside.state
        message = printable(self._message)[:500]
        await self._published.report(
            Replica(
                self._name, generation.version, generation.number, self._result, message, time.time(),
                *self._beside.state,
            )
        )  # fmt: skip


def show_generation(metrics: Metrics, generation: Generation) -> None:
    """Set the gauges that tell which generation serves: its numbers, its catalogue, and when it became live."""
    metrics.generation_min.set(generation.number)
    metrics.generation_max.set(generation.number)
    metrics.model_loaded.set(generation.live_since)
    metrics.items.set(len(generation.catalogue))
    metrics.index_recall.set(generation.catalogue.search.recall)
