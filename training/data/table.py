"""Read the rows of a file: CSV, TSV or JSON lines, each plain or gzipped, or Parquet.

Text formats are read row by row and every value stays text, so that ids keep their zeros and a bad row is named by its
line in the file. Line 1 is the header of a CSV, and a record with quoted line breaks has the number of its first line.
Parquet keeps its types, and its rows are counted from 1. Only the wanted columns are kept; interaction_file.py and
item_file.py decide what they mean.
"""

import csv
import gzip
import hashlib
import io
import operator
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson
import polars as pl

from training.errors import InputError

LINE = "line"  # the column that says where each row stood in the file
EXAMPLES = 5  # malformed rows that are shown
_CHUNK = 200_000  # rows that are held as Python objects at a time
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson")
_PARQUET = (".parquet", ".pq")

Names = Mapping[str, str]  # our name -> the file's name
Choose = Callable[[list[str]], Names]  # the file's columns -> those to keep


@dataclass
class Malformed:
    """How many rows could not be read, and the first few of them as (line, what is wrong)."""

    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, what: str, *, count: int = 1) -> None:
        """Count a bad row, or a bad record that spans count rows, and keep it if it is among the first few."""
        self.count += count
        self.examples = sorted([*self.examples, (line, what)])[:EXAMPLES]


@dataclass(frozen=True)
class Table:
    """The rows of a file that could be read."""

    path: Path
    frame: pl.DataFrame  # the chosen columns by our names, and "line"
    malformed: Malformed

    @property
    def n_rows(self) -> int:
        """The number of rows in the file, readable or not."""
        return self.frame.height + self.malformed.count

    def where(self, line: int) -> str:
        """Return the name of a row for a message, such as log.csv:8."""
        return f"{self.path}: row {line}" if _kind(self.path) in _PARQUET else f"{self.path}:{line}"


def read_table(path: Path, choose: Choose) -> Table:
    """Read the columns that choose picks from those of the file, and name them as we do.

    Raises InputError where the file is missing, empty, damaged or of an unknown kind. choose may raise it too.
    """
    kind = _kind(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; it needs a header and rows")
    try:
        if kind in _PARQUET:
            table = _read_parquet(path, choose)
        else:
            table = _read_json(path, choose) if kind in _JSON else _read_csv(path, choose, _SEPARATORS[kind])
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise InputError(f"{path}: the gzip data is damaged ({exc}); copy or compress the file again") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if not table.n_rows:
        raise InputError(f"{path}: no rows below the header; the file needs at least one")
    return table


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    kinds = (*_SEPARATORS, *_JSON, *_PARQUET)
    kind = next((kind for kind in kinds if name.endswith(kind)), None)
    if kind is None or (kind in _PARQUET and path.name.lower().endswith(".gz")):
        raise InputError(
            f"{path}: unknown kind of file; the name must end in .csv, .tsv, .jsonl or .ndjson (each also .gz), "
            "or .parquet"
        )
    return kind


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading. Whether it is gzipped is seen from its first bytes, not from its name."""
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            file.seek(0)
            with gzip.open(file) as unzipped:
                yield io.BufferedReader(unzipped)
        else:
            file.seek(0)
            yield file


def _read_csv(path: Path, choose: Choose, separator: str) -> Table:
    malformed = Malformed()
    with _open(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=separator, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error as exc:
            raise InputError(f"{path}:1: the header is not CSV: {exc}") from exc
        names = choose(header)
        for name in names.values():
            if header.count(name) > 1:
                raise InputError(f"{path}:1: two columns are named {name}; rename one")
        columns = [header.index(name) for name in names.values()]
        chunks = list(_frames(path, list(names), _csv_rows(reader, len(header), columns, malformed)))
    return Table(path, _concat(chunks, names), malformed)


def _csv_rows(reader: Any, width: int, columns: list[int], malformed: Malformed) -> Iterator[tuple[Any, ...]]:
    """Yield (line, value...) of each row that has as many fields as the header; count the others."""
    pick = operator.itemgetter(*columns) if len(columns) > 1 else lambda row: (row[columns[0]],)
    before = reader.line_num
    while True:
        try:
            for row in reader:
                line, before = before + 1, reader.line_num
                if len(row) == width:
                    yield (line, *pick(row))
                elif row:
                    malformed.add(line, f"{len(row)} fields, the header has {width}")
            return
        except csv.Error as exc:
            malformed.add(before + 1, f"not CSV: {exc}", count=max(1, reader.line_num - before))
            before = reader.line_num


def _read_json(path: Path, choose: Choose) -> Table:
    malformed = Malformed()
    rows: list[tuple[int, dict[str, Any]]] = []
    keys: dict[str, None] = {}
    with _open(path) as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = orjson.loads(text)
            except orjson.JSONDecodeError as exc:
                malformed.add(line, f"not JSON: {exc}")
                continue
            if not isinstance(row, dict):
                malformed.add(line, "not a JSON object")
                continue
            keys.update(dict.fromkeys(row))
            rows.append((line, row))
    if not rows and malformed.count:
        raise InputError(f"{path}:{malformed.examples[0][0]}: {malformed.examples[0][1]}; no line could be read")
    names = choose(list(keys))
    chunks = list(_frames(path, list(names), _json_rows(rows, names, malformed)))
    return Table(path, _concat(chunks, names), malformed)


def _json_rows(rows: list[tuple[int, dict[str, Any]]], names: Names, malformed: Malformed) -> Iterator[tuple[Any, ...]]:
    for line, row in rows:
        try:
            yield (line, *[_json_text(row.get(name)) for name in names.values()])
        except ValueError as exc:
            malformed.add(line, str(exc))


def _json_text(value: Any) -> str | None:
    """Return a JSON value as the text that a CSV would hold; a list is joined by '|'."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return "|".join(_json_text(v) or "" for v in value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    raise ValueError("a value is an object, not text or a number")


def _frames(path: Path, names: list[str], rows: Iterator[tuple[Any, ...]]) -> Iterator[pl.DataFrame]:
    """Gather rows into frames of text, chunk by chunk, so that memory holds columns and not Python objects."""
    schema = {LINE: pl.Int64} | dict.fromkeys(names, pl.String)
    chunk: list[tuple[Any, ...]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield _frame(path, chunk, schema)
            chunk = []
    if chunk:
        yield _frame(path, chunk, schema)


def _frame(path: Path, rows: list[tuple[Any, ...]], schema: Mapping[str, Any]) -> pl.DataFrame:
    try:
        data = {
            name: pl.Series(name, values, kind)
            for (name, kind), values in zip(schema.items(), zip(*rows, strict=True), strict=True)
        }
    except UnicodeEncodeError:
        line = next(row[0] for row in rows if not all(_is_utf8(value) for value in row[1:]))
        raise InputError(f"{path}:{line}: not UTF-8 text; convert it: iconv -f LATIN1 -t UTF-8 {path.name}") from None
    return pl.DataFrame(data).with_columns(pl.col(pl.String).replace("", None))


def _is_utf8(value: str | None) -> bool:
    return value is None or not any("\ud800" <= character <= "\udfff" for character in value)


def _concat(chunks: list[pl.DataFrame], names: Names) -> pl.DataFrame:
    empty = pl.DataFrame(schema={LINE: pl.Int64} | dict.fromkeys(names, pl.String))
    return pl.concat([empty, *chunks])


def _read_parquet(path: Path, choose: Choose) -> Table:
    try:
        names = choose(list(pl.read_parquet_schema(path)))
        frame = pl.read_parquet(path, columns=list(dict.fromkeys(names.values())), glob=False)
    except (pl.exceptions.PolarsError, ValueError) as exc:
        raise InputError(f"{path}: not a Parquet file: {str(exc).splitlines()[0]}") from exc
    picked = frame.select(pl.col(theirs).alias(ours) for ours, theirs in names.items())
    return Table(path, picked.with_row_index(LINE, offset=1).with_columns(pl.col(LINE).cast(pl.Int64)), Malformed())


def as_id(series: pl.Series, path: Path) -> pl.Series:
    """Return a column of ids as text. Raises InputError for a type that is neither text nor a number.

    A whole number of a float column is written without a fraction. So is text where every value looks like 17850.0,
    because then another program has turned integers into floats; any other value, and all of it stays as it is.
    """
    if not (series.dtype.is_numeric() or series.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise InputError(f"{path}: the {series.name} column is of type {series.dtype}; ids are text or whole numbers")
    text = as_text(series, path)
    floats = text.str.contains(r"^[0-9]+\.0$")
    return text.str.strip_suffix(".0") if floats.any() and floats.all() else text


def as_text(series: pl.Series, path: Path) -> pl.Series:
    """Return a column as the text that a CSV would hold: 5.0 becomes "5", and a list is joined by '|'.

    Raises InputError for a type that cannot be written as text.
    """
    if isinstance(series.dtype, pl.List):
        return series.cast(pl.List(pl.String)).list.join("|", ignore_nulls=True)
    if not series.dtype.is_float():
        try:
            return series.cast(pl.String).replace("", None)
        except pl.exceptions.PolarsError as exc:
            raise InputError(f"{path}: the {series.name} column is of type {series.dtype}, not text") from exc
    number = pl.col(series.name).fill_nan(None).cast(pl.Float64)
    is_whole = (number == number.floor()) & (number.abs() < 2**53)
    integer = number.cast(pl.Int64, strict=False).cast(pl.String)
    text = pl.when(is_whole).then(integer).otherwise(number.cast(pl.String))
    return series.to_frame().select(text.alias(series.name)).to_series()


def choose_columns(path: Path, columns: Names, *, required: Collection[str], optional: Collection[str]) -> Choose:
    """Return what read_table asks for the columns of a file.

    columns: our name -> the file's; a column that it leaves out has our name. The chooser raises InputError where a
    required column, or one that columns names, is not in the file.
    """

    def choose(present: list[str]) -> Names:
        names = {}
        for ours in (*required, *optional):
            theirs = columns.get(ours, ours)
            if theirs in present:
                names[ours] = theirs
            elif ours in required or ours in columns:
                listed = ", ".join(present) or "none"
                hint = " Values must be separated by commas." if len(present) == 1 and ";" in listed else ""
                raise InputError(
                    f"{path}: no column {theirs!r}; the file has: {listed}.{hint} "
                    f"Name the right one: --columns {ours}=COLUMN"
                )
        return names

    return choose


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
