"""Takes from a process what it does not need, so that a hostile bundle finds nothing in it worth stealing.

What each layer is for, on Linux; elsewhere nothing is taken:

    resource limits     the machine goes on, whatever the process does
    capabilities        root without CAP_SYS_PTRACE cannot read the memory or the environment of other processes. The
                        right to read any file is kept, because root may publish what belongs to somebody else
    Landlock            (Linux 5.13) opens only the files that it is given, no TCP, no signals to others; and the kernel
                        then refuses /proc/PID/environ and the like of every process outside
    user namespace      in the place of Landlock where the kernel has none: another namespace's processes are unreadable

None of them needs privileges. A container may forbid the last one; what then remains is that the service's own
processes are closed to their own user too (hide_from_same_user).
"""

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 4, 38  # of prctl
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # of every architecture
_READ = 1 << 2 | 1 << 3  # read a file, list a directory
_WRITE = _READ | 1 << 1 | sum(1 << bit for bit in (4, 5, 7, 8, 13, 14))  # and write, remove, make, rename, truncate
_ONLY_FILES = 1 << 1 | 1 << 2 | 1 << 14
_HANDLED_BY_VERSION = (13, 14, 15, 15, 16)
"""How many of the bits of file accesses each version of Landlock knows, from version 1 on."""
_KEPT_CAPABILITIES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_CAPABILITY_VERSION = 0x20080522
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of unshare


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def hide_from_same_user() -> None:
    """Close /proc/PID/environ, memory and the like of this process to other processes of its user.

    A debugger needs root from now on, and the process leaves no core dump.
    """
    if sys.platform == "linux":
        _libc().prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def limit(limits: Mapping[int, int]) -> None:
    """Set resource limits, soft and hard: the name in the module resource to the most. None is ever raised.

    Past the time of the processor a process gets SIGXCPU, and a second later SIGKILL.
    """
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        last = least + 1 if kind == resource.RLIMIT_CPU and least != hard else least
        resource.setrlimit(kind, (least, last))


def confine(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Take everything from this process but these files and directories, and what it has open already.

    Call it once everything is imported, and before a second thread is started.
    """
    if sys.platform != "linux":
        return
    drop_capabilities()
    if not restrict_files(readable, writable):
        leave_namespaces()


def drop_capabilities() -> None:
    """Give up all privileges of root but that to read and write files."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: of the first 32 capabilities, then the others
    libc = _libc()
    if libc.capget(header, held) == 0 and any(held):
        kept = held[1] & _KEPT_CAPABILITIES
        libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))


def leave_namespaces() -> bool:
    """Go to a user namespace and a network of its own; return whether the system lets it."""
    return bool(_libc().unshare(_NEW_USER | _NEW_NETWORK) == 0)


def restrict_files(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Let Landlock refuse all files but these from now on; return False where the kernel has none."""
    libc = _libc()
    libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    handled = (1 << _HANDLED_BY_VERSION[min(version, len(_HANDLED_BY_VERSION)) - 1]) - 1
    rules = _Ruleset(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    for paths, access in ((readable, _READ), (writable, _WRITE)):
        for path in paths:
            _allow(ruleset, path, access & handled)
    is_restricted = bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    os.close(ruleset)
    return is_restricted


def _allow(ruleset: int, path: Path, access: int) -> None:
    with contextlib.suppress(OSError):  # what is not there needs no rule
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            beneath = _Beneath(access if path.is_dir() else access & _ONLY_FILES, place)
            _libc().syscall(_ADD_RULE, ruleset, 1, ctypes.byref(beneath), 0)
        finally:
            os.close(place)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
