"""Faults of the machine, said in a line: a full disk, no permission, a limit. Nothing here hides a bug of ours.

Libraries that write files raise errors of their own when the disk is full; they are known by their words.
"""

import errno
import re
from collections.abc import Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|\d+ requested and \d+ written|"
    r"PytorchStreamWriter failed|unexpected pos \d+ vs"
)
_GONE = re.compile(r"\(os error 2\): (\S.*)")


def machine_fault(error: BaseException) -> str | None:
    """Return what to tell a person of an error that the machine caused; None for any other."""
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        where = f"{one.filename}: " if isinstance(one, OSError) and one.filename else ""
        if number in _FULL or number == errno.EFBIG or _WORDS.search(str(one)):
            is_limit = number == errno.EFBIG or "File too large" in str(one)
            what = "a file is larger than the limit allows" if is_limit else "the disk is full"
            return (
                f"{where}{what}. What was finished is whole: make room, and the same command goes on where it stopped; "
                "or give another --out"
            )
        if isinstance(one, OSError) and one.filename:
            return f"{where}{one.strerror}; choose another place, or make this one accessible"
        if isinstance(one, FileNotFoundError) and (found := _GONE.search(str(one))):  # Polars gives no filename
            return f"{found[1]}: No such file or directory; put it back, or remove its directory and run again"
        if isinstance(one, MemoryError):
            return "out of memory: give more, or make the work smaller, for example by --set prepare.max_history=100"
    return None


def write_whole(path: Path, text: str) -> None:
    """Write a small file aside and rename it, so that a full disk leaves the one that was there."""
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
