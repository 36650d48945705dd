"""Run a stage, or skip it where its output was made from the same settings and inputs.

What a stage was made from is hashed into a key, which is stored with its output. A stage works in a directory of its
own, which gets its final name when the stage is complete: an output is there as a whole or not at all. A stage that was
stopped leaves its working directory; the next run with the same key goes on in it, one with another key starts anew.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from training import ranks
from training.errors import InputError
from training.machine import forget_peak, peak_bytes, return_freed_memory
from training.progress import Progress

LONG_S = 5.0  # of a stage that took longer it is said what it took
KEY = "stage.json"
MEANINGS = {
    "prepared": "the events are read, ordered, and split into those to learn from and those to test with",
    "text": "the items' texts become numbers, for a teacher that reads them",
    "trend": "how fast the popularity of items fades",
    "teacher": "a teacher: a large model that reads histories in their order",
    "linear": "a teacher: a linear model of which items are taken together",
    "text_teacher": "a teacher: a large model that also reads the items' texts",
    "twin": "a teacher: the small model itself, trained without one",
    "mix": "how much each teacher counts",
    "neighbours": "which items follow which",
    "soft_labels": "what the large model expects after each event, for the student to learn from",
    "student": "the small model that will be served learns from the teachers",
    "compressed": "the small model is made smaller, and what that costs is measured",
    "similar": "which items go with which, for lists beside an item",
    "item_encoder": "a small network that places new items by their titles and attributes",
    "newcomers": "how well items are recommended that the model was not trained on",
    "baselines": "simple methods, to compare with",
}
"""What the stages of a run do, for whoever watches one for the first time."""
REVISION = 10  # to be raised when a change of the code changes what a stage makes from the same inputs
WEIGHED_REVISION = 1  # the same, where that is so only with weights of events: other runs keep what they have


def make_key(name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the key of a stage, in hex, from its name, its settings and the keys or fingerprints of its inputs."""
    about = {"stage": name, "revision": REVISION, "settings": settings, "inputs": inputs}
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def read_key(out: Path) -> str | None:
    """Return the key that a finished stage was made with; None where it is not finished."""
    try:
        return json.loads((out / KEY).read_text())["key"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None


def run_stage(out: Path, key: str, work: Callable[[Path], None], progress: Progress, *, together: bool = False) -> bool:
    """Run work(directory) unless out was made with the same key. Return whether it ran.

    An InputError of the work is passed on, and its directory is removed. together: of several processes all do the
    work, which then leaves the writing to the first; otherwise that one does it and the others wait.
    """
    aside = out.with_name(f".{out.name}.work")
    if not ranks.alone(lambda: _begin(out, aside, key, progress)):
        return False
    started = monotonic()
    return_freed_memory()
    forget_peak()
    try:
        if together:
            work(aside)
        else:
            ranks.alone(lambda: work(aside))
    except InputError:
        if ranks.is_first():
            shutil.rmtree(aside, ignore_errors=True)
        raise
    ranks.alone(lambda: _finish(out, aside, key))
    _say_cost(out.name, monotonic() - started, progress)
    return True


def _begin(out: Path, aside: Path, key: str, progress: Progress) -> bool:
    """Make the directory of the work, or leave it as it is where the work goes on. Return whether there is any."""
    if read_key(out) == key:
        progress.skipped(out)
        return False
    resumes = read_key(aside) == key
    if not resumes:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _write_key(aside, key)
    progress.stage(out.name, "resumed" if resumes else "started")
    if out.name in MEANINGS:
        progress.note(MEANINGS[out.name])
    return True


def _finish(out: Path, aside: Path, key: str) -> None:
    """Give the directory of finished work its final name."""
    _write_key(aside, key)
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)


def _say_cost(name: str, seconds: float, progress: Progress) -> None:
    if seconds >= LONG_S:
        peak = peak_bytes()
        memory = "" if peak is None else f", {peak / 1e9:.1f} GB of memory at most"
        progress.stage(name, f"done in {seconds:,.0f} s{memory}")


def keep_or_clear(out: Path, key: str) -> None:
    """Make a directory whose files are kept from run to run, and empty it where they were made with another key."""
    if read_key(out) != key:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        _write_key(out, key)


def _write_key(directory: Path, key: str) -> None:
    (directory / KEY).write_text(json.dumps({"key": key}) + "\n")


def file_fingerprint(path: Path) -> str:
    """Return the sha256 of a file in hex. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}; give the path of a file") from exc
