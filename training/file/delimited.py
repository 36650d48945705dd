"""The rows of lines of text: CSV, TSV and their like, line by line, so that a stray quote swallows no row.

A line without quotes is split. One with quotes is read as CSV (RFC 4180, or with a backslash before a quote). A
record that goes on over line breaks is taken as one only where its lines are no rows by themselves; such lines are
counted. A line whose quotes do not fit CSV keeps them as characters of its text, unless an id would have half a pair;
it is counted too.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from training.errors import InputError
from training.file.account import Account, Row
from training.file.line import Block, LineReader

LINE = "line"  # the column that says where each row stood in its part
LONGEST_RECORD = 1000  # lines of one record
_RULE = r"[\s|+:=,;]*-{3,}[\s|+:=,;-]*"
_TOTAL = r"\(?[0-9]+ rows?(?: selected| affected| returned| in set[^,;\t|]*)?\.?\)?"
_AROUND = f"^(?:{_RULE}|{_TOTAL})$"  # what psql, mysql, sqlcmd and sqlplus print below names and rows
_KEYS = ("user_id", "item_id", "timestamp")  # where half a pair of quotes is damage


@dataclass(frozen=True)
class Layout:
    """How the rows of a part are written, and which of their fields are wanted."""

    delimiter: str
    quote: str  # empty where quotes are plain characters
    width: int  # fields of a row
    start: int  # the line of the first row
    fields: dict[str, int]  # our name -> the place of the field in a row
    loose: bool = False  # a field more, and empty, is allowed at the end
    header: tuple[str, ...] = ()  # its names; a row of them is left out where it stands again between the rows
    skips_blanks: bool = False  # blanks before a field are none of it: `u1, "i 1", 3`


def read_delimited(reader: LineReader, row: Row, account: Account, layout: Layout) -> Iterator[pl.DataFrame]:
    """Yield the rows of a part as frames of text: the line, and our names."""
    waiting: Block | None = None
    for block in reader.blocks():
        if waiting is not None:
            block = Block(waiting.first, pl.concat([waiting.lines, block.lines]))
        frame, waiting = _Parser(block, row, account, layout).parse(is_last=False)
        yield frame
    if waiting is not None:
        yield _Parser(waiting, row, account, layout).parse(is_last=True)[0]


def split_line(line: str, delimiter: str, quote: str = '"') -> list[str]:
    """Return the fields of one line, without complaint."""
    if quote and len(delimiter) == 1 and quote in line:
        has_backslash = f"\\{quote}" in line
        try:
            return next(
                csv.reader(
                    [line],
                    delimiter=delimiter,
                    quotechar=quote,
                    escapechar="\\" if has_backslash else None,
                    doublequote=not has_backslash,
                    skipinitialspace=delimiter not in " \t",
                ),
                [],
            )
        except csv.Error:
            pass
    return line.split(delimiter)


class _Parser:
    """The rows of one block."""

    def __init__(self, block: Block, row: Row, account: Account, layout: Layout) -> None:
        skip = max(0, layout.start - block.first)
        self._first, self._lines = block.first + skip, block.lines[skip:]
        self._row, self._account, self._layout = row, account, layout
        self._rows: list[tuple[int, list[str]]] = []  # place in the block, and the fields
        offset = layout.width - len(layout.header)  # fields before the first that has a name
        self._named = [at - offset for at in layout.fields.values()] if layout.header else []

    def parse(self, *, is_last: bool) -> tuple[pl.DataFrame, Block | None]:
        """Return the rows of the block, and the lines that need the next block to be understood."""
        layout, lines = self._layout, self._lines
        is_blank = lines.str.strip_chars(" \t".replace(layout.delimiter, "")) == ""
        is_empty = ~is_blank & (lines.str.strip_chars(f" \t{layout.delimiter}") == "")
        again = self._headers()
        is_quoted = lines.str.contains(layout.quote, literal=True) if layout.quote else is_blank & ~is_blank
        around = ~is_empty & ~is_quoted & self._around()
        is_blank = is_blank | is_empty | again | around
        end = self._read_quoted((is_quoted & ~is_blank).arg_true().to_list(), is_last=is_last)
        places = pl.int_range(len(lines), eager=True)
        is_outer = (places < end) & ~places.is_in(pl.Series(self._inner, dtype=pl.Int64).implode())
        for name, kind in (
            ("lines_without_values", is_empty),
            ("headers_between_rows", again),
            ("lines_around_the_rows", around),
        ):
            left_out = (kind & is_outer).arg_true()
            if len(left_out):
                self._account.note(name, self._at(left_out[0]), len(left_out))
        is_plain = ~is_quoted & ~is_blank & is_outer
        count = lines.str.count_matches(layout.delimiter, literal=True) + 1
        fits = count == layout.width
        if layout.loose:
            fits = fits | ((count == layout.width + 1) & lines.str.ends_with(layout.delimiter))
        for place in (is_plain & ~fits).arg_true().to_list():
            self._bad_line(place, int(count[place]))
        self._account.rows += int(is_plain.sum())
        frame = self._joined((is_plain & fits).arg_true())
        rest = Block(self._first + end, lines[end:]) if end < len(lines) else None
        return frame, rest

    def _around(self) -> pl.Series:
        """Say which lines are none of the table: rules and totals that programs print, and comments."""
        lines, layout = self._lines, self._layout
        around = lines.str.contains(_AROUND)
        is_comment = lines.str.contains(r"^#\s|^#[^,;\t|]*$")
        if is_comment.any():
            around = around | is_comment & (lines.str.count_matches(layout.delimiter, literal=True) + 1 < layout.width)
        return around

    def _headers(self) -> pl.Series:
        """Say which lines are the header again. Raises InputError for one whose names stand in another order."""
        layout, may_be = self._layout, pl.repeat(bool(self._layout.header), len(self._lines), eager=True)
        wanted = [layout.header[at] for at in self._named] if layout.header else []
        for name in sorted(wanted, key=len, reverse=True):
            may_be = may_be & self._lines.str.contains(name, literal=True)
            if not may_be.any():
                break
        again = []
        for place in may_be.arg_true().to_list():
            fields = split_line(self._lines[place].lstrip("\ufeff"), layout.delimiter, layout.quote)
            names = tuple(name.strip() for name in fields)
            if names == layout.header:
                again.append(place)
            elif set(wanted) <= set(names):
                at = self._at(place)
                raise InputError(
                    f"{at}: another header, {', '.join(names)}: values below it stand at other places; make two files "
                    f"of it in one directory: head -n {at.line - 1} FILE > parts/1.csv; "
                    f"tail -n +{at.line} FILE > parts/2.csv"
                )
        return pl.int_range(len(self._lines), eager=True).is_in(again)

    def _joined(self, plain: pl.Series) -> pl.DataFrame:
        """Return the plain lines, split, and the rows that had quotes, in their order."""
        layout = self._layout
        parts = self._lines.gather(plain).str
        fields = parts.split_exact(layout.delimiter, layout.width).struct.unnest()
        if layout.skips_blanks:
            fields = fields.select(pl.all().str.strip_chars_start(" "))
        frame = pl.DataFrame(
            [
                (plain.cast(pl.Int64) + self._first).alias(LINE),
                *(fields[f"field_{at}"].alias(name) for name, at in layout.fields.items()),
            ]
        )
        if self._rows:
            data = {LINE: [self._first + place for place, _ in self._rows]}
            schema = {LINE: pl.Int64} | dict.fromkeys(layout.fields, pl.String)
            texts = {name: [fields[at] for _, fields in self._rows] for name, at in layout.fields.items()}
            frame = pl.concat([frame, pl.DataFrame(data | texts, schema=schema)]).sort(LINE)
        return frame.with_columns(pl.col(pl.String).replace("", None))

    def _read_quoted(self, places: Sequence[int], *, is_last: bool) -> int:
        """Read the lines with quotes at some places; return where the lines begin that need the next block."""
        self._inner: list[int] = []  # lines of a record but its first
        self._texts = self._lines.to_list() if places else []
        if self._take_all(places):
            return len(self._lines)
        done = -1
        for number, place in enumerate(places):
            if place <= done:
                continue
            fields, is_open = self._record(self._texts[place])
            if is_open:
                last = self._end_of_record(place, places[number + 1 : number + LONGEST_RECORD])
                if last is None and not is_last and len(self._lines) - place < LONGEST_RECORD:
                    return place
                if last is not None:
                    self._take_long(place, last)
                    done = last
                    continue
            self._take(place, fields)
        return len(self._lines)

    def _take_all(self, places: Sequence[int]) -> bool:
        """Keep all lines with quotes at once, which is quick, if each of them is a whole row of CSV; say whether."""
        layout = self._layout
        if not places or len(layout.delimiter) > 1:
            return not places
        texts = [self._texts[place] for place in places]
        try:
            rows = list(self._reader(texts))
        except csv.Error:
            return False
        if len(rows) != len(places) or not all(map(self._fits, rows)):
            return False
        self._account.rows += len(rows)
        self._rows += zip(places, rows, strict=True)
        return True

    def _reader(self, text: Iterable[str], **dialect: Any) -> Iterator[list[str]]:
        layout = self._layout
        return csv.reader(
            text,
            delimiter=layout.delimiter,
            quotechar=layout.quote,
            strict=True,
            skipinitialspace=layout.skips_blanks,
            **dialect,
        )

    def _record(self, *lines: str) -> tuple[list[str] | None, bool]:
        """Return the fields of a record in CSV, or None, and whether a quote is open at its end."""
        layout = self._layout
        if len(layout.delimiter) > 1:
            return None, False
        text = [line + "\n" for line in lines[:-1]] + [lines[-1]]
        try:
            return next(self._reader(text)), False
        except csv.Error as exc:
            is_open = "unexpected end of data" in str(exc)
        try:
            fields = next(self._reader(text, escapechar="\\", doublequote=False))
            if self._fits(fields) and "\\" in "".join(lines):
                return fields, False
        except csv.Error:
            pass
        return None, is_open

    def _end_of_record(self, place: int, quoted: Sequence[int]) -> int | None:
        """Return the last line of the record that begins at a place, or None where the quote there is a stray one.

        quoted: the next lines with quotes.
        """
        for last in quoted:
            if last >= place + LONGEST_RECORD:
                return None
            lines = self._texts[place : last + 1]
            fields, is_open = self._record(*lines)
            if is_open:
                continue
            if fields is None or not self._fits(fields):
                return None
            are_rows = all(self._fits(line.split(self._layout.delimiter)) for line in lines)
            return None if are_rows else last
        return None

    def _take_long(self, place: int, last: int) -> None:
        fields, _ = self._record(*self._texts[place : last + 1])
        self._inner += range(place + 1, last + 1)
        self._account.rows += 1
        self._account.note("lines_in_records_of_several_lines", self._at(place), last - place + 1)
        self._rows.append((place, fields or []))

    def _take(self, place: int, fields: list[str] | None) -> None:
        """Keep a row of one line; where it is no CSV, its quotes are characters."""
        layout = self._layout
        self._account.rows += 1
        if fields is not None and self._fits(fields):
            self._rows.append((place, fields))
            return
        literal = self._texts[place].split(layout.delimiter)
        halves = [name for name in _KEYS if name in layout.fields and self._is_half(literal, layout.fields[name])]
        if self._fits(literal) and (layout.delimiter not in ",;" or not halves):
            self._account.note("lines_with_stray_quotes", self._at(place))
            self._rows.append((place, literal))
        elif fields is not None:
            self._bad(place, f"{len(fields)} fields, the header has {layout.width}")
        else:
            self._bad(place, "a quote that is not closed, or goes on after it is")

    def _is_half(self, fields: list[str], place: int) -> bool:
        return place < len(fields) and fields[place].count(self._layout.quote) % 2 == 1

    def _fits(self, fields: list[str]) -> bool:
        width = self._layout.width
        return len(fields) == width or (self._layout.loose and len(fields) == width + 1 and not fields[-1])

    def _bad_line(self, place: int, width: int) -> None:
        """Count a line of another number of fields; one that holds ends of lines of old Macs is several rows."""
        what, others = f"{width} fields, the header has {self._layout.width}", self._lines[place].count("\r")
        if others:
            what += "; it holds ends of lines alone (CR): tr '\\r' '\\n' < FILE > events.csv"
        self._account.rows += others
        self._bad(place, what, 1 + others)

    def _bad(self, place: int, what: str, count: int = 1) -> None:
        self._account.bad(self._at(place), what, count)

    def _at(self, place: int) -> Row:
        return replace(self._row, line=self._first + place)
