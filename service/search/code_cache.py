"""Codes on disk: made once for a version, found again by other workers and later starts."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.search.code import Codes, open_codes

FORMAT = 5
_KEPT = 3


@dataclass(frozen=True, slots=True)
class MeasuredCodes:
    """Codes, how many of the best by them must be looked at for 10 and for 100 items, and the recall of the 100."""

    codes: Codes
    depths: tuple[int, int]
    recall: float


def read_codes(place: Path, n_items: int) -> MeasuredCodes | None:
    """Return what keep_codes() wrote, if it is there and whole."""
    try:
        plan = json.loads((place / "plan.json").read_bytes())
        few, many = plan["depths"]
        kept = MeasuredCodes(open_codes(place), (int(few), int(many)), float(plan["recall"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        shutil.rmtree(place)
        return None
    os.utime(place)
    return kept if len(kept.codes) == n_items else None


def keep_codes(made: MeasuredCodes, place: Path) -> None:
    """Write codes aside and rename; drop those of versions not used for long."""
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
    try:
        made.codes.save(aside)
        (aside / "plan.json").write_text(json.dumps({"depths": made.depths, "recall": made.recall}))
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    others = [path for path in place.parent.iterdir() if path.is_dir()]
    for old in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(old)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
