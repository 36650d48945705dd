"""Follows what is tried beside the live version, as the store says it (see service.experiment.shelf).

The other version is fetched, tried and loaded as a live one is. A process that must not or cannot load it lets the live
version answer everybody, and says so. An experiment belongs to one live version: where another one is made live, it is
over, and the first process that sees it writes so into the record. While the store is away, what runs goes on.
"""

import time
from typing import NamedTuple

from service.errors import RefusedError, StoreError
from service.experiment.record import Experiment
from service.experiment.shelf import ExperimentShelf
from service.logs import Log, printable
from service.metrics import Metrics
from service.release.generation import Beside, Generation, Generations
from service.release.loader import VersionLoader, retire
from service.release.published import PublishedVersions
from service.release.record import Live
from service.release.shadow import Shadow
from service.store.reply import UNDECODABLE

_FIRST_WAIT_S = 2.0
_MAX_WAIT_S = 60.0
_SHOWN = 500


class State(NamedTuple):
    """What a process says of the other version: see service.release.record.Replica."""

    other: str = ""
    experiment: str = ""
    result: str = "ok"
    message: str = ""


class BesideFollower:
    """Keeps one process's generation beside the live one at what the store says."""

    def __init__(
        self,
        shelf: ExperimentShelf,
        published: PublishedVersions,
        loader: VersionLoader,
        metrics: Metrics,
        log: Log,
        *,
        shadow_s: float,
    ) -> None:
        """shadow_s: what one answer of a shadow may take."""
        self._shelf, self._published, self._loader = shelf, published, loader
        self._metrics, self._log, self._shadow_s = metrics, log, shadow_s
        self._wanted: Experiment | None = None
        self._fault: tuple[str, RefusedError] | None = None  # the experiment whose other version was refused, and why
        self._is_unreadable = False
        self._wait_s, self._again_at = _FIRST_WAIT_S, 0.0
        self.state = State()

    async def hear(self, generations: Generations) -> None:
        """Read what is to run, and let go of the other version where it is not to answer any more."""
        try:
            wanted, live = await self._read()
        except StoreError:  # counted by the store's client
            return
        self._wanted = wanted
        self._loader.keep(wanted.version if wanted is not None else None)
        beside = generations.beside
        if beside is not None and wanted != beside.experiment:
            await self._change(generations, beside, live)
        self._show(generations)

    async def _change(self, generations: Generations, beside: Beside, live: Live | None) -> None:
        """Give the other version another share, or let go of it."""
        wanted, version = self._wanted, beside.generation.version
        if wanted is not None and (wanted.version, wanted.live) == (version, generations.live.version):
            self._start(wanted, generations, beside.generation)
        elif live is None or live.version != version:  # else it becomes the live one now, as it stands
            await retire(generations.drop_beside())
            self._log.write("info", "experiment_left", **_named(beside.experiment))

    async def load(self, generations: Generations) -> None:
        """Load the other version, where it is to answer and does not yet."""
        wanted = self._wanted
        if wanted is None or generations.beside is not None or generations.live.version != wanted.live:
            self._show(generations)
            return
        if not self._is_its_turn(wanted):
            return
        await retire(generations.drop_previous())
        try:
            generation = await self._loader.obtain(Live(wanted.version, wanted.number, None, wanted.started))
        except RefusedError as exc:
            self._refuse(wanted, exc)
        else:
            self._fault, self._wait_s = None, _FIRST_WAIT_S
            self._start(wanted, generations, generation)
        self._show(generations)

    async def begin(self, generations: Generations) -> None:
        """Load the other version before the first request, where it is on this machine and was tried."""
        await self.hear(generations)
        if self._wanted is not None and self._loader.has(self._wanted.version):
            await self.load(generations)

    async def _read(self) -> tuple[Experiment | None, Live | None]:
        """Return the experiment that is to run, and the live record. Raises StoreError."""
        try:
            experiment = await self._shelf.read()
            self._is_unreadable = False
        except StoreError as exc:
            if exc.kind != UNDECODABLE:
                raise
            self._note_unreadable()
            experiment = None
        if experiment is None and self._wanted is None:
            return None, None
        live = await self._published.live()
        if experiment is None or not experiment.is_running:
            return None, live
        if live is not None and live.version != experiment.live:
            await self._end(experiment, live)
            return None, live
        return experiment, live

    async def _end(self, experiment: Experiment, live: Live) -> None:
        """Write down that an experiment is over because another version was made live, unless another process has."""
        is_won = live.version == experiment.version
        reason = f"promoted: version {live.version} is live" if is_won else f"version {live.version} was made live"
        if await self._shelf.end(experiment, reason) is not None:
            self._log.write("warning", "experiment_ended", **_named(experiment), message=reason)

    def _note_unreadable(self) -> None:
        if not self._is_unreadable:
            self._is_unreadable = True
            message = (
                "the record of the experiment is none that this service writes; the live version answers everybody"
            )
            self._log.write("error", "experiment_unreadable", message=message)

    def _is_its_turn(self, wanted: Experiment) -> bool:
        """Whether to load: once at first; after a refusal again only where that may have passed, after a while."""
        if self._fault is None or self._fault[0] != wanted.id:
            return True
        return self._fault[1].result == "error" and time.monotonic() >= self._again_at

    def _refuse(self, wanted: Experiment, exc: RefusedError) -> None:
        if self._fault is None or self._fault[0] != wanted.id:
            self._wait_s = _FIRST_WAIT_S
        self._fault, self._again_at = (wanted.id, exc), time.monotonic() + self._wait_s
        self._wait_s = min(_MAX_WAIT_S, 2 * self._wait_s)
        self._metrics.model_swaps[exc.result].inc()
        self._log.write("error", "experiment_refused", **_named(wanted), result=exc.result, message=str(exc))

    def _start(self, experiment: Experiment, generations: Generations, other: Generation) -> None:
        shadow = None
        if experiment.kind == "shadow":
            share, longest_s = experiment.share, self._shadow_s
            shadow = Shadow(generations.live, other, share, longest_s=longest_s, metrics=self._metrics)
        generations.try_beside(experiment, other, shadow)
        self._log.write("info", "experiment_started", **_named(experiment))

    def _show(self, generations: Generations) -> None:
        """Set the gauges, and what this process says of itself."""
        wanted, beside = self._wanted, generations.beside
        for kind, gauge in self._metrics.experiment_share.items():
            gauge.set(wanted.share if wanted is not None and wanted.kind == kind else 0)
        self._metrics.experiment_missing.set(wanted is not None and beside is None)
        other = "" if beside is None else beside.generation.version
        if wanted is None:
            self.state = State(other)
        elif self._fault is not None and self._fault[0] == wanted.id and beside is None:
            result, message = self._fault[1].result, printable(str(self._fault[1]))[:_SHOWN]
            self.state = State(other, wanted.id, result, message)
        else:
            self.state = State(other, wanted.id)


def _named(experiment: Experiment) -> dict[str, object]:
    """Return the fields by which the log names an experiment."""
    names = ("kind", "version", "live", "share", "id")
    return {f"experiment_{name}" if name in ("kind", "id") else name: getattr(experiment, name) for name in names}
