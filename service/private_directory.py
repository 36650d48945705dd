"""A directory of this user alone, for what other users of the machine may neither read nor plant."""

import os
import stat
from pathlib import Path

from service.errors import StartError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_private(path: Path) -> Path:
    """Make a directory with all that lead to it, unless it is there, and close it to others; return its path.

    Raises OSError where that cannot be, and StartError where others could have planted something in it.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    link, status = path.lstat(), path.stat()
    advice = "set RETORT_DATA_DIR to a directory that does not exist yet, in here or elsewhere"
    if {link.st_uid, status.st_uid} != {os.getuid()}:
        raise StartError(f"{path}: belongs to another user, who could change what is kept there; {advice}")
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise StartError(f"{path}: others may write there, and may have done so; {advice}")
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


def open_private(path: Path, flags: int) -> int:
    """Open a file that nobody else may read, and return its descriptor. Raises OSError, also for a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
