"""The events that were taken from the store, in numbered files; the name of the last one is the position in the stream.

    000001.1764405000000-3@1234.jsonl.gz

A file gets its name when it is whole, and with the name the position moves on. So there is no moment at which events
are there without their position, or a position without its events: what is taken is taken once, whenever it is stopped.
"""

import gzip
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from training.errors import InputError
from training.loop.service_command import Exported, ServiceCommand

_NAME = re.compile(r"(\d{6})\.(\d+-\d+@\d+)\.jsonl\.gz")


@dataclass(frozen=True)
class EventFile:
    """Some events. position: where in the stream the file ends."""

    number: int
    position: str
    path: Path


def read_event_files(directory: Path) -> list[EventFile]:
    """Return the files of events, the oldest first."""
    found = [(_NAME.fullmatch(path.name), path) for path in directory.glob("*.jsonl.gz")]
    return sorted(
        (EventFile(int(match[1]), match[2], path) for match, path in found if match), key=lambda each: each.number
    )


def events_of(file: EventFile) -> Iterator[dict[str, Any]]:
    """Yield the events of a file. Raises InputError where it is damaged, with the way out."""
    try:
        if not file.path.stat().st_size:
            raise EOFError("it is empty")  # which would be read as no event
        with gzip.open(file.path, "rb") as lines:
            for line in lines:
                event: dict[str, Any] = orjson.loads(line)
                yield event
    except (gzip.BadGzipFile, EOFError, zlib.error, orjson.JSONDecodeError) as exc:
        raise InputError(
            f"{file.path}: damaged ({exc}); remove it, and those of a higher number: what the stream still has of them "
            "is taken again"
        ) from exc


def take_events(directory: Path, service: ServiceCommand) -> Exported:
    """Take what came since the last file into a new one; none is written where nothing came. Raises InputError."""
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(".taking*"):
        left.unlink()  # by a process that was stopped; the lock says that it is gone
    for left in directory.glob("..taking*"):
        shutil.rmtree(left)  # of an export that was stopped with it
    known = read_event_files(directory)
    aside = directory / f".taking.{os.getpid()}.jsonl.gz"
    taken = service.export(aside, known[-1].position if known else None)
    if taken.events:
        with aside.open("rb") as file:
            os.fsync(file.fileno())  # a power cut must not leave the position without the events
        number = known[-1].number + 1 if known else 1
        aside.rename(directory / f"{number:06d}.{taken.position}.jsonl.gz")
    else:
        aside.unlink()
    return taken
