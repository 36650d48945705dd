"""One command at a time works in a run directory.

Two runs in one directory would take over each other's checkpoints, and leave a bundle that is not the config's. The
lock is the kernel's (flock), so it ends with its process, however that ends; the file beside it only says whose it is.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import InputError

NAME = ".lock"


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keep other commands out of a run directory. Raises InputError that names the process which is in it."""
    path = directory / NAME
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise InputError(
                    f"{directory}: another command works in it (process {owner}); wait until it is done, or give "
                    "another --out"
                ) from exc
            if not _is_ours(path, file.fileno()):
                continue  # its owner removed it between our opening and our locking
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_ours(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
