"""Rates of callers: what is set is what is had, over all workers of a machine, and without a store.

The generic cell rate algorithm keeps one number a caller: the time at which it will have paid for all it asked. Workers
of one service keep these in a file that they share; CLOCK_MONOTONIC is the same for all processes of a machine.
"""

import fcntl
import hashlib
import mmap
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_MAX_CALLERS = 10_000
_SETS, _WAYS = 2048, 8
_SLOT = struct.Struct("<16sd")
FILE_BYTES = _SETS * _WAYS * _SLOT.size


class Ledger(Protocol):
    """Until when each caller has paid, in seconds of time.monotonic()."""

    def move(self, caller: bytes, change: Callable[[float], float]) -> None:
        """Set a caller's time to what change() makes of it; a caller who is not known has 0."""


class OwnLedger:
    """The ledger of one process. The caller heard of longest ago is forgotten first."""

    def __init__(self) -> None:
        self._paid: OrderedDict[bytes, float] = OrderedDict()

    def move(self, caller: bytes, change: Callable[[float], float]) -> None:
        """As Ledger says."""
        self._paid[caller] = change(self._paid.pop(caller, 0.0))
        if len(self._paid) > _MAX_CALLERS:
            self._paid.popitem(last=False)


class SharedLedger:
    """The ledger of all workers of a service: a file of FILE_BYTES zeros that its parent made.

    A caller has a set of eight places, by its hash. Where they are taken, the one that is paid up longest gives way.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), FILE_BYTES)

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        self._file.close()

    def move(self, caller: bytes, change: Callable[[float], float]) -> None:
        """As Ledger says; other workers wait meanwhile."""
        mark = hashlib.blake2b(caller, digest_size=16).digest()
        first = int.from_bytes(mark[:4], "little") % _SETS * _WAYS
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            slots = [_SLOT.unpack_from(self._map, (first + way) * _SLOT.size) for way in range(_WAYS)]
            known = next((way for way in range(_WAYS) if slots[way][0] == mark), None)
            way = min(range(_WAYS), key=lambda each: slots[each][1]) if known is None else known
            paid = 0.0 if known is None else slots[known][1]
            _SLOT.pack_into(self._map, (first + way) * _SLOT.size, mark, change(paid))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class Rates:
    """Lets each caller do so much a second, and one second's worth at once."""

    def __init__(self, per_s: float, ledger: Ledger | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """per_s: 0 is no limit. ledger: this process's own where none is given."""
        self._per_s, self._clock = per_s, clock
        self._ledger: Ledger = ledger or OwnLedger()
        self._burst_s = max(0.0, 1 - 1 / per_s) if per_s else 0.0

    @property
    def is_on(self) -> bool:
        """Whether there is a limit at all."""
        return self._per_s > 0

    def is_over(self, caller: bytes) -> bool:
        """Whether this request is one too many of its caller's; counts it if not."""
        now = self._clock()
        is_over = False

        def change(paid: float) -> float:
            nonlocal is_over
            is_over = paid > now + self._burst_s + 1e-9
            return paid if is_over else max(paid, now) + 1 / self._per_s

        self._ledger.move(caller, change)
        return is_over

    def charge(self, caller: bytes, weight: float) -> None:
        """Count further requests' worth for what has just been let in, and turned out to be large."""
        if self.is_on and weight > 0:
            now = self._clock()
            self._ledger.move(caller, lambda paid: max(paid, now) + weight / self._per_s)
