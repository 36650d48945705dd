"""Brings a version from the store to a generation that is ready to answer, while others answer.

Loading runs in a thread, with the collector of cyclic garbage off and with short turns of the interpreter, so that the
event loop waits for one turn and never for the whole load.
"""

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from service.errors import RefusedError, StartError, StoreError
from service.logs import Log
from service.release.fetched import FetchedBundles
from service.release.generation import Generation
from service.release.record import Live

_TURN_S = 0.0005
_NICE = 10
_HELD_EVERY_S = 0.05
Load = Callable[[Path, int], Generation]


class VersionLoader:
    """Fetches, tries and loads versions, one at a time."""

    def __init__(self, fetched: FetchedBundles, load: Load, log: Log) -> None:
        """load: makes a warm generation of a bundle's directory and a release's number, or raises StartError.

        It runs in a thread.
        """
        self._fetched, self._load, self._log = fetched, load, log
        self._thread = ThreadPoolExecutor(1, "loader", _step_back)  # of its own: nobody gets a priority back

    def load_own(self, path: Path, number: int) -> Generation:
        """Load a bundle that is at hand, in this thread. Raises StartError."""
        return self._load(path, number)

    async def obtain(self, live: Live) -> Generation:
        """Return a version's generation. Raises RefusedError where it must not be served."""
        started = time.monotonic()
        try:
            path = await self._fetched.bring(live)
            tried = time.monotonic()
            generation = await asyncio.get_running_loop().run_in_executor(self._thread, self._load_gently, path, live)
        except StoreError as exc:
            raise RefusedError("error", f"version {live.version}: the store: {exc}") from exc
        except RefusedError:
            raise
        except Exception as exc:  # a border: whatever the store holds, it is tried again
            raise RefusedError("error", f"version {live.version}: following raised {type(exc).__name__}") from exc
        self._log.write(
            "info", "model_loaded", model_version=live.version, number=live.number,
            fetched_s=round(tried - started, 3), loaded_s=round(time.monotonic() - tried, 3),
        )  # fmt: skip
        return generation

    def keep(self, version: str | None) -> None:
        """Keep the bundle of a version on this machine, beside those of the live one and the one before."""
        self._fetched.beside = version

    def has(self, version: str) -> bool:
        """Whether the bundle of a version is on this machine and may be served."""
        return self._fetched.is_kept(version)

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False)

    def _load_gently(self, path: Path, live: Live) -> Generation:
        with _short_turns():
            try:
                return self._load(path, live.number)
            except Exception as exc:  # a border: it has passed its trial, so the fault is this machine's; follow on
                self._fetched.discard(live.version)
                text = str(exc) if isinstance(exc, StartError) else f"loading raised {type(exc).__name__}"
                raise RefusedError("error", f"version {live.version} passed its trial, and then: {text}") from exc


async def retire(generation: Generation | None) -> None:
    """Let a generation that answers nobody any more finish its requests; then free its memory in steps."""
    if generation is None:
        return
    while generation.n_held:
        await asyncio.sleep(_HELD_EVERY_S)
    await generation.recommender.close()
    for _ in generation.catalogue.dissolve():
        await asyncio.sleep(0)


def _step_back() -> None:
    """Give this thread a lower priority than that of the event loop: on Linux each thread has its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


@contextmanager
def _short_turns() -> Iterator[None]:
    """While this thread works: give up the interpreter soon, and do not collect garbage from the whole heap."""
    turn_s = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        sys.setswitchinterval(turn_s)
