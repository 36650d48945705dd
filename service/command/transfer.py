"""The commands import (many users' histories into the store) and export (the accepted events out of it).

Import may be run again, and leaves the event stream alone, so that events which training already has are not exported
to it. What an event does is decided by its type, as when it is sent to the service; one without a type enters the
history, because files of histories name none. Export writes each event once, into a file aside that is renamed when it
is whole. In a CSV, texts that a spreadsheet would run as formulas have a quote before them; JSON lines have every text
as it is.
"""

import argparse
import asyncio
import csv
import gzip
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import orjson

from service.bundle import MOST_TYPE_LENGTH, Effect, HistoryTypes, check_item_id
from service.command.types_in_use import find_types
from service.composition.storage import history_of, reach_store, stream_of
from service.errors import StartError, StoreError
from service.logs import printable
from service.settings import Settings, read_settings
from service.user.event import StoredEvent
from service.user.history import History
from service.user.position import Position, count_gone, is_anew
from service.user.stream import EventStream

COLUMNS = (
    "user_id",
    "item_id",
    "timestamp",
    "event",
    "weight",
    "recommendation_id",
    "position",
    "event_id",
    "explored",
)
MAX_BAD_SHARE = 0.01
_BATCH_EVENTS = 2000
_SHOWN_BAD = 20
_LINE_CHARACTERS = 64 << 10
_MOST_EMPTY = 1_000_000
_FORMULA = re.compile(r"'*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # the last four are wide forms
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_JUDGE_AFTER = 1000
_TIMEOUT_S = 30.0


def import_histories(arguments: argparse.Namespace) -> int:
    """Load a file of events into the histories.

    Returns the exit code, 2 if more than 1 % of the lines are bad. Raises StartError where it has to stop.
    """
    settings = read_settings(data_dir=arguments.data_dir)
    return asyncio.run(_import(arguments.file, settings))


def export_events(arguments: argparse.Namespace) -> int:
    """Write the stream of accepted events to a file: CSV or JSON lines by its name, also .gz.

    With a position, only what came after it. The last line on stdout is JSON, with the position of the last event.
    Returns the exit code. Raises StartError where it has to stop.
    """
    settings = read_settings(data_dir=arguments.data_dir)
    try:
        after = Position.parse(arguments.after) if arguments.after else Position.start()
    except ValueError as exc:
        raise StartError(f"--after: {exc}") from exc
    return asyncio.run(_export(arguments.file, settings, after))


async def _import(path: Path, settings: Settings) -> int:
    count = _Count()
    async with reach_store(settings) as store:
        await _load(path, history_of(settings, store), await find_types(settings, store), count)
    known = count.lines - count.bad - count.new - count.stream_only
    _say(
        f"imported {count.new} events; {known} were already there or too old to be kept; "
        f"{count.stream_only} enter no history; {count.bad} of {count.lines} lines are bad"
    )
    if count.is_too_bad:
        _say(f"more than {MAX_BAD_SHARE:.0%} of the lines are bad: correct the file and run it again")
        return 2
    return 0


async def _load(path: Path, history: History, types: HistoryTypes, count: "_Count") -> None:
    start = last = time.monotonic()
    for batch in _batches(path, types, count):
        try:
            count.new += await history.load(batch, _TIMEOUT_S)
        except StoreError as exc:
            raise StartError(f"import stopped at line {count.lines}: the store: {exc}; run it again") from exc
        if time.monotonic() - last > 1:
            last = time.monotonic()
            _say(f"{count.lines} lines, {count.lines / (last - start):.0f} a second")


async def _export(path: Path, settings: Settings, after: Position) -> int:
    async with reach_store(settings) as store:
        stream = stream_of(settings, store)
        try:
            before = await stream.state(_TIMEOUT_S)
            start = Position.start() if is_anew(after, before) else after
            n_events, n_read = await _write_file(path, _Span(stream, start.entry_id, before.end.entry_id))
            n_gone = count_gone(start, before.end, n_read, await stream.state(_TIMEOUT_S))
        except StoreError as exc:
            raise StartError(f"export stopped: the store: {exc}") from exc
    _say(f"exported {n_events} events to {path}")
    if start != after:
        _say(f"the stream is not the one of {after}: the store lost some of it; all that is there was exported")
    if n_gone:
        since, others = (f"after {start}", "") if start.added else ("of all", ", and none of erased users")
        kept = f"about RETORT_EVENT_STREAM_MAX{others}; export more often, or keep more"
        _say(f"up to {n_gone} events {since} are gone: the stream keeps {kept}")
    found = {"events": n_events, "position": str(before.end), "gone": n_gone, "anew": start != after}
    print(orjson.dumps(found).decode())
    return 0


@dataclass(frozen=True, slots=True)
class _Span:
    """The entries of a stream after one id, up to another."""

    stream: EventStream
    after: bytes
    last: bytes


async def _write_file(path: Path, span: _Span) -> tuple[int, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
        part = Path(aside) / path.name
        with _open_text(part, "wt") as file:
            counts = await _write_events(span, _writer(path, file))
        part.replace(path)
    return counts


async def _write_events(span: _Span, write: Callable[[dict[str, Any]], Any]) -> tuple[int, int]:
    """Write each event of a span once; return how many there were, and how many entries were read."""
    seen: set[tuple[str, str | None, bytes]] = set()
    n_read = 0
    async for page in span.stream.pages_after(span.after, _TIMEOUT_S, span.last):
        n_read += len(page)
        for _, event in page:
            key, fields = _read_entry(event)
            if key is not None and key not in seen:  # in a Cluster an event can stand in the stream twice
                seen.add(key)
                write(fields)
    return len(seen), n_read


def _read_entry(entry: bytes) -> tuple[tuple[str, str | None, bytes] | None, dict[str, Any]]:
    """Return what makes an event of the stream the same as another, and its columns; None where it is no event."""
    fields = _loads(entry.decode(errors="replace"))
    try:
        event = {name: fields[name] for name in COLUMNS if name in fields}  # type: ignore[index,operator]
        key = (event["user_id"], _type_of(event), _as_event(event).member)
    except (KeyError, TypeError, ValueError):
        return None, {}
    weight = event.get("weight", 1)  # no value said: it happened once
    return key if type(weight) in (int, float) else None, {"weight": weight, **event}


class _Count:
    """How many lines of a file were read, and what became of them.

    stream_only: events that enter no history, hide nothing and undo nothing.
    """

    def __init__(self) -> None:
        self.lines = self.bad = self.new = self.stream_only = 0

    @property
    def is_too_bad(self) -> bool:
        return self.bad > MAX_BAD_SHARE * self.lines

    def refuse(self, path: Path, number: int, text: str) -> None:
        self.bad += 1
        if self.bad <= _SHOWN_BAD:
            _say(f"{path}:{number}: {text}")


def _batches(path: Path, types: HistoryTypes, count: _Count) -> Iterator[list[list[StoredEvent]]]:
    """Yield groups of events, each group of one user, a few thousand events at a time."""
    groups: dict[str, list[StoredEvent]] = {}
    n_events = 0
    for event in _read_events(path, types, count):
        if event.effect is Effect.STREAM:
            count.stream_only += 1
            continue
        groups.setdefault(event.user_id, []).append(event)
        n_events += 1
        if n_events >= _BATCH_EVENTS:
            yield list(groups.values())
            groups, n_events = {}, 0
    if groups:
        yield list(groups.values())


def _read_events(path: Path, types: HistoryTypes, count: _Count) -> Iterator[StoredEvent]:
    for number, fields in _read_rows(path):
        count.lines += 1
        try:
            if isinstance(fields, Exception):
                raise fields
            event, type_ = _as_event(fields), _type_of(fields)
            yield replace(event, type=type_, effect=types.effect(type_)) if type_ is not None else event
        except (KeyError, TypeError, ValueError) as exc:
            missing = f"no {exc.args[0]}" if isinstance(exc, KeyError) else str(exc)
            count.refuse(path, number, missing)
        if count.lines >= _JUDGE_AFTER and count.is_too_bad:
            raise StartError(f"{path}: more than {MAX_BAD_SHARE:.0%} of the first {count.lines} lines are bad")


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    try:
        with _open_text(path, "rt") as file:
            if _is_csv(path):
                yield from _read_table(path, _Lines(path, file))
            else:
                yield from _read_objects(_Lines(path, file))
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as exc:
        raise StartError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc


class _Lines:
    """The lines of a file, of which neither one nor a row may be so long that it fills the memory.

    Where far more lines are empty than not, the file is none of events: a small one could keep a command busy for ever.
    """

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path, self._file = path, file
        self._number, self._n_in_row, self._n_empty = 0, 0, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_LINE_CHARACTERS + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self._n_empty += 1 if line.isspace() else -1
        if self._n_empty > _MOST_EMPTY:
            raise StartError(f"{self._path}:{self._number}: {_MOST_EMPTY:,} more lines are empty than not: no events")
        self._n_in_row += len(line)
        if self._n_in_row > _LINE_CHARACTERS:
            raise StartError(f"{self._path}:{self._number}: a line or row of more than {_LINE_CHARACTERS:,} characters")
        return line

    def end_row(self) -> None:
        """Note that what comes next belongs to another row."""
        self._n_in_row = 0


def _read_objects(lines: _Lines) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """Yield the objects of a file of JSON lines, each with its line's number."""
    for number, line in enumerate(lines, start=1):
        lines.end_row()
        if line.strip():
            yield number, _loads(line)


def _read_table(path: Path, lines: _Lines) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """Yield the rows of a CSV, each with the number of its last line."""
    reader = csv.DictReader(lines)
    try:
        for row in reader:
            lines.end_row()
            yield reader.line_num, row
    except csv.Error as exc:
        raise StartError(f"{path}:{reader.line_num + 1}: {exc}") from exc


def _loads(line: str) -> dict[str, Any] | Exception:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        return ValueError(f"not JSON: {exc.msg}")
    return fields if isinstance(fields, dict) else ValueError("not a JSON object")


def _as_event(fields: dict[str, Any]) -> StoredEvent:
    """Return the event that a line's fields describe. Raises KeyError, TypeError or ValueError if it is none."""
    user_id, item_id, event_id = fields["user_id"], fields["item_id"], fields.get("event_id") or None
    if not all(isinstance(value, str) for value in (user_id, item_id, event_id or "")):
        raise TypeError("ids must be text")
    seconds = float(fields["timestamp"])
    if not 0 <= seconds < 1e11:
        raise ValueError(f"timestamp {seconds:.0f}: Unix seconds; are these milliseconds?")
    for value in (user_id, item_id, event_id or "-"):
        check_item_id(value)
    return StoredEvent(user_id, item_id, round(seconds * 1000), event_id)


def _type_of(fields: Mapping[str, Any]) -> str | None:
    """Return the type of the event that a line's fields describe. Raises TypeError or ValueError."""
    if (type_ := fields.get("event") or None) is None:
        return None
    if not isinstance(type_, str):
        raise TypeError("event must be text")
    check_item_id(type_)
    if len(type_) > MOST_TYPE_LENGTH:
        raise ValueError(f"event has more than {MOST_TYPE_LENGTH} characters")
    return type_


def _writer(path: Path, file: IO[str]) -> Callable[[dict[str, Any]], Any]:
    if not _is_csv(path):
        return lambda fields: file.write(orjson.dumps(fields).decode() + "\n")
    table = csv.DictWriter(file, COLUMNS, restval="")
    table.writeheader()
    return lambda fields: table.writerow({name: _as_cell(fields[name]) for name in fields})


def _as_cell(value: Any) -> Any:
    """Return a value for a table: of a text that a spreadsheet would take for a formula, a quote makes a text."""
    is_formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def _is_csv(path: Path) -> bool:
    suffix = [part for part in path.suffixes if part != ".gz"][-1:]
    if suffix not in ([".csv"], [".jsonl"], [".ndjson"], [".json"]):
        raise StartError(f"{path}: the name must end in .jsonl or .csv, also with .gz")
    return suffix == [".csv"]


def _open_text(path: Path, mode: str) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8", newline="")  # type: ignore[return-value]
    return path.open(mode, encoding="utf-8", newline="")


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
