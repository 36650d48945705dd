"""The lines of a file of text, block by block, whatever its encoding and its line ends.

UTF-16 and UTF-32 are known by their first bytes, UTF-16 without a mark by its zero bytes. Everything else is UTF-8; a
line that is not is read as Windows-1252 (Latin-1 with its additions), and such lines are counted.
"""

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from training.errors import InputError
from training.file.account import Account, Row
from training.file.compression import Opened

BLOCK = 1 << 22  # characters that are read at a time
LONGEST = 1 << 26  # characters of a line
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_TEXT_BYTES = bytes(byte for byte in range(256) if byte >= 32 or byte in b"\t\n\v\f\r\x01\x1b\x1e\x1f")


@dataclass(frozen=True)
class Block:
    """Some lines of a file, without their line ends."""

    first: int  # the number of the first line, from 1
    lines: pl.Series


class LineReader:
    """Reads an opened part as text. encoding: a name that Python knows; empty: seen from the bytes."""

    def __init__(self, opened: Opened, row: Row, account: Account, encoding: str) -> None:
        self._row, self._account = row, account
        self.is_given = bool(encoding)
        self.encoding = encoding or _encoding_of(opened.head)
        if not encoding and self.encoding == "utf-8" and is_noise(opened.head):
            if not is_noise(opened.head.replace(b"\0", b"")):
                raise InputError(
                    f"{row.label}: text with zero bytes; take them away: tr -d '\\000' < FILE > events.csv"
                )
            raise InputError(f"{row.label}: neither text nor Parquet; give CSV, TSV, JSON lines or Parquet")
        try:
            codecs.lookup(self.encoding)
        except LookupError as exc:
            raise InputError(f"unknown encoding {encoding!r}; known are utf-8, latin-1, utf-16 and others") from exc
        self._text = io.TextIOWrapper(opened.file, self.encoding, errors="surrogateescape", newline="")
        try:
            self.head = self._text.read(BLOCK)
        except UnicodeError as exc:
            raise InputError(f"{row.label}: cannot be read as {self.encoding} ({exc}); set another encoding") from exc
        body = self.head.rstrip("\r\n")  # an old file that a newer program has ended
        is_cr = "\n" not in body and "\r" in body
        self._end = "\r" if is_cr else "\n"

    def sample(self, most: int = 1000) -> list[str]:
        """Return the first lines of the file, none of them cut, with bytes that are not UTF-8 replaced."""
        lines = self.head.split(self._end, most)
        cut = len(lines) > most or (len(self.head) >= BLOCK and len(lines) > 1)
        return [_recoded(line.removesuffix("\r")) for line in (lines[:-1] if cut else lines)]

    def blocks(self) -> Iterator[Block]:
        """Yield all lines. Raises InputError for a line of more than 64 million characters."""
        piece, rest, first = self.head, "", 1
        while piece:
            lines = (rest + piece).split(self._end)
            rest = lines.pop()
            if len(rest) > LONGEST:
                raise InputError(f"{self._row.label}:{first + len(lines)}: a line of more than {LONGEST:,} characters")
            if lines:
                yield self._cleaned(first, lines)
                first += len(lines)
            try:
                piece = self._text.read(BLOCK)
            except UnicodeError as exc:
                raise InputError(f"{self._row.label}: cannot be read as {self.encoding}: {exc}") from exc
        if rest:
            yield self._cleaned(first, [rest])

    def close(self) -> None:
        """Let go of the file without closing it; whoever opened it does."""
        self._text.detach()

    def _cleaned(self, first: int, lines: list[str]) -> Block:
        try:
            series = pl.Series("line", lines, dtype=pl.String)
        except UnicodeEncodeError:
            series = pl.Series("line", [self._mended(first + at, line) for at, line in enumerate(lines)], pl.String)
        return Block(first, series.str.strip_suffix("\r").str.strip_prefix("\ufeff"))  # a mark where files were joined

    def _mended(self, number: int, line: str) -> str:
        """Return a line that is UTF-8: as it is, read as Windows-1252, or emptied and counted where UTF-8 was asked."""
        if is_utf8(line):
            return line
        row = Row(self._row.part, number, self._row.label)
        if self.is_given:
            self._account.rows += 1
            self._account.bad(row, f"not {self.encoding} text")
            return ""
        self._account.note("lines_not_utf8", row)
        return _recoded(line)


def is_noise(head: bytes) -> bool:
    """Say whether the first bytes of a file are no text: more than one in fifty is a control character."""
    return 50 * len(head.translate(None, _TEXT_BYTES)) > len(head)


def is_utf8(text: str) -> bool:
    """Say whether a text holds no bytes that could not be decoded."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _recoded(line: str) -> str:
    if is_utf8(line):
        return line
    raw = line.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _encoding_of(head: bytes) -> str:
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if len(head) >= 4 and head[1::2].count(0) > len(head) // 4 and not head[::2].count(0):
        return "utf-16-le"
    if len(head) >= 4 and head[::2].count(0) > len(head) // 4 and not head[1::2].count(0):
        return "utf-16-be"
    return "utf-8"
