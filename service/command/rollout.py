"""The commands that say which version is served, and how it does: publish, activate, rollback, status, agreement.

Each takes the parsed arguments and returns its exit code. Each raises StartError if it cannot do as asked.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from service.app import trial_of
from service.command.beside import (
    announce_beside,
    check_kind,
    line_of,
    note_of,
    read_experiment,
    set_beside,
    warning_of,
)
from service.composition.storage import experiments_of, reach_store
from service.errors import RefusedError, StartError, StoreError
from service.experiment.record import Experiment
from service.experiment.shelf import ExperimentShelf
from service.logs import printable
from service.release.follower import ANNOUNCE_S
from service.release.published import Expected, PublishedVersions
from service.release.record import Agreement, Live, PublishedVersion, Replica, check_version, is_version
from service.release.signature import SigningKey, read_signing_key
from service.settings import Settings, read_settings
from service.store.client import Store

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Reach:
    """What the commands work with: the settings, and what the store keeps of versions."""

    settings: Settings
    published: PublishedVersions
    shelf: ExperimentShelf


Work = Callable[[argparse.Namespace, Reach], Awaitable[int]]


def publish(arguments: argparse.Namespace) -> int:
    """Try a bundle, upload it, and make it live unless told not to."""
    check_kind(arguments)
    return _run(arguments, _publish)


def activate(arguments: argparse.Namespace) -> int:
    """Make a published version live."""
    try:
        check_version(arguments.version)
    except RefusedError as exc:
        raise StartError(str(exc)) from exc
    return _run(arguments, _activate)


def rollback(arguments: argparse.Namespace) -> int:
    """Make the version before the live one live again."""
    return _run(arguments, _roll_back)


def show_status(arguments: argparse.Namespace) -> int:
    """Print which versions are in the store, which is live, and which process serves what; JSON on the last line."""
    return _run(arguments, _show_status)


def note_agreement(arguments: argparse.Namespace) -> int:
    """Tell the service what a refresh found of the live model and its teacher."""
    return _run(arguments, _note_agreement)


async def _note_agreement(arguments: argparse.Namespace, reach: Reach) -> int:
    try:
        await reach.published.note_agreement(Agreement(arguments.live, arguments.offline, arguments.least))
    except StoreError as exc:
        raise StartError(f"agreement: the store: {exc}") from exc
    return 0


def _run(arguments: argparse.Namespace, work: Work) -> int:
    settings = read_settings(data_dir=arguments.data_dir, signing_key=getattr(arguments, "signing_key", None))

    async def run() -> int:
        async with reach_store(settings) as store:
            return await work(arguments, _reach(settings, store))

    return asyncio.run(run())


def _reach(settings: Settings, store: Store) -> Reach:
    return Reach(settings, PublishedVersions(store, settings.namespace), experiments_of(settings, store))


async def _publish(arguments: argparse.Namespace, reach: Reach) -> int:
    started, published = time.monotonic(), reach.published
    signing_key = _signing_key(reach.settings)
    expected = _expected(arguments.if_live)
    await _try(arguments.bundle, trial_of(reach.settings))
    try:
        version = await _upload(published, arguments.bundle, signing_key)
        is_signed = signing_key is not None or (await published.table(version.version)).signature is not None
        _say(
            f"published {version.version}: {version.n_items} items, {version.bytes / 1e6:.1f} MB, "
            f"{time.monotonic() - started:.1f} s, "
            + ("signed" if signing_key else "signed before" if is_signed else "not signed")
        )
        if arguments.no_activate:
            return 0
        if arguments.kind is not None:
            return await _try_beside(arguments, reach, version.version)
        tried = await _running(reach.shelf)
        _check_undecided(tried, version.version, expected)
        live = await published.activate(version.version, expected)
        # What is tried goes on where the live version was published again.
        await _prune(published, tried.version if tried else None)
        return await announce(published, live, arguments.wait)
    except RefusedError as exc:
        raise StartError(f"uploaded, and not {'tried' if arguments.kind else 'made live'}: {exc}") from exc
    except StoreError as exc:
        raise StartError(f"publish stopped: the store: {exc}; what was live still is, run it again") from exc


async def _try_beside(arguments: argparse.Namespace, reach: Reach, version: str) -> int:
    """Set an uploaded version beside the live one. Raises RefusedError, StoreError."""
    types = reach.settings.conversion_types
    begun = await set_beside(reach.shelf, await reach.published.live(), version, arguments, types)
    await _prune(reach.published, version)
    _say(line_of(begun))
    if warning := warning_of(begun):
        _say(warning)
    return await announce_beside(reach.published, begun, arguments.wait, _say)


async def _running(shelf: ExperimentShelf) -> Experiment | None:
    """Return what is tried beside the live version. Raises StoreError."""
    found, _ = await read_experiment(shelf)
    return found if found is not None and found.is_running else None


def _check_undecided(tried: Experiment | None, version: str, expected: Expected | None) -> None:
    """Raise RefusedError where --if-live would end what is tried on users before it is decided."""
    if tried is None or tried.kind == "shadow" or expected is None:
        return
    if expected.version != tried.live or version == tried.live:
        return
    raise RefusedError(
        "error",
        f"version {tried.version} runs as {tried.kind} beside the live one, and this would end it before it is "
        "decided: first 'experiment stop' or 'experiment promote', or publish without --if-live",
    )


async def _prune(published: PublishedVersions, tried: str | None) -> None:
    for removed in await published.prune(tried):
        _say(f"removed {removed} from the store")


async def _upload(published: PublishedVersions, bundle: Path, signing_key: SigningKey | None) -> PublishedVersion:
    """Upload a bundle. Raises StartError where that is refused."""
    try:
        return await published.upload(bundle, signing_key)
    except RefusedError as exc:
        raise StartError(f"not published: {exc}") from exc


def _expected(text: str | None) -> Expected | None:
    """Return which version must be live, None where any may be. Raises StartError."""
    if text is None:
        return None
    if text != "none" and not is_version(text):
        raise StartError(f"--if-live: {text!r} is no version; 'status' lists them; none stands for no live version")
    return Expected(None if text == "none" else text)


def _signing_key(settings: Settings) -> SigningKey | None:
    """Return the key to sign with, if there is one. Raises StartError where no service would follow what it signs."""
    key = read_signing_key(settings.signing_key) if settings.signing_key else None
    if key is None and settings.requires_signature:
        raise StartError("not published: a signature is required here; give --signing-key FILE, or RETORT_SIGNING_KEY")
    if key is not None and settings.public_keys and key.public not in settings.public_keys:
        raise StartError(f"not published: RETORT_TRUSTED_KEYS lacks the key's public half, {key.public_text}")
    return key


async def _try(path: Path, try_bundle: Callable[[Path], Awaitable[None]]) -> None:
    try:
        await try_bundle(path)
    except RefusedError as exc:
        raise StartError(f"not published: {exc}") from exc


async def _activate(arguments: argparse.Namespace, reach: Reach) -> int:
    try:
        return await announce(reach.published, await reach.published.activate(arguments.version), arguments.wait)
    except RefusedError as exc:
        raise StartError(str(exc)) from exc
    except StoreError as exc:
        raise StartError(f"the store: {exc}; 'status' says what is live") from exc


async def _roll_back(arguments: argparse.Namespace, reach: Reach) -> int:
    try:
        return await announce(reach.published, await reach.published.rollback(), arguments.wait)
    except RefusedError as exc:
        raise StartError(str(exc)) from exc
    except StoreError as exc:
        raise StartError(f"the store: {exc}; 'status' says what is live") from exc


async def _show_status(arguments: argparse.Namespace, reach: Reach) -> int:
    published = reach.published
    try:
        live, versions, replicas = await published.live(), await published.listed(), await published.replicas()
        experiment, trouble = await read_experiment(reach.shelf)
    except StoreError as exc:
        raise StartError(f"the store: {exc}") from exc
    for version in versions:
        print(_line_of(version, is_live=live is not None and version.version == live.version))
    if live is None:
        print("the store names no live version: every process goes on with what it serves, a new one with its --bundle")
    if trouble:
        print(trouble)
    if experiment is not None:
        print(f"tried {line_of(experiment)}")
    for replica in replicas:
        is_about_live = live is not None and replica.at >= live.since
        note = f"  {replica.result}: {replica.message}" if is_about_live and replica.result != "ok" else ""
        note += note_of(replica, experiment)
        print(printable(f"{replica.name}  serves {replica.version}{note}"))
    print(orjson.dumps({
        "live": live and asdict(live),
        "experiment": experiment and asdict(experiment),
        "versions": [asdict(version) for version in versions],
        "replicas": [asdict(replica) for replica in replicas],
    }).decode())  # fmt: skip
    return 0


def _line_of(version: PublishedVersion, *, is_live: bool) -> str:
    mark = "live  " if is_live else "      "
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(version.published_at))
    return f"{mark}{version.version}  {version.n_items:>9} items  {version.bytes / 1e6:9.1f} MB  {when} UTC"


async def announce(published: PublishedVersions, live: Live, wait_s: float) -> int:
    """Say what is live now, and wait up to wait_s until all replicas serve it; return 1 if one does not, else 0.

    Before ANNOUNCE_S nobody knows who they are: the list may just have been emptied.
    """
    _say(f"live: {live.version}, flip {live.number}; before: {live.previous or 'none'}")
    start = time.monotonic()
    known, end = start + min(ANNOUNCE_S, wait_s), start + wait_s
    while wait_s > 0:
        replicas = await published.replicas()
        behind = [replica for replica in replicas if not _is_served(replica, live)]
        # What was said before this release became live is about another one.
        refused = [replica for replica in behind if replica.result != "ok" and replica.at >= live.since]
        for replica in refused:
            _say(f"{replica.name} goes on serving {replica.version}: {replica.result}: {replica.message}")
        if not behind and time.monotonic() >= known:
            _say(f"served by {len(replicas)} processes" if replicas else "no process follows this store now")
            return 0
        if refused or (behind and time.monotonic() > end):
            _say(f"{len(behind)} of {len(replicas)} processes do not serve it")
            return 1
        await asyncio.sleep(_LOOK_EVERY_S)
    return 0


def _is_served(replica: Replica, live: Live) -> bool:
    """Whether a process has taken up a release, or a later one. Numbers begin anew after the largest."""
    return replica.number == live.number or (replica.number > live.number and replica.at >= live.since)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
