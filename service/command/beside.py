"""A version that is tried beside the live one, as publish begins it and status shows it."""

import argparse
import asyncio
import time
from collections.abc import Callable, Iterable

from service.errors import RefusedError, StartError, StoreError
from service.experiment.record import KINDS, LEAST_SHARE, Experiment, is_share
from service.experiment.shelf import ExperimentShelf
from service.release.follower import ANNOUNCE_S
from service.release.published import PublishedVersions
from service.release.record import Live, Replica
from service.store.reply import UNDECODABLE

DEFAULT_SHARE = 5.0
_LOOK_EVERY_S = 0.2


def check_kind(arguments: argparse.Namespace) -> None:
    """Raise StartError where --as, --share and the other arguments of publish contradict each other."""
    if arguments.kind is None:
        if arguments.share is not None:
            raise StartError(f"--share goes with --as {', --as '.join(KINDS)}: add one, or leave --share out")
        return
    if arguments.no_activate or arguments.if_live is not None:
        name = "--no-activate" if arguments.no_activate else "--if-live"
        raise StartError(f"{name} is about the live version, which --as {arguments.kind} leaves as it is: drop one")
    if arguments.share is not None and not is_share(arguments.share):
        raise StartError(f"--share: a number of percent from {LEAST_SHARE} to 100, not {arguments.share:g}")


async def set_beside(
    shelf: ExperimentShelf, live: Live | None, version: str, arguments: argparse.Namespace, conversions: Iterable[str]
) -> Experiment:
    """Set an uploaded version beside the live one; return the record. Raises RefusedError, StoreError.

    arguments: those of publish. conversions: the types of events that are counted.
    """
    if live is None:
        raise RefusedError("error", "no version is live that it could be set beside: publish one without --as first")
    share = DEFAULT_SHARE if arguments.share is None else arguments.share
    return await shelf.begin(arguments.kind, version, live.version, share, conversions)


def warning_of(experiment: Experiment) -> str:
    """Return what somebody should know who begins an experiment; mostly nothing."""
    if experiment.kind == "shadow" or experiment.share < 100:
        return ""
    return (
        "of all users nobody is left to compare with: it will end by itself neither for errors nor for what users do; "
        "--share 99 leaves some"
    )


async def read_experiment(shelf: ExperimentShelf) -> tuple[Experiment | None, str]:
    """Return what runs, or ran last, and what is wrong with the record. Raises StoreError."""
    try:
        return await shelf.read(), ""
    except StoreError as exc:
        if exc.kind != UNDECODABLE:
            raise
        return None, "the experiment's record is none that this service writes: the live version answers everybody"


def line_of(experiment: Experiment) -> str:
    """Return an experiment in words."""
    whom = "requests" if experiment.kind == "shadow" else "users"
    text = f"{experiment.version} as {experiment.kind} beside {experiment.live}, {experiment.share:g} % of the {whom}"
    if experiment.conversions:
        text += f", counting {', '.join(experiment.conversions)}"
    return text if experiment.is_running else f"{text}; ended: {experiment.reason}"


def note_of(replica: Replica, experiment: Experiment | None) -> str:
    """Return what is to be said of a process and the version that is to be tried."""
    if experiment is None or not experiment.is_running:
        return ""
    if replica.other == experiment.version:
        return f"  and {replica.other} beside it"
    if replica.experiment == experiment.id and replica.other_result != "ok":
        return f"  and nothing beside it: {replica.other_result}: {replica.other_message}"
    return "  and nothing beside it yet"


async def announce_beside(
    published: PublishedVersions, begun: Experiment, wait_s: float, say: Callable[[str], None]
) -> int:
    """Wait up to wait_s until all replicas have the other version; return 1 if one does not, else 0."""
    start = time.monotonic()
    known, end = start + min(ANNOUNCE_S, wait_s), start + wait_s
    while wait_s > 0:
        replicas = await published.replicas()
        told = [replica for replica in replicas if replica.experiment == begun.id]
        behind = [replica for replica in replicas if replica not in told or replica.other != begun.version]
        refused = [replica for replica in told if replica.other_result != "ok"]
        for replica in refused:
            say(f"{replica.name} has nothing beside {replica.version}: {replica.other_result}: {replica.other_message}")
        if not behind and time.monotonic() >= known:
            loaded = "loaded by one process" if len(replicas) == 1 else f"loaded by {len(replicas)} processes"
            say(loaded if replicas else "no process follows this store now")
            return 0
        if refused or (behind and time.monotonic() > end):
            say(f"{len(behind)} of {len(replicas)} processes do not have it")
            return 1
        await asyncio.sleep(_LOOK_EVERY_S)
    return 0
