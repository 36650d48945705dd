"""All connections of one process: how many there may be, which one gives way, and that they are being drained.

Where there are too many, the one that is worth least is closed: idle ones first, then those that are slow to send a
head, then those slow to send a body, the longest quiet first. One that waits for its answer is never closed.
"""

import resource
from collections.abc import Callable
from typing import Protocol

_KEPT_FOR_FILES = 96
_LEAST = 16
MOST = 4096
IDLE, IN_HEAD, IN_BODY, ANSWERING = range(4)


class Member(Protocol):
    """One connection."""

    quiet_since: float
    """When it last finished something, in seconds of the loop's clock."""

    @property
    def phase(self) -> int:
        """IDLE, IN_HEAD, IN_BODY or ANSWERING."""

    def end(self) -> None:
        """Close it."""

    def drain(self) -> None:
        """Close it after the answer in progress, if any."""


class Crowd:
    """The connections of one process."""

    def __init__(self, most: int, on_shed: Callable[[], None] = lambda: None) -> None:
        """most: how many there may be. on_shed: called for each that is closed to make room, or turned away."""
        self.most, self._on_shed = most, on_shed
        self._members: set[Member] = set()
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._members)

    def admit(self, member: Member) -> bool:
        """Take a new connection in, closing another for it where there are too many; False where none gives way."""
        if len(self._members) >= self.most:
            self._on_shed()
            other = min(
                (other for other in self._members if other.phase < ANSWERING),
                key=lambda other: (other.phase, other.quiet_since),
                default=None,
            )
            if other is None:
                return False
            self._members.discard(other)
            other.end()
        self._members.add(member)
        return True

    def leave(self, member: Member) -> None:
        """Note that a connection is gone."""
        self._members.discard(member)

    def drain(self) -> None:
        """Let every answer from now on be the last of its connection."""
        self.is_draining = True
        for member in list(self._members):
            member.drain()


def most_connections(wanted: int, kept: int = _KEPT_FOR_FILES) -> int:
    """Return how many connections this process may hold. wanted: 0 for as many as its limit on open files allows.
    kept: files that everything else of the process needs.

    Raises the limit on open files as far as it may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (wanted or MOST) + kept
    if soft < needed and (hard == resource.RLIM_INFINITY or soft < hard):
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(_LEAST, min(wanted or MOST, soft - kept))
