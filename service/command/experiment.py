"""The command experiment: say what the version beside the live one comes to, end it, or make it live.

Each takes the parsed arguments and returns its exit code. Each raises StartError if it cannot do as asked.

`status` counts the events that have come since somebody last counted, and says what they come to. `stop` ends the
experiment: all users are answered by the live version. `promote` makes the other version live, and so ends it too; it
does so only where the live version still is the one that the other was set beside: of two that decide, one is heard.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict

import orjson

from service.command.beside import read_experiment
from service.command.rollout import announce
from service.command.types_in_use import find_types
from service.composition.storage import reach_store, tally_of
from service.errors import RefusedError, StartError, StoreError
from service.experiment.attribution import HIT_POSITIONS, Attribution
from service.experiment.record import Experiment
from service.experiment.report import PLACES, Comparison, Report, SampleRatio, Side, report_on
from service.experiment.shelf import ExperimentShelf
from service.experiment.tally import MOST_USERS, Counted
from service.logs import printable
from service.release.published import Expected, PublishedVersions
from service.settings import Settings, read_settings
from service.store.client import Store

ABOUT = "Say what the version beside the live one comes to, end it, or make it live."
_CALL_S = 10.0
Work = Callable[[argparse.Namespace, Settings, Store], Awaitable[int]]


def show_experiment(arguments: argparse.Namespace) -> int:
    """Print what the experiment comes to so far: a table, or JSON."""
    return _run(arguments, _show)


def stop(arguments: argparse.Namespace) -> int:
    """End the experiment: the live version answers everybody."""
    return _run(arguments, _stop)


def promote(arguments: argparse.Namespace) -> int:
    """End the experiment, and make its version live."""
    return _run(arguments, _promote)


def _run(arguments: argparse.Namespace, work: Work) -> int:
    settings = read_settings(data_dir=arguments.data_dir)

    async def run() -> int:
        async with reach_store(settings) as store:
            try:
                return await work(arguments, settings, store)
            except RefusedError as exc:
                raise StartError(str(exc)) from exc
            except StoreError as exc:
                raise StartError(f"the store: {exc}") from exc

    return asyncio.run(run())


async def _show(arguments: argparse.Namespace, settings: Settings, store: Store) -> int:
    experiment = await _read(ExperimentShelf(store, settings.namespace))
    if experiment is None:
        print("null" if arguments.json else "no experiment: 'publish DIR --as experiment --share 5' begins one")
        return 0
    counted = await _count(settings, store, experiment)
    report = report_on(experiment, counted, arguments.lift / 100)
    if arguments.json:
        print(orjson.dumps(_as_json(experiment, counted, report)).decode())
    else:
        for line in (*_head(experiment), *_lines(experiment, counted, report)):
            print(printable(line))
    return 0


async def _count(settings: Settings, store: Store, experiment: Experiment) -> Counted:
    attribution = Attribution(experiment, (await find_types(settings, store)).effect)
    counted = await tally_of(settings, store).catch_up(experiment, attribution, _CALL_S)
    if counted is None:
        raise StartError("another experiment has begun meanwhile: ask again")
    return counted


async def _stop(arguments: argparse.Namespace, settings: Settings, store: Store) -> int:
    shelf = ExperimentShelf(store, settings.namespace)
    ended = await _end(shelf, _running(await _read(shelf)), "stopped by hand")
    live = await PublishedVersions(store, settings.namespace).live()  # another one may have been made live meanwhile
    _say(f"ended: {ended.kind} of {ended.version}; {live.version if live else ended.live} answers everybody")
    return 0


async def _promote(arguments: argparse.Namespace, settings: Settings, store: Store) -> int:
    shelf, published = ExperimentShelf(store, settings.namespace), PublishedVersions(store, settings.namespace)
    experiment = _running(await _read(shelf))
    live = await published.live()
    if live is None or live.version != experiment.live:
        shown = live.version if live else "none"
        raise StartError(f"not promoted: {experiment.version} is set beside {experiment.live}, and live is {shown}")
    made = await published.activate(experiment.version, Expected(experiment.live))
    ended = await shelf.end(experiment, f"promoted: version {experiment.version} is live") or await shelf.read()
    if ended is not None and not ended.reason.startswith("promoted"):
        _say(f"it was ended at this moment: {ended.reason}; 'rollback' makes {experiment.live} live again")
    return await announce(published, made, arguments.wait)


async def _read(shelf: ExperimentShelf) -> Experiment | None:
    """Return what runs, or ran last. Raises StartError where the record cannot be read."""
    experiment, trouble = await read_experiment(shelf)
    if trouble:
        raise StartError(f"{trouble}; 'publish DIR --as experiment --share 5' writes a new one")
    return experiment


def _running(experiment: Experiment | None) -> Experiment:
    """Return the experiment that runs. Raises StartError."""
    if experiment is None:
        raise StartError("no experiment runs, and none ever did: 'publish DIR --as experiment --share 5' begins one")
    if not experiment.is_running:
        raise StartError(f"no experiment runs: that of {experiment.version} has ended: {experiment.reason}")
    return experiment


async def _end(shelf: ExperimentShelf, experiment: Experiment, reason: str) -> Experiment:
    if (ended := await shelf.end(experiment, reason)) is None:
        raise StartError("somebody else has just ended or changed the experiment: look at 'experiment status'")
    return ended


def _as_json(experiment: Experiment, counted: Counted, report: Report) -> dict[str, object]:
    fields = {name: value for name, value in asdict(experiment).items() if name != "salt"}
    others = {"astray": counted.astray, "elsewhere": counted.elsewhere, "left_out": counted.left_out}
    others |= {"gone": counted.gone, "older": counted.older}
    return {"experiment": fields, **asdict(report), "events": others}


def _head(experiment: Experiment) -> Iterator[str]:
    whom = "requests" if experiment.kind == "shadow" else "users"
    yield f"{experiment.kind} of {experiment.version} beside {experiment.live}: {experiment.share:g} % of {whom}"
    yield f"begun {_when(experiment.started)}, " + (
        "runs" if experiment.ended is None else f"ended {_when(experiment.ended)}: {experiment.reason}"
    )
    if experiment.kind != "shadow":
        yield f"conversions: {', '.join(experiment.conversions) or 'every type that enters histories'}"


def _lines(experiment: Experiment, counted: Counted, report: Report) -> Iterator[str]:
    if experiment.kind == "shadow":
        yield "a shadow answers nobody: look at its metrics"
        return
    yield ""
    yield from _table([
        ["", "users", "shown", "impressions", "clicks", f"hit@{HIT_POSITIONS}", "converted", "rate"],
        *(_row(name, side) for name, side in (("other", report.other), ("live", report.live))),
    ])  # fmt: skip
    yield ""
    if report.comparison is None:
        yield "nobody to compare with: the other version answers everybody"
    else:
        yield from _compared(report.comparison)
        yield _divided(report.sample_ratio)
    if counted.left_out:
        yield f"{counted.left_out} events are of users beyond the first {MOST_USERS:,}, who are not counted"
    if counted.gone:
        yield f"up to {counted.gone} events were cut off by the stream's cap before anybody counted them"
    if counted.older:
        yield f"{counted.older} events came with a time before the beginning, and are not counted"
    if counted.astray:
        yield f"{counted.astray} events name an answer of the version that their user is not assigned to"
    yield ""
    yield from _table([
        ["position", "other shown", "clicked", "rate", "live shown", "clicked", "rate"],
        *([place, *_at(report.other, place), *_at(report.live, place)] for place in PLACES),
    ])  # fmt: skip


def _row(name: str, side: Side) -> list[str]:
    counts = (side.users, side.shown, side.impressions, side.clicks)
    return [name, *map(str, counts), _percent(side.hit_rate), str(side.converted), _percent(side.rate)]


def _at(side: Side, place: str) -> list[str]:
    shown, clicked = side.positions[place]
    return [str(shown), str(clicked), _percent(clicked / shown if shown else None)]


def _compared(found: Comparison) -> Iterator[str]:
    low, high = found.interval.low, found.interval.high
    yield (
        f"lift {_percent(found.lift, sign=True)}, not excluded {_percent(low, sign=True)} to "
        f"{_percent(high, sign=True)} ({1 - found.alpha:.0%} at all looks)"
    )
    yield f"the other version is {found.decision}: e-value {found.e_value:.3g}, decided from {1 / found.alpha:.0f}"
    if found.users_needed is None:
        yield "how many users are needed is not known before some, and not all, of the live version's convert"
    else:
        yield (
            f"a lift of {found.for_lift:+.1%} needs about {found.users_needed} users (power 80 %): "
            f"{found.users_missing} more"
        )


def _divided(found: SampleRatio | None) -> str:
    if found is None:
        return "how the users are divided is not known: no impressions come"
    text = f"{found.found:.2%} of the users shown something are the other version's, expected {found.expected:.2%}"
    wrong = "WRONG, so do not trust the rest" if found.is_wrong else "as chance does"
    return f"{text}: {wrong} (e-value {found.e_value:.3g})"


def _percent(value: float | None, *, sign: bool = False) -> str:
    return "-" if value is None else f"{100 * value:+.2f} %" if sign else f"{100 * value:.2f} %"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
