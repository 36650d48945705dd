"""Refresh once, or again and again: what a duration is, and what happens to a refresh that fails among others."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from service.bundle import BundleError, read_manifest
from training.errors import InputError, TrainingError
from training.loop.refresh import Refresher
from training.run.fault import machine_fault
from training.stage import read_key

_LONGEST_S = 366 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> int:
    """Return the seconds of a text such as 30m, 6h or 1d. Raises InputError."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if found is None or not int(found[1]):
        raise InputError(f"--every {text!r}: write a number and s, m, h or d, for example --every 6h")
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > _LONGEST_S:
        raise InputError(f"--every {text!r}: at most 366d")
    return seconds


def check_finished(out: Path) -> None:
    """Raise InputError unless a directory is that of a finished run, whose bundle can be read."""
    try:
        read_manifest(out / "bundle")
    except BundleError as exc:
        is_there = out.is_dir() and any(out.iterdir())
        what = f"no finished run ({exc})" if is_there else "no run there"
        raise InputError(
            f"{out}: {what}; a refresh goes on from one: python -m training run --interactions FILE --out {out}"
        ) from exc
    if read_key(out / "prepared") is None or not (out / "config.toml").exists():
        raise InputError(f"{out}: prepared/ or config.toml is missing, from which a refresh goes on; run it again")


def refresh_every(refresher: Refresher, every_s: int | None, say: Callable[[str], None]) -> None:
    """Refresh and say what became of it; with a duration again and again, where an error waits for the next time.

    Raises TrainingError, without a duration.
    """
    while True:
        began = time.monotonic()
        try:
            say(refresher.refresh())
        except TrainingError as error:
            if every_s is None:
                raise
            say(f"error: {error}; tried again in time")
        except Exception as error:  # a border: a full disk may have room the next time, and a bug ends the process
            fault = machine_fault(error)
            if every_s is None or fault is None:
                raise
            say(f"error: {fault}; tried again in time")
        if every_s is None:
            return
        time.sleep(max(0.0, began + every_s - time.monotonic()))
