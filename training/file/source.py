"""Where the rows of a table lie: one file, a directory or a glob of parts, or a remote address.

A place becomes a Source, whose parts are sorted by name, so that the same files have the same fingerprint and order.
What another program leaves beside its parts (`_SUCCESS`, `.crc`) is left out. Folders such as `day=2020-09-16` give
every row of their parts a column. A part that cannot be reached, or that seems to be there twice, is an error, because
its rows would be lost or counted twice in silence. A remote place is fetched into a temporary directory that lives as
long as its Source.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import unquote
from weakref import finalize

from training.errors import InputError

REMOTE = re.compile(r"^[a-z][a-z0-9+]*://", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")
_BESIDE = (".crc", ".md", ".sha256", ".md5", ".meta")  # ends of names that are no part of a directory of parts
_COPY = re.compile(
    r"(~|\.bak|\.gz|\.bz2|\.xz|\.zst|\.zip|\.csv|\.tsv|\.txt|\.jsonl?|\.ndjson|\.parquet|\.arrow|\.feather)$"
)
_FOLDER = re.compile(r"^([^=]+)=(.*)$")  # day=2020-09-16, as Hive, Spark and others name folders of parts
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
Place = str | Path


@dataclass(frozen=True)
class Part:
    """One file of a table. label: how messages name it."""

    path: Path
    label: str
    values: Mapping[str, str | None] = field(default_factory=dict)  # of the columns that its folders are named after
    state: tuple[int, int] | None = None  # its size, and when it was last written; None: it is nobody else's


@dataclass(frozen=True)
class Source:
    """The files of a table in their order."""

    label: str  # the place as it was given, for messages
    name: str  # its last name, for a report
    parts: tuple[Part, ...]
    kept: Any = None  # the temporary directory of what was fetched
    watch: Callable[[int], object] = int  # is told how many bytes were read

    @cached_property
    def size(self) -> int:
        """The bytes of all parts."""
        return sum(part.path.stat().st_size for part in self.parts)

    @cached_property
    def sums(self) -> list[str]:
        """The sha256 of each part. Raises InputError."""
        try:
            return [_sha256(part.path) for part in self.parts]
        except OSError as exc:
            raise InputError(f"{exc.filename or self.label}: {exc.strerror}; make it readable") from exc

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the only file, or one over the names and sums of all parts. Raises InputError."""
        if len(self.sums) == 1:
            return self.sums[0]
        lines = (f"{part.path.name} {one}\n" for part, one in zip(self.parts, self.sums, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def copies(self) -> list[tuple[Part, Part]]:
        """The parts that are byte for byte like an earlier one, each with that one."""
        firsts: dict[str, Part] = {}
        pairs = [(part, firsts.setdefault(one, part)) for part, one in zip(self.parts, self.sums, strict=True)]
        return [(part, first) for part, first in pairs if part is not first]

    def check_unchanged(self) -> None:
        """Raise InputError where a part was written to since it was found: rows may be missing or cut."""
        for part in self.parts:
            if part.state and (not part.path.exists() or _state(part.path) != part.state):
                raise InputError(
                    f"{part.label}: was written to while it was read; wait until it is whole, or give a copy of it"
                )


class _Directory:
    """A directory for what is fetched, which is removed when nobody holds it any more, at the latest at exit."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="retort-"))
        finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def find_source(place: Place) -> Source:
    """Return the files of a path, a directory, a glob or a remote address. Raises InputError where there are none."""
    if REMOTE.match(str(place)):
        return _fetch(str(place))
    if not str(place).strip():
        raise InputError("the path of the file is empty; give a file, a directory of parts, or a glob")
    path = _from_home(Path(place))
    try:
        if path.is_file():
            if not path.stat().st_size:
                raise InputError(f"{path}: the file is empty; it needs a header and rows")
            return Source(str(path), path.name, (Part(path, str(path), {}, _state(path)),))
        found = list(_files_of(path))
    except PermissionError as exc:
        raise InputError(f"{exc.filename or path}: {exc.strerror}; make it readable: chmod u+rX") from exc
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}; give a file, a directory of parts, or a glob") from exc
    full = [file for file in sorted(set(found)) if file.stat().st_size]
    if not full:
        raise InputError(f"{path}: no file with rows in it; give a file, a directory of parts, or a glob")
    _refuse_copies(full)
    root = _root(path)
    parts = tuple(Part(file, str(file), _values(file.relative_to(root).parts), _state(file)) for file in full)
    return Source(str(path), path.name or str(path), parts)


def _from_home(path: Path) -> Path:
    """Return a path whose `~` a shell has not replaced, as in --interactions=~/shop.csv."""
    try:
        return path.expanduser()
    except RuntimeError:  # nobody of that name
        return path


def _files_of(path: Path) -> Iterator[Path]:
    """Yield the files of a directory or a glob. Raises InputError where there is neither."""
    if path.is_dir():
        yield from _parts_of(path)
    elif path.exists():
        raise InputError(f"{path}: not a file (a pipe or a device); write it to a file first")
    elif path.is_symlink():
        raise _no_target(path)
    elif _GLOB.search(str(path)):
        for match in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))):
            if not _is_beside(match):
                yield from _parts_of(match) if match.is_dir() else _file_of(match)
    else:
        raise InputError(f"{path}: No such file or directory; give a file, a directory of parts, or a glob")


def _parts_of(directory: Path) -> Iterator[Path]:
    """Yield the files of a directory and of those in it, by links too, each directory once."""
    seen = set()

    def fail(error: OSError) -> None:
        raise error

    for folder, names, files in os.walk(directory, onerror=fail, followlinks=True):
        place = Path(folder).stat()
        names[:] = [] if (place.st_dev, place.st_ino) in seen else [name for name in names if name[0] not in "_."]
        if (place.st_dev, place.st_ino) in seen:
            continue
        seen.add((place.st_dev, place.st_ino))
        for name in files:
            if not _is_beside(Path(name)):
                yield from _file_of(Path(folder, name))


def _file_of(path: Path) -> Iterator[Path]:
    """Yield a path if it is a file. Raises InputError for a link to nothing, whose rows would be missing."""
    if path.is_symlink() and not path.exists():
        raise _no_target(path)
    if path.is_file():
        yield path


def _no_target(path: Path) -> InputError:
    return InputError(f"{path}: a link to {path.readlink()}, which is not there; bring it back, or remove the link")


def _refuse_copies(files: Sequence[Path]) -> None:
    """Raise InputError where two parts seem to be one, linked, compressed or converted beside itself."""
    seen: dict[Any, Path] = {}
    for file in files:
        name = file.name
        while _COPY.search(name):
            name = _COPY.sub("", name)
        place = file.stat()
        for key in ((place.st_dev, place.st_ino), (file.parent, name)):
            other = seen.setdefault(key, file)
            if other != file:
                way_out = (
                    f", or give a glob of one: '{file.parent}/*{other.suffix}'" if file.suffix != other.suffix else ""
                )
                raise InputError(
                    f"{file}: seems to be {other.name} once more, whose rows would count twice; move one away{way_out}"
                )


def _root(path: Path) -> Path:
    """Return the directory of a place: a glob begins below it."""
    names = path.parts
    first = next((at for at, name in enumerate(names) if _GLOB.search(name) and not Path(*names[: at + 1]).exists()), 0)
    return Path(*names[:first]) if first else path if path.is_dir() else Path(path.anchor)


def _values(names: Sequence[str]) -> dict[str, str | None]:
    """Return the columns that folders are named after, with their value. names: of the folders, and of the file."""
    found = (match.groups() for name in names[:-1] if (match := _FOLDER.match(name)))
    return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, value in found}


def _is_beside(file: Path) -> bool:
    return file.name.startswith(("_", ".")) or file.name.lower().endswith(_BESIDE)


def _state(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(address: str) -> Source:
    """Copy the files of an address into a temporary directory. Raises InputError that says what is missing."""
    try:
        fsspec = import_module("fsspec")
    except ImportError as exc:
        raise InputError(f"{address}: reading it needs fsspec: pip install 'retort[remote]'") from exc
    directory = _Directory()
    try:
        system, root = fsspec.core.url_to_fs(address)
        names = system.glob(root) if _GLOB.search(root) else system.find(root) if system.isdir(root) else [root]
        wanted = sorted(name for name in names if not _is_beside(Path(name.split("?")[0])))
        parts = []
        for number, name in enumerate(wanted):
            path = directory.path / f"{number:06d}-{Path(name.split('?')[0]).name}"
            system.get_file(name, str(path))
            if path.stat().st_size:
                is_one = len(wanted) == 1
                parts.append(Part(path, address, {}) if is_one else Part(path, name, _values(name.split("/"))))
    except ImportError as exc:
        raise InputError(
            f"{address}: {exc} (https needs the extra 'retort[remote]'), or fetch the file yourself"
        ) from exc
    except Exception as exc:  # every file system of fsspec has errors of its own
        raise InputError(
            f"{address}: cannot be fetched ({type(exc).__name__}: {str(exc)[:200]}); check address and credentials, or "
            "fetch the file yourself and give its path"
        ) from exc
    if not parts:
        raise InputError(f"{address}: no file with rows in it; give the address of a file, or a glob of parts")
    return Source(address, Path(address.split("?")[0]).name, tuple(parts), directory)
