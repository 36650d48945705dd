"""Child processes that must die with their parent, however it ends."""

import os
import sys

# Runs between fork and exec as a program of its own: a preexec_fn may deadlock where threads exist.
# 1 is PR_SET_PDEATHSIG.
_TRAMPOLINE = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the owner is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def mortal(command: list[str]) -> list[str]:
    """Return a command that runs another, which gets SIGTERM when the thread that started it ends. Start it at once."""
    return [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), *command]
