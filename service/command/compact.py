"""The command compact: the embedded server's file is rewritten at once, without what was erased, trimmed or expired.

The service has it rewritten by itself every RETORT_COMPACT_HOURS. A server of your own is left alone: whoever runs it
rewrites its files.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from service.composition.storage import reach_store
from service.errors import StartError, StoreError
from service.settings import read_settings
from service.store.client import Store
from service.store.reply import read_info
from service.store.server import AOF_DIR

_CALL_S = 5.0
_LOOK_EVERY_S = 0.05
_PATIENCE_S = 600.0


def compact(arguments: argparse.Namespace) -> int:
    """Rewrite the append-only file of the embedded server; return the exit code. Raises StartError if it cannot."""
    settings = read_settings(data_dir=arguments.data_dir)
    if settings.redis_url is not None:
        raise StartError(
            "RETORT_REDIS_URL is set: that server's files are rewritten there, by BGREWRITEAOF or BGSAVE on each node"
        )

    async def run() -> tuple[int, int]:
        async with reach_store(settings) as store:
            before = _size(settings.data_dir)
            await _rewrite(store, settings.data_dir / AOF_DIR)
            return before, _size(settings.data_dir)

    try:
        before, after = asyncio.run(run())
    except StoreError as exc:
        raise StartError(f"not rewritten: the store: {exc}") from exc
    print(f"rewritten: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now", file=sys.stderr)
    return 0


async def _rewrite(store: Store, directory: Path) -> None:
    """Let a rewrite begin after now, and wait until it is over and the files of before are gone."""
    end = time.monotonic() + _PATIENCE_S
    await _wait_until_idle(store, end)
    await store.call_one("user", ("BGREWRITEAOF",), _CALL_S)
    info = await _wait_until_idle(store, end)
    if info.get("aof_last_bgrewrite_status") != "ok":
        raise StartError("not rewritten: the server could not; is the disk full? see server.log in the data directory")
    while len(list(directory.glob("*.base.*"))) > 1 or len(list(directory.glob("*.incr.*"))) > 1:
        await _pause(end)


async def _wait_until_idle(store: Store, end: float) -> dict[str, str]:
    """Wait until no rewrite runs or is due; return what the server says of its files then."""
    while True:
        info = read_info(await store.call_one("user", ("INFO", "persistence"), _CALL_S))
        if not any(info.get(f"aof_rewrite_{state}") == "1" for state in ("in_progress", "scheduled")):
            return info
        await _pause(end)


async def _pause(end: float) -> None:
    if time.monotonic() > end:
        raise StartError(f"not rewritten within {_PATIENCE_S:.0f} s; the server goes on with it")
    await asyncio.sleep(_LOOK_EVERY_S)


def _size(data_dir: Path) -> int:
    return sum(path.stat().st_size for path in (data_dir / AOF_DIR).glob("*.*") if path.exists())
