"""Gather the rows of a table of interactions as numbers, chunk by chunk.

An id becomes a code, the place at which it was met first; what an id means is decided later, over the distinct ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.data.settling import Tally, tally_times
from training.data.timestamp import Bounds, find_clock, join_clock, read_times, say_form
from training.errors import InputError
from training.file.account import EXAMPLES, Account, Form, Row
from training.file.choice import CLOCK, Choice, propose
from training.file.delimited import LINE
from training.file.identifier import as_id, as_text, is_missing
from training.file.moment import UNREAD, is_plausible
from training.file.source import Source
from training.file.table import Chunk, read_chunks, read_part

WANTED = ("user_id", "item_id", "timestamp", "weight", "event")


class Wishes(Protocol):
    """What is asked of a table of interactions."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Our names and the file's, where they differ."""
        ...

    @property
    def events(self) -> Any:
        """The wanted values of the event column."""
        ...

    @property
    def event_weights(self) -> Mapping[str, float]:
        """The weights of its values."""
        ...

    @property
    def event_effects(self) -> Mapping[str, str]:
        """What else its values do."""
        ...

    @property
    def weights(self) -> str:
        """What the weight column is for."""
        ...

    @property
    def times(self) -> Bounds:
        """How times are read."""
        ...

    @property
    def form(self) -> Form:
        """How the table is read."""
        ...


_COMMA = r"^([+-]?[0-9]+),([0-9]{1,2}|[0-9]{4,})$"  # 3,5; three digits may as well be thousands
_ROUNDED = r"^[0-9]([.,][0-9]{1,6})?[eE]\+?[0-9]+$"


class Coder:
    """Numbers texts in the order in which they are met."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def encode(self, texts: pl.Series) -> NDArray[np.int32]:
        """Return the code of each text [n_rows], -1 for null."""
        distinct = texts.drop_nulls().unique(maintain_order=True)
        if not len(distinct):
            return np.full(len(texts), -1, dtype=np.int32)
        codes = [self.codes.setdefault(text, len(self.codes)) for text in distinct.to_list()]
        numbers = pl.Series(codes, dtype=pl.Int32)
        return texts.replace_strict(distinct, numbers, default=None, return_dtype=pl.Int32).fill_null(-1).to_numpy()

    def distinct(self) -> pl.Series:
        """Return the texts by their code."""
        return pl.Series(list(self.codes), dtype=pl.String)


@dataclass(eq=False)
class Gathered:
    """Rows that have the right number of fields, as arrays [n_rows]: those of a table, or of a shard of its users."""

    line: NDArray[np.uint32]
    user: NDArray[np.int32]  # codes
    item: NDArray[np.int32]
    event: NDArray[np.int32]
    bad: NDArray[np.bool_]  # time or weight is unreadable
    micro: NDArray[np.int64] | None = None  # None where the table has no times
    forms: NDArray[np.uint8] | None = None
    weight: NDArray[np.float64] | None = None  # nan where a row has none; None where the table has no such column
    position: NDArray[np.int64] | None = None  # in the table; None: these are all its rows in their order

    @property
    def places(self) -> NDArray[np.int64]:
        """The position of each row in the table."""
        return np.arange(len(self.line), dtype=np.int64) if self.position is None else self.position


@dataclass
class Overview:
    """What is told of the rows of a table, wherever they are kept."""

    events: Coder = field(default_factory=Coder)
    rows: list[Row] = field(default_factory=list)  # of each chunk
    starts: list[int] = field(default_factory=list)  # of each chunk, in rows
    has_times: bool = True
    tally: Tally = field(default_factory=Tally)
    n: int = 0

    @property
    def event_codes(self) -> Mapping[str, int]:
        """The code of each value of the event column."""
        return self.events.codes

    def at(self, position: int, line: int) -> Row:
        """Return where a row stands in its file. position: in the table."""
        chunk = self.rows[int(np.searchsorted(self.starts, position, side="right")) - 1]
        return Row(chunk.part, line, chunk.label, chunk.of)


@dataclass
class Gathering(Overview, ABC):
    """The rows of a table while they are read: where they are kept is for those who inherit."""

    users: Coder = field(default_factory=Coder)
    items: Coder = field(default_factory=Coder)

    def add(self, row: Row, arrays: Mapping[str, Any]) -> None:
        """Take a chunk: the arrays of Gathered by name."""
        self.rows.append(row)
        self.starts.append(self.n)
        if "micro" in arrays:
            self.tally += tally_times(arrays["micro"], arrays["forms"])
        self.keep(arrays)
        self.n += len(arrays["user"])

    @abstractmethod
    def keep(self, arrays: Mapping[str, Any]) -> None:
        """Put the arrays of a chunk where they are kept."""


@dataclass
class InMemory(Gathering):
    """Rows that are kept in memory."""

    chunks: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, arrays: Mapping[str, Any]) -> None:
        """Put the arrays of a chunk beside the others."""
        self.chunks.append(dict(arrays))

    def whole(self, account: Account) -> Gathered:
        """Return all rows, once."""
        found = {name: _joined(self.chunks, name, dtype) for name, dtype in KINDS.items()}
        has = {"weight": "weight" in account.columns, "micro": self.has_times, "forms": self.has_times}
        return Gathered(**{name: array for name, array in found.items() if has.get(name, True)})


KINDS: Mapping[str, Any] = {
    "line": np.uint32, "user": np.int32, "item": np.int32, "event": np.int32, "bad": np.bool_, "micro": np.int64,
    "forms": np.uint8, "weight": np.float64,
}  # fmt: skip
"""The arrays of a chunk and their types."""


def _joined(chunks: list[dict[str, Any]], name: str, dtype: Any) -> Any:
    """Join an array of all chunks, and forget the parts."""
    parts = [chunk.pop(name) for chunk in chunks if name in chunk]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def gather(source: Source, wishes: Wishes, account: Account, rows: Gathering) -> None:
    """Read all rows of a table; one whose time or weight cannot be read is malformed. Raises InputError.

    rows: takes them, and what is told of them.
    """
    choice = _choice(wishes)
    _add_chunks(read_chunks(source, choice, wishes.form, account), source, wishes, account, rows)


def gather_part(source: Source, number: int, wishes: Wishes, account: Account, rows: Gathering) -> None:
    """Read the rows of one part by itself, as gather() does those of a table. Raises InputError."""
    chunks = read_part(source, number, _choice(wishes), wishes.form, account)
    _add_chunks(chunks, source, wishes, account, rows)


def _add_chunks(chunks: Iterator[Chunk], source: Source, wishes: Wishes, account: Account, rows: Gathering) -> None:
    by_order = wishes.times.rule == "order"
    for chunk in chunks:
        if not rows.n and not by_order and "timestamp" not in account.columns:
            _check_no_times(source, _choice(wishes), account)
        if "timestamp" not in account.columns or by_order:
            rows.has_times = False
        rows.add(chunk.row, _arrays(chunk, rows, account))
    if not rows.n:
        rows.has_times = False


def _choice(wishes: Wishes) -> Choice:
    required = ["user_id", "item_id"]
    if wishes.events or wishes.event_weights or wishes.event_effects:
        required.append("event")
    optional = ["timestamp", "event"] if wishes.weights == "ignore" else ["timestamp", "weight", "event"]
    if wishes.times.rule == "order":
        optional.remove("timestamp")
    mapped = {ours: theirs for ours, theirs in wishes.columns.items() if ours in (*required, *optional)}
    day, _, clock = mapped.get("timestamp", "").partition("+")
    if day and clock:
        mapped |= {"timestamp": day, CLOCK: clock}
        optional.append(CLOCK)
    return Choice(mapped, required, [name for name in optional if name not in required])


def _check_no_times(source: Source, choice: Choice, account: Account) -> None:
    """Raise InputError where a column that was not named looks like times, or should be one by its name."""
    looks = [
        name
        for name, values in account.sample.items()
        if values and all(is_plausible(value) or say_form(value) for value in values[:200])
    ]
    found = propose("timestamp", looks) or next(iter(looks), None) or propose("timestamp", account.unused)
    if found is not None:
        clock = find_clock(account)
        found = f"{found}+{clock}" if clock else found
        present = [*account.columns.values(), *account.unused]
        missing = choice.refusal(source.label, "timestamp", "timestamp", present, found)
        raise InputError(f"{missing}; or take the order of the rows as the time: --set prepare.times=order")


def _arrays(chunk: Chunk, rows: Gathering, account: Account) -> dict[str, Any]:
    """Return the arrays of a chunk, by the names of Gathered."""
    frame, label = chunk.frame, chunk.row.label
    n, lines = frame.height, frame[LINE]
    found: dict[str, Any] = {
        "line": lines.cast(pl.UInt32).to_numpy(),
        "user": rows.users.encode(as_id(_column(frame, "user_id"), label)),
        "item": rows.items.encode(as_id(_column(frame, "item_id"), label)),
        "event": np.full(n, -1, dtype=np.int32),
        "weight": np.full(n, np.nan),
        "bad": np.zeros(n, dtype=bool),
    }
    if rows.has_times:
        times = _column(frame, "timestamp")
        if CLOCK in frame.columns:
            times = join_clock(times, frame[CLOCK], label)
        _note_rounded(chunk, account, times)
        found["micro"], found["forms"] = read_times(times, label)
        found["bad"] = found["forms"] == UNREAD
        _note(chunk, account, "unreadable timestamp", times, found["bad"])
    if "weight" in frame.columns:
        weights = frame["weight"]
        found["weight"], unreadable = _parse_weights(weights, label)
        _note(chunk, account, "unreadable weight", weights, unreadable & ~found["bad"])
        found["bad"] = found["bad"] | unreadable
    if "event" in frame.columns:
        found["event"] = rows.events.encode(as_text(frame["event"], label))
    return found


def _note_rounded(chunk: Chunk, account: Account, times: pl.Series) -> None:
    """Count times such as 1.60028E+09, which a spreadsheet has rounded to hours."""
    if times.dtype == pl.String:
        rounded = times.str.contains(_ROUNDED).fill_null(False)
        if count := int(rounded.sum()):
            account.note("timestamps_rounded", chunk.at(chunk.frame[LINE].filter(rounded)[0]), count)


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    return frame[name] if name in frame.columns else pl.Series(name, [None] * frame.height, dtype=pl.String)


def _parse_weights(values: pl.Series, label: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the weights, nan where there is none, and which of the values are not finite numbers."""
    if not values.dtype.is_numeric():
        values = as_text(values, label).str.strip_chars()
        is_none = is_missing(values) & ~values.str.contains("(?i)nan").fill_null(False)  # NaN is damage
        values = values.to_frame("").select(pl.when(~is_none).then(pl.first())).to_series()
        values = values.str.replace(_COMMA, "$1.$2")
    weights = values.cast(pl.Float64, strict=False)
    unreadable = (values.is_not_null() & ~weights.is_finite().fill_null(False)).to_numpy()
    return weights.fill_null(float("nan")).to_numpy(), unreadable


def _note(chunk: Chunk, account: Account, what: str, values: pl.Series, is_bad: NDArray[np.bool_]) -> None:
    positions = np.flatnonzero(is_bad)
    for position in positions[:EXAMPLES].tolist():
        account.bad(chunk.at(chunk.frame[LINE][position]), f"{what} {values[position]!r}")
    account.malformed += max(0, len(positions) - EXAMPLES)
