"""Child processes that must end with their parent, however it ends."""

import os
import sys

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


def tie_to_parent(command: list[str]) -> list[str]:
    """Return a command that runs another, so that it gets SIGTERM when the thread that started it ends.

    Elsewhere than on Linux the other command merely runs. Start it from the process that called this function, because
    it ends at once under any other parent.
    """
    return [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), *command]
