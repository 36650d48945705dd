"""Child processes: those that run a module of ours, and those that must end with their parent, however it ends."""

import os
import sys
from pathlib import Path

# It runs between fork and exec as a program of its own, because a preexec_fn may deadlock where threads exist.
# 1 is PR_SET_PDEATHSIG. The parent may have ended before the call, which then came too late.
_TRAMPOLINE = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the owner is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
_MODULE = "import runpy, sys; sys.path[:] = {path!r}; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
_ROOT = Path(__file__).parents[1]


def tie_to_parent(command: list[str]) -> list[str]:
    """Return a command that runs another, so that it gets SIGTERM when the thread that started it ends.

    Elsewhere than on Linux the other command merely runs. Start it from the process that called this function, because
    it ends at once under any other parent.
    """
    return [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), *command]


def python_module(module: str, *arguments: str) -> list[str]:
    """Return a command that runs a module as `python -m` does, but never one that lies in the working directory.

    With `-m`, Python looks into the working directory first. A folder `service` or a file `numpy.py` that somebody put
    there would then run with the keys in its environment. So the child is isolated (-I), and is told where this process
    finds its modules: all of sys.path but the working directory, unless that is where this package itself lies.
    """
    here = _working_directory()
    path = [entry for entry in sys.path if _is_kept(entry, here)]
    if not any(Path(entry) == _ROOT for entry in path):
        path.append(str(_ROOT))
    flags = ["-I"]
    if sys.dont_write_bytecode:
        flags.append("-B")
    flags += [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, *flags, "-c", _MODULE.format(path=path, module=module), *arguments]


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was deleted
        return None


def _is_kept(entry: str, here: Path | None) -> bool:
    place = Path(entry)
    return place.is_absolute() and (place == _ROOT or place.resolve() != here)
