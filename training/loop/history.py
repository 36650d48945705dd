"""The refreshes of a directory, one a line of refreshes.jsonl: what was new, how it was judged, what became of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import InputError
from training.run.fault import write_whole

NAME = "refreshes.jsonl"


def read_history(directory: Path) -> list[dict[str, Any]]:
    """Return the refreshes of a directory, the oldest first. Raises InputError where the file is damaged."""
    path = directory / NAME
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as exc:
        raise InputError(f"{path}: damaged ({exc}); move it away, and refreshes are numbered on all the same") from exc


def write_history(directory: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the refreshes of a directory, the file as a whole."""
    write_whole(directory / NAME, "".join(json.dumps(row) + "\n" for row in rows))


def add_to_history(directory: Path, row: Mapping[str, Any]) -> None:
    """Add a refresh, unless one of its number is there."""
    rows = read_history(directory)
    if all(known["number"] != row["number"] for known in rows):
        write_history(directory, [*rows, row])
