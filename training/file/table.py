"""Read the rows of a table, whatever its form, chunk by chunk: the one door to the files that people have.

Ids and words stay text; Parquet keeps its types. A row is named by its part and line. Which columns are kept is a
Choice; what they mean is for whoever asked.
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import polars as pl

from training.errors import InputError
from training.file.account import Account, Form, Row
from training.file.choice import Choice
from training.file.columnar import is_columnar, read_columnar
from training.file.compression import Opened, open_part
from training.file.delimited import LINE, read_delimited
from training.file.json_rows import read_json
from training.file.layout import see_layout
from training.file.line import LineReader
from training.file.source import Part, Place, Source, find_source

FORMATS = ("auto", "text", "json", "parquet")
HEADERS = ("auto", "yes", "no")


@dataclass(frozen=True)
class Chunk:
    """Some rows of a part."""

    row: Row  # the part; its line says nothing
    frame: pl.DataFrame  # LINE and our names

    def at(self, line: int) -> Row:
        """Return where a line of the chunk stands."""
        return Row(self.row.part, line, self.row.label, self.row.of)


@dataclass(frozen=True)
class Table:
    """A whole table, for those that are small."""

    source: Source
    frame: pl.DataFrame  # LINE and our names
    account: Account


def read_chunks(source: Source, choice: Choice, form: Form, account: Account) -> Iterator[Chunk]:
    """Yield the rows of all parts in their order, and count in the account. Raises InputError."""
    for number in range(len(source.parts)):
        yield from read_part(source, number, choice, form, account)
        account.check_parts()
    if not account.rows:
        raise InputError(f"{source.label}: no rows below the header; the file needs at least one")


def read_part(source: Source, number: int, choice: Choice, form: Form, account: Account) -> Iterator[Chunk]:
    """Yield the rows of one part, and count in the account. Raises InputError."""
    if form.format not in FORMATS or form.header not in HEADERS:
        raise InputError(f"the format must be one of {', '.join(FORMATS)} and the header one of {', '.join(HEADERS)}")
    part = source.parts[number]
    choice = replace(choice, folders=part.values)
    account.folders = choice.of_folders()
    with _naming(part, source, account), open_part(part) as opened:
        if opened.compression:
            account.recognise(compression=opened.compression)
        is_typed = form.format == "parquet" or (form.format == "auto" and is_columnar(opened.head))
        row = Row(number, 0, part.label, ": row " if is_typed else ":")
        if is_typed:
            frames = read_columnar(part, opened, row, account, choice)
        else:
            frames = _read_text(part, opened, row, account, (choice, form))
        size, done = part.path.stat().st_size, 0
        with closing(frames):  # before its file is
            for frame in frames:
                if frame.height:
                    yield Chunk(row, _with_folders(frame, part, account) if part.values else frame)
                done, before = min(size, opened.position()), done
                source.watch(done - before)
        source.watch(size - done)


def _with_folders(frame: pl.DataFrame, part: Part, account: Account) -> pl.DataFrame:
    """Add the columns that the folders of a part are named after; one that the rows have themselves stays theirs."""
    account.columns = account.folders | account.columns
    for name in part.values.keys() - {*account.columns.values(), *account.unused}:
        account.unused.append(name)
        account.sample[name] = [text for text in [part.values[name]] if text is not None]
    added = {ours: theirs for ours, theirs in account.folders.items() if ours not in frame.columns}
    return frame.with_columns(pl.lit(part.values[theirs], pl.String).alias(ours) for ours, theirs in added.items())


@contextmanager
def _naming(part: Part, source: Source, account: Account) -> Iterator[None]:
    """Say of an error how its FILE is made, and in one of several parts that the file may be none."""
    try:
        yield
    except InputError as exc:
        more = account.unpacking(str(exc), part.path.name)
        if len(source.parts) > 1:
            more += f"; if {part.path.name} is no part of the table, give the right file or a glob, not {source.label}"
        if not more:
            raise
        raise InputError(f"{exc}{more}") from exc


def read_table(place: Place, choice: Choice, form: Form) -> Table:
    """Read all rows at once. Raises InputError where a file is missing, empty, damaged or of an unknown form."""
    source, account = find_source(place), Account()
    frames = [chunk.frame for chunk in read_chunks(source, choice, form, account)]
    source.check_unchanged()
    frame = pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame(schema={LINE: pl.Int64})
    return Table(source, frame, account)


def _read_text(
    part: Part, opened: Opened, row: Row, account: Account, asked: tuple[Choice, Form]
) -> Generator[pl.DataFrame]:
    choice, form = asked
    reader = LineReader(opened, row, account, form.encoding)
    account.recognise(encoding=reader.encoding.removesuffix("-sig"))
    try:
        start = reader.head.lstrip("\ufeff\x1e \t\r\n")[:1]
        if form.format == "json" or (form.format == "auto" and start in ("{", "[") and _is_json(reader)):
            yield from read_json(reader, row, account, choice)
            return
        seen = see_layout(part.label, reader.sample(), form, choice, _suffix(part))
        account.recognise(format="text", **seen.found)
        account.take_columns({ours: seen.name_of(ours) for ours in seen.layout.fields}, part.label)
        account.unused = account.unused or seen.unused()
        account.sample = account.sample or seen.sample
        yield from read_delimited(reader, row, account, seen.layout)
    finally:
        reader.close()


def _is_json(reader: LineReader) -> bool:
    """Say whether a text that begins with a bracket is JSON: a header may begin with one too, but has no quoted key."""
    return (
        any(mark in reader.head[:4096] for mark in ('":', '" :', "{}", "[]", "[1", "[{", "[[")) or reader.head[0] == "{"
    )


def _suffix(part: Part) -> str:
    suffixes = [suffix.lower() for suffix in part.path.suffixes]
    return next((suffix for suffix in suffixes if suffix in (".csv", ".tsv", ".tab")), "")
