"""What reading a table found: how many rows, which could not be read, what was recognised and what was changed.

One Account goes through all parts of a table. The report of a run and the lines on the terminal are made from it.
"""

from dataclasses import dataclass, field
from typing import Any

from training.errors import InputError

EXAMPLES = 5  # malformed rows that are shown

_UNPACK = {"gzip": "gzip -dc", "zstd": "zstd -dc", "bzip2": "bzip2 -dc", "xz": "xz -dc", "zip": "unzip -p"}
_READ = {"Parquet": "read_parquet", "Arrow": "read_ipc"}
Names = dict[str, str]  # our name -> the file's name


@dataclass(frozen=True)
class Form:
    """How a table is to be read. An empty or "auto" value is recognised from the content."""

    format: str = "auto"  # text, json, parquet
    delimiter: str = ""
    quote: str = '"'  # empty: quotes are plain characters
    header: str = "auto"  # yes, no
    encoding: str = ""


@dataclass(frozen=True)
class Settings:
    """The names of the settings and options that override what is recognised, for messages about one table."""

    columns: str = "--columns"
    prefix: str = "prepare."

    def of(self, key: str) -> str:
        """Return the name of a setting of the form."""
        return self.prefix + key


@dataclass(frozen=True)
class Row:
    """Where a row stands."""

    part: int  # the number of the part
    line: int  # in the part, from 1
    label: str  # the part's
    of: str = ":"  # ":" before the line of a text, ": row " before the row of a Parquet file

    def __str__(self) -> str:
        return f"{self.label}{self.of}{self.line}"


@dataclass
class Account:
    """Counts and findings over the parts of a table."""

    rows: int = 0  # readable or not
    malformed: int = 0
    first_bad: list[tuple[int, int, str]] = field(default_factory=list)  # part, line, and what is wrong there
    recognised: dict[str, Any] = field(default_factory=dict)  # of the first part: format, delimiter, header, ...
    columns: Names = field(default_factory=dict)  # our name -> the file's
    folders: Names = field(default_factory=dict)  # the same, of the part that is read, from the names of its folders
    first_label: str = ""  # of the part that has those columns; empty where it is JSON, whose rows have columns each
    mismatch: str = ""  # what is wrong where one part has weights and another none
    unused: list[str] = field(default_factory=list)  # columns of the file that nobody asked for
    left_out: list[str] = field(default_factory=list)  # wanted columns that cannot be written as text
    counts: dict[str, int] = field(default_factory=dict)  # what was changed or is unusual, by name
    firsts: dict[str, str] = field(default_factory=dict)  # where each of them was met first
    sample: dict[str, list[str]] = field(default_factory=dict)  # the first values of the unused columns

    def bad(self, row: "Row", what: str, count: int = 1) -> None:
        """Count malformed rows, and keep the first of them if it is among the first few of the table."""
        self.malformed += count
        self.first_bad = sorted([*self.first_bad, (row.part, row.line, f"{row}: {what}")])[:EXAMPLES]

    @property
    def examples(self) -> list[str]:
        """The first malformed rows: where each stands, and what is wrong."""
        return [text for _, _, text in self.first_bad]

    def take_columns(self, names: Names, label: str) -> None:
        """Keep the columns of the first part, our names and the file's, and note a part that differs in its weights."""
        names = self.folders | names
        if not self.columns:
            self.columns, self.first_label = dict(names), label
        elif self.first_label and not self.mismatch and ("weight" in self.columns) != ("weight" in names):
            ours, theirs = (self.first_label, label) if "weight" in self.columns else (label, self.first_label)
            column = self.columns.get("weight", names.get("weight"))
            self.mismatch = (
                f"{theirs}: no column {column!r}, which {ours} has as weight; write it into all parts, or leave it "
                "out: --set prepare.weights=ignore"
            )

    def check_parts(self) -> None:
        """Raise InputError where one part has weights and another none: what its rows weigh cannot be told."""
        if self.mismatch:
            raise InputError(self.mismatch)

    def note(self, name: str, row: "Row", count: int = 1) -> None:
        """Count something that is said, and remember where it was met first."""
        self.counts[name] = self.counts.get(name, 0) + count
        self.firsts.setdefault(name, str(row))

    def unpacking(self, message: str, name: str) -> str:
        """Return how the FILE of a command in a message is made of a file that is no plain text; mostly empty."""
        if "FILE" not in message:
            return ""
        kind, packed = self.recognised.get("format", ""), self.recognised.get("compression", "")
        if packed in _UNPACK:
            return f". First unpack it: {_UNPACK[packed]} {name} > FILE"
        if self.recognised.get("encoding", "").startswith("utf-16"):
            return f". First write it as UTF-8: iconv -f UTF-16 -t UTF-8 {name} > FILE"
        if kind in _READ and "polars" not in message:
            columns = ", ".join(map(repr, self.columns.values()))
            program = f"import polars as pl; print(pl.{_READ[kind]}({name!r}).select({columns}).write_csv(), end='')"
            return f'. First write it as text: python -c "{program}" > FILE'
        return ""

    def recognise(self, **found: Any) -> None:
        """Keep what was recognised of the first part; a part that differs is noted."""
        for name, value in found.items():
            if self.recognised.setdefault(name, value) != value:
                self.counts[f"parts_of_another_{name}"] = self.counts.get(f"parts_of_another_{name}", 0) + 1

    def take(self, part: "Account") -> None:
        """Add the account of the next part, which was read by itself, as if this one had gone on through it."""
        self.rows += part.rows
        self.malformed += part.malformed
        self.first_bad = sorted([*self.first_bad, *part.first_bad])[:EXAMPLES]
        self.recognise(**part.recognised)
        is_json, is_text = (part.recognised.get("format", "").startswith(word) for word in ("JSON", "text"))
        if is_json:
            self.columns = self.columns | part.columns
        elif part.columns:
            self.take_columns(part.columns, part.first_label)
        self.mismatch = self.mismatch or part.mismatch
        self.unused = (self.unused or part.unused) if is_text else part.unused
        self.sample = (self.sample | part.sample) if is_json else (self.sample or part.sample)
        self.left_out = sorted({*self.left_out, *part.left_out})
        for name, count in part.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for name, first in part.firsts.items():
            self.firsts.setdefault(name, first)
