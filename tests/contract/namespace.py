"""Namespaces of Linux, in which a test has a network or file systems of its own; tests skip where they may not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.build_context import ROOT

FOREIGN_USER = 12_345
"""A user id without an entry in /etc/passwd."""


def enter_namespace(*kinds: str, tools: tuple[str, ...] = ()) -> list[str]:
    """Return the beginning of a command that runs in new namespaces, as root of them.

    kinds: options of unshare, such as --net. tools: programs that the test needs beside it. Skips, or fails where
    RETORT_REQUIRE_NAMESPACES=1, if they cannot be had.
    """
    command = ["unshare", *kinds, "--mount", "--propagation", "private"]
    missing = [tool for tool in ("unshare", *tools) if shutil.which(tool) is None]
    if missing:
        not_checked(f"{', '.join(missing)}: not installed")
    for prefix in (command, [*command, "--user", "--map-root-user"]):
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    not_checked(f"{' '.join(command)}: not allowed here")
    raise AssertionError("not_checked() never returns")


def enter_as_foreign_user(root: Path, *mounts: str) -> list[str]:
    """Return the beginning of a command that runs as a user without a name and without HOME, after some mounts.

    root: a directory that every user may enter. mounts: lines of a shell that root runs before. Skips as above.
    """
    if os.geteuid() != 0:
        not_checked("becoming another user needs root")
    enter = enter_namespace(tools=("setpriv",))
    script = " && ".join([
        open_interpreter(root),
        *mounts,
        f"cd / && exec setpriv --reuid {FOREIGN_USER} --regid {FOREIGN_USER} --clear-groups env -u HOME -u LOGNAME "
        '-u USER "$@"',
    ])  # fmt: skip
    return [*enter, "sh", "-c", script, "sh"]


def open_interpreter(root: Path) -> str:
    """Return the shell commands that let every user reach this Python and this repository, where a directory is closed.

    root: a directory that every user may enter. Without a closed directory, such as root's home, the command is true.
    """
    places = {Path(place).resolve() for place in (sys.base_prefix, sys.prefix, ROOT)}
    closed = {place: top for place in sorted(places) if (top := _closed_above(place))}
    kept = {place: root / f"kept-{number}" for number, place in enumerate(closed)}
    steps = [f"mkdir -p {aside} && mount --bind {place} {aside}" for place, aside in kept.items()]
    steps += [f"mount -t tmpfs -o mode=0755 tmpfs {top}" for top in sorted(set(closed.values()))]
    steps += [f"mkdir -p {place} && mount --bind {aside} {place}" for place, aside in kept.items()]
    return " && ".join(steps) or "true"


def _closed_above(place: Path) -> Path | None:
    return next((path for path in reversed(place.parents) if not path.stat().st_mode & 0o001), None)


def not_checked(why: str) -> None:
    """Skip the test, or fail where RETORT_REQUIRE_NAMESPACES=1. Never returns."""
    if os.environ.get("RETORT_REQUIRE_NAMESPACES") == "1":
        pytest.fail(f"RETORT_REQUIRE_NAMESPACES=1, and {why}")
    pytest.skip(f"NOT CHECKED: {why}")
