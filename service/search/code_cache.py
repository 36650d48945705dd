"""Codes on disk. They are made once for a version of a bundle; other workers and later starts find them there.

The directory belongs to the service: a bundle is never written to. Codes of versions that were not used for long are
deleted.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.bundle import Manifest
from service.search.code import faiss_version, open_codes
from service.search.measured_code import MeasuredCodes

_FORMAT = 6
_MEASURED = "plan.json"
_KEPT = 3


def read_or_make_codes(directory: Path, manifest: Manifest, make: Callable[[], MeasuredCodes]) -> MeasuredCodes:
    """Return the codes of a bundle, from directory if they are there; else make them and keep them there.

    One process does so at a time, and the others wait for it. Raises OSError if directory cannot be read or written,
    and what make() raises.
    """
    with _locked(directory):
        place = directory / f"{manifest.version}-{_FORMAT}-{faiss_version()}"
        if (kept := _read(place, manifest.n_items)) is not None:
            return kept
        made = make()
        _keep(made, place)
        return made


def _read(place: Path, n_items: int) -> MeasuredCodes | None:
    """Return what _keep() wrote, or None if it is not there; what is damaged is deleted."""
    try:
        fields = json.loads((place / _MEASURED).read_bytes())
        few, many = fields["depths"]
        kept = MeasuredCodes(open_codes(place), (int(few), int(many)), float(fields["recall"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        shutil.rmtree(place)
        return None
    os.utime(place)
    return kept if len(kept.codes) == n_items else None


def _keep(made: MeasuredCodes, place: Path) -> None:
    """Write codes beside place and rename them, then delete all but the versions used last."""
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
    try:
        made.codes.save(aside)
        (aside / _MEASURED).write_text(json.dumps({"depths": made.depths, "recall": made.recall}))
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    others = [path for path in place.parent.iterdir() if path.is_dir()]
    for old in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(old)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Make directory if need be, and hold its lock."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
