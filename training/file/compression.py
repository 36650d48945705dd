"""Open a file as the bytes that were compressed: gzip, zstd, bzip2, xz or a zip of one member, seen from its bytes.

Names decide nothing: a gzip file that is called .csv is read, and so is a plain one that is called .gz. What is no
table (a workbook, an archive, a page of HTML) is refused by the name of what it is.
"""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import polars as pl

from training.errors import InputError
from training.file.source import Part

HEAD = 1 << 12  # bytes that decide what a file is
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZIP = b"PK\x03\x04"
_OPENERS: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
}
_AS_CSV = "export the table as CSV"
_DUMP = ("a dump of SQL", _AS_CSV)
_PAGE = ("a page of HTML, perhaps of a failed download", "fetch the file again and look at its first line")
_POSTGRES = ("a dump of PostgreSQL", f"{_AS_CSV}: psql -c \"\\copy TABLE to 'events.csv' csv header\"")
XML = (
    'write an object a line: python -c "import json, xml.etree.ElementTree as tree; '
    "[print(json.dumps({**row.attrib, **{one.tag: one.text for one in row}})) "
    "for row in tree.parse('FILE').getroot()]\" > events.jsonl"
)
"""The way out of XML whose rows are the elements below its root."""
_FOREIGN = {
    b"SQLite format 3": ("an SQLite database", "export the table: sqlite3 -header -csv FILE 'select * from TABLE'"),
    b"\x89HDF": ("an HDF5 file", "write the table as Parquet: df.to_parquet('events.parquet')"),
    b"ORC": ("an ORC file", "write the table as Parquet"),
    b"Obj\x01": ("an Avro file", "write the table as Parquet or JSON lines"),
    b"\x80\x04": ("a pickle", "pickles are never opened; write the table as Parquet: df.to_parquet('events.parquet')"),
    b"\x80\x05": ("a pickle", "pickles are never opened; write the table as Parquet: df.to_parquet('events.parquet')"),
    b"PARE": ("an encrypted Parquet file", "write it without encryption"),
    b"\xff\xff\xff\xff": ("a stream of Arrow", "write it as a file: Parquet, or pyarrow.feather.write_feather"),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "uncompress it: lz4 -d FILE OTHER"),
    b"\xff\x06\x00\x00sNaPpY": ("compressed with Snappy", "uncompress it, or compress it with gzip"),
    b"\x1f\x9d": ("compressed with compress", "uncompress it: gzip -dc FILE > OTHER"),
    b"\x5d\x00\x00": ("compressed with lzma", "uncompress it: xz --format=lzma -dc FILE > OTHER"),
    b"PK\x05\x06": ("an empty zip", "zip the file again"),
    b"%PDF": ("a PDF", "give the table as CSV"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it: 7z x FILE, and give the file or the directory"),
    b"Rar!": ("a RAR archive", "unpack it: unrar x FILE, and give the file or the directory"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save the sheet as CSV"),
    b"FEA1": ("an old Feather file", "write the table as Parquet: df.to_parquet('events.parquet')"),
    b"RDX": ("a workspace of R", "write the table as CSV: write.csv(events, 'events.csv', row.names=FALSE)"),
    b"MATLAB": ("a MATLAB file", "write the table as CSV"),
    b"\x93NUMPY": ("a numpy array", "write the table with its column names as CSV or Parquet"),
    b"PGDMP": _POSTGRES,
}
_FOREIGN_TEXT = {
    b"--\n-- postgresql": _POSTGRES,
    b"-- mysql dump": _DUMP,
    b"insert into": _DUMP,
    b"create table": _DUMP,
    b"drop table": _DUMP,
    b"pragma foreign_keys": ("a dump of SQLite", "export the table: sqlite3 -header -csv FILE 'select * from TABLE'"),
    b"@relation": ("an ARFF file", "take what stands above the rows away: sed '1,/^@data/Id' FILE > events.csv"),
    b"%%matrixmarket": (
        "a Matrix Market file",
        "take what stands above the rows away: sed '/^%/d' FILE | sed 1d > events.csv",
    ),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"),
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<table": ("a table of HTML", "write it as CSV: pandas.read_html('FILE')[0].to_csv('events.csv', index=False)"),
    b"{\\rtf": ("a document of Rich Text Format", "save it as text, or export the table as CSV"),
    b"-----begin": ("an encrypted or encoded message", "open it: gpg -d FILE > OTHER, or base64 -d without its frame"),
    b"<?xml": ("XML", XML),
}
"""How texts begin that are no tables, in small letters: they are told in capitals too."""


@dataclass(frozen=True)
class Opened:
    """A file of a table, open for reading."""

    file: IO[bytes]  # at its start; it can be peeked at
    head: bytes  # its first bytes
    compression: str  # "", or the names of what was taken off
    position: Callable[[], int] = int  # how many bytes of the part were read


@contextmanager
def open_part(part: Part) -> Iterator[Opened]:
    """Open a part as it was before it was compressed. Raises InputError for damage and for what is no table."""
    with ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(part.path.open("rb"))
        position = raw.tell
        taken: list[str] = []
        try:
            head = _peek(raw)
            while (found := _compression(head)) and len(taken) < 3:
                taken.append(found)
                raw = _uncompress(part, raw, found, head, stack)
                head = _peek(raw)
            _refuse_foreign(part, head)
            yield Opened(raw, head, " in ".join(reversed(taken)), position)
        except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile, RuntimeError) as exc:
            raise _damaged(part, taken, exc) from exc
        except OSError as exc:
            if taken and exc.errno is None:
                raise _damaged(part, taken, exc) from exc
            raise InputError(
                f"{part.label}: cannot be read: {exc.strerror or exc}; check the disk and its rights"
            ) from exc


def _damaged(part: Part, taken: list[str], exc: Exception) -> InputError:
    kind = taken[-1] if taken else "compressed"
    return InputError(f"{part.label}: the {kind} data is damaged ({exc}); copy or compress the file again")


def _peek(raw: IO[bytes]) -> bytes:
    if raw.seekable():
        head = raw.read(HEAD)
        raw.seek(0)
        return head
    return raw.peek(HEAD)[:HEAD]  # type: ignore[attr-defined]  # a BufferedReader


def _compression(head: bytes) -> str:
    if head.startswith(_ZSTD):
        return "zstd"
    if head.startswith(_ZIP):
        return "zip"
    return next((name for magic, (name, _) in _OPENERS.items() if head.startswith(magic)), "")


def _uncompress(part: Part, raw: IO[bytes], kind: str, head: bytes, stack: ExitStack) -> IO[bytes]:
    if kind == "zip":
        return _open_member(part, raw, stack)
    if kind == "zstd":
        return io.BufferedReader(_ZstdLines(part, raw), 1 << 20)
    opener: Callable[[IO[bytes]], Any] = next(
        opener for magic, (_, opener) in _OPENERS.items() if head.startswith(magic)
    )
    uncompressed: Any = stack.enter_context(opener(raw))
    return io.BufferedReader(uncompressed, 1 << 20)


def _open_member(part: Part, raw: IO[bytes], stack: ExitStack) -> IO[bytes]:
    whole: Any = raw if raw.seekable() else io.BytesIO(raw.read())
    archive = stack.enter_context(zipfile.ZipFile(whole))
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if any(name == "[Content_Types].xml" for name in names):
        raise InputError(f"{part.label}: an Excel workbook, not a table of text; save the sheet as CSV")
    if "content.xml" in names and "mimetype" in names:
        raise InputError(f"{part.label}: an OpenDocument spreadsheet, not a table of text; save the sheet as CSV")
    names = [name for name in names if not name.rpartition("/")[2].startswith(".") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise InputError(
            f"{part.label}: a zip of {len(names)} files ({listed}), and one is needed; unpack it, and give the file or "
            f"a glob: unzip {part.path.name}"
        )
    try:
        member: Any = stack.enter_context(archive.open(names[0]))
    except RuntimeError as exc:  # encrypted, or compressed in a way that Python does not know
        raise InputError(f"{part.label}: {exc}; unpack it, and give the file: unzip {part.path.name}") from exc
    return io.BufferedReader(member, 1 << 20)


class _ZstdLines(io.RawIOBase):
    """The bytes of a zstd file of UTF-8 text, through Polars, because Python 3.11 cannot read zstd by itself."""

    def __init__(self, part: Part, raw: IO[bytes]) -> None:
        self._part = part
        whole: Any = part.path if raw.seekable() else raw.read()
        lines = pl.scan_lines(whole, glob=False) if isinstance(whole, type(part.path)) else pl.scan_lines(whole)
        self._batches = iter(lines.collect_batches(chunk_size=100_000, maintain_order=True))
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return how many bytes were put there; 0 at the end."""
        while not self._rest:
            try:
                batch = next(self._batches, None)
            except pl.exceptions.PolarsError as exc:
                raise InputError(
                    f"{self._part.label}: only UTF-8 text is read from zstd ({exc}); uncompress it first: "
                    f"zstd -d {self._part.path.name}"
                ) from exc
            if batch is None:
                return 0
            self._rest = memoryview(("\n".join(batch.to_series().to_list()) + "\n").encode() if batch.height else b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _refuse_foreign(part: Part, head: bytes) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    for magics, beginning in ((_FOREIGN, start), (_FOREIGN_TEXT, start.lower())):
        for magic, (what, way_out) in magics.items():
            if beginning.startswith(magic):
                raise InputError(f"{part.label}: {what}, not a table of rows; {way_out}")
    if head[3:8] == bytes(5) and head[0]:  # the length of the first record
        raise InputError(f"{part.label}: a file of TFRecord, not a table of rows; write the table as Parquet")
    if head[257:262] == b"ustar":
        raise InputError(
            f"{part.label}: a tar archive, not a table of rows; unpack it, and give the file or the directory: "
            f"tar -xf {part.path.name}"
        )
