"""What training needs of the machine, looked for before anything large is imported: this module is imported first.

Without it a missing package, or a machine without a place for temporary files, would end in a trace from deep inside
of another package. Importing it ends the process with exit code 2 and a line that says what to do.
"""

import ctypes
import getpass
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

PACKAGES = (
    "implicit", "jinja2", "matplotlib", "onnx", "onnxscript", "polars", "rich", "safetensors", "scipy", "torch",
)  # fmt: skip
"""The packages of the extra "train", by the names that they are imported by."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # the numbers of mallopt's options in glibc's malloc.h


def find_lack() -> str | None:
    """Return what this machine lacks and the way out, in one line, or None."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        return (
            f"training needs {', '.join(missing)}: pip install 'retort[train]', "
            "or in a copy of the repository pip install -c constraints.txt -e '.[train]'"
        )
    try:
        tempfile.gettempdir()
    except FileNotFoundError as exc:
        return f"training needs a directory for temporary files: {exc.strerror}; set TMPDIR to one of yours"
    return None


def name_the_user() -> None:
    """Give a user who has no name one: torch asks for it, and puts it into the name of a directory."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def available_bytes() -> int | None:
    """Return how much memory this process may still take, by the machine and by its control group; None: not known."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    for place in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError, ValueError):  # a limit that says "max" is none
                found.append(int(Path(place, limit).read_text()) - int(Path(place, used).read_text()))
    return min(found, default=None)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks of up to 32 MB instead of returning each to the system at once.

    Without it, the pages of every temporary array of logits are mapped anew at each step, which makes the distillation
    loss up to 1.7 times slower: tests/bench/README.md, "Freed memory is kept". Where the C library is not glibc, this
    does nothing.
    """
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def return_freed_memory() -> None:
    """Return to the system what is freed and was kept. Where the C library is not glibc, this does nothing.

    What a training leaves behind lies in pieces between what is still held, and the next one would not fit into them.
    """
    if (malloc_trim := _of_glibc("malloc_trim")) is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def forget_peak() -> None:
    """Let peak_bytes count from now on, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int | None:
    """Return how much memory this process held at most since forget_peak(); None where the system does not say."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return None


if lack := find_lack():
    print(f"error: {lack}", file=sys.stderr)
    raise SystemExit(2)
name_the_user()
