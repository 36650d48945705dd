"""The commands that say which version is served: publish, activate, rollback, status. Each returns its exit code."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

import orjson

from service.errors import RefusedError, StartError, StoreError
from service.release.published import Live, Releases

_LOOK_EVERY_S = 0.2


async def publish(
    releases: Releases,
    path: Path,
    try_bundle: Callable[[Path], Awaitable[None]],
    *,
    is_to_activate: bool,
    wait_s: float,
) -> int:
    """Try a bundle, upload it, and make it live. try_bundle: raises RefusedError."""
    started = time.monotonic()
    try:
        await try_bundle(path)
    except RefusedError as exc:
        raise StartError(f"not published: {exc}") from exc
    try:
        published = await releases.upload(path)
        _say(
            f"published {published.version}: {published.n_items} items, {published.bytes / 1e6:.1f} MB, "
            f"{time.monotonic() - started:.1f} s"
        )
        if not is_to_activate:
            return 0
        live = await releases.activate(published.version)
        for version in await releases.prune():
            _say(f"removed {version} from the store")
        return await _announce(releases, live, wait_s)
    except StoreError as exc:
        raise StartError(f"publish stopped: the store: {exc.kind}; what was live still is, run it again") from exc


async def activate(releases: Releases, version: str, *, wait_s: float) -> int:
    """Make a published version live."""
    try:
        return await _announce(releases, await releases.activate(version), wait_s)
    except (RefusedError, StoreError) as exc:
        raise StartError(str(exc)) from exc


async def rollback(releases: Releases, *, wait_s: float) -> int:
    """Make the version before the live one live again."""
    try:
        return await _announce(releases, await releases.rollback(), wait_s)
    except (RefusedError, StoreError) as exc:
        raise StartError(str(exc)) from exc


async def show_status(releases: Releases) -> int:
    """Print what is in the store, what is live, and who serves what; JSON on the last line."""
    try:
        live, versions, replicas = await releases.live(), await releases.versions(), await releases.replicas()
    except StoreError as exc:
        raise StartError(f"the store: {exc.kind}") from exc
    for published in versions:
        mark = "live  " if live and published.version == live.version else "      "
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(published.published_at))
        print(f"{mark}{published.version}  {published.n_items:>9} items  {published.bytes / 1e6:9.1f} MB  {when} UTC")
    if live is None:
        print("no version is live: every service serves its --bundle")
    for replica in replicas:
        note = "" if replica.result == "ok" else f"  {replica.result}: {replica.message}"
        print(f"{replica.name}  serves {replica.version}{note}")
    print(orjson.dumps({
        "live": live and asdict(live),
        "versions": [asdict(published) for published in versions],
        "replicas": [asdict(replica) for replica in replicas],
    }).decode())  # fmt: skip
    return 0


async def _announce(releases: Releases, live: Live, wait_s: float) -> int:
    """Say what is live now, and wait for the replicas if asked to: exit code 1 if one does not follow in time."""
    _say(f"live: {live.version}, flip {live.number}; before: {live.previous or 'none'}")
    end = time.monotonic() + wait_s
    while wait_s > 0:
        replicas = await releases.replicas()
        behind = [replica for replica in replicas if replica.number < live.number]
        refused = [replica for replica in behind if replica.result != "ok"]
        for replica in refused:
            _say(f"{replica.name} goes on serving {replica.version}: {replica.result}: {replica.message}")
        if not behind:
            _say(f"served by {len(replicas)} processes")
            return 0
        if refused or time.monotonic() > end:
            _say(f"{len(behind)} of {len(replicas)} processes do not serve it")
            return 1
        await asyncio.sleep(_LOOK_EVERY_S)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
