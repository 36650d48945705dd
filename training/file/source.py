"""Where the rows of a table lie: one file, a directory or a glob of parts, or a remote address.

A place becomes a Source, whose parts are sorted by name, so that the same files have the same fingerprint and order.
What another program leaves beside its parts (`_SUCCESS`, `.crc`) is left out. A remote place is fetched into a
temporary directory that lives as long as its Source.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

from training.errors import InputError

REMOTE = re.compile(r"^[a-z][a-z0-9+]*://", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")
_BESIDE = (".crc", ".md", ".sha256", ".md5", ".meta")  # ends of names that are no part of a directory of parts
Place = str | Path


@dataclass(frozen=True)
class Part:
    """One file of a table. label: how messages name it."""

    path: Path
    label: str


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
    def fingerprint(self) -> str:
        """The sha256 of the only file, or one over the names and sums of all parts. Raises InputError."""
        try:
            sums = [_sha256(part.path) for part in self.parts]
        except OSError as exc:
            raise InputError(f"{exc.filename or self.label}: {exc.strerror}; make it readable") from exc
        if len(sums) == 1:
            return sums[0]
        lines = (f"{part.path.name} {one}\n" for part, one in zip(self.parts, sums, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class _Directory:
    """A directory for what is fetched, which is removed when nobody holds it any more, at the latest at exit."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="retort-"))
        finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def find_source(place: Place) -> Source:
    """Return the files of a path, a directory, a glob or a remote address. Raises InputError where there are none."""
    if REMOTE.match(str(place)):
        return _fetch(str(place))
    path = Path(place)
    try:
        if path.is_file():
            if not path.stat().st_size:
                raise InputError(f"{path}: the file is empty; it needs a header and rows")
            return Source(str(path), path.name, (Part(path, str(path)),))
        if path.is_dir():
            found = sorted(_parts_of(path))
        elif path.exists():
            raise InputError(f"{path}: not a file (a pipe or a device); write it to a file first")
        elif _GLOB.search(str(path)):
            anchor = path.anchor or "."
            pattern = str(path.relative_to(path.anchor)) if path.anchor else str(path)
            found = sorted(file for file in Path(anchor).glob(pattern) if file.is_file() and not _is_beside(file))
        else:
            raise InputError(f"{path}: No such file or directory; give a file, a directory of parts, or a glob")
    except PermissionError as exc:
        raise InputError(f"{exc.filename or path}: {exc.strerror}; make it readable: chmod u+r") from exc
    full = [file for file in found if file.stat().st_size]
    if not full:
        raise InputError(f"{path}: no file with rows in it; give a file, a directory of parts, or a glob")
    return Source(str(path), path.name or str(path), tuple(Part(file, str(file)) for file in full))


def _parts_of(directory: Path) -> Iterator[Path]:
    for file in directory.rglob("*"):
        inside = file.relative_to(directory).parts
        if file.is_file() and not any(name.startswith(("_", ".")) for name in inside) and not _is_beside(file):
            yield file


def _is_beside(file: Path) -> bool:
    return file.name.startswith(("_", ".")) or file.name.lower().endswith(_BESIDE)


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
                parts.append(Part(path, name if len(wanted) > 1 else address))
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
