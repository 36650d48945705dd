"""What an answer may cost: a trial measures it, so that no version is served that would hold up every caller.

A batch is encoded on the way of requests, and nothing can interrupt it. So the longest history is encoded alone and in
batches of every size that serving makes, and all must fit. Time is the processor's, the least of three tries, because
the trial steps back behind everything else on the machine. A graph that is slow for one history alone passes: no trial
can know it.
"""

import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from service.errors import ModelError, RefusedError
from service.model.student import BUCKETS, Student

MOST_S = 1.0
"""The longest budget that a request can have: nobody waits for a batch that takes longer."""
KILLED_AFTER_S = 5.0
SPARE_BYTES = 512 << 20
_PER_INPUT_BYTE = 64
_TRIES = 3
_FAR = 4
"""What takes so many times too long is not tried again."""


def spare_bytes(max_history: int, dim: int) -> int:
    """Return how much memory a batch may take beside what the loaded model has."""
    return SPARE_BYTES + _PER_INPUT_BYTE * BUCKETS[-1] * max_history * dim * 4


def check_cost(student: Student, path: Path, *, max_history: int, dim: int, n_items: int) -> None:
    """Encode histories as serving does. Raises RefusedError if that takes too much time or memory.

    A batch that takes longer than KILLED_AFTER_S ends this process with SIGPROF. A model that cannot be run at all is
    left to the golden answers. path: of the bundle, for the message.
    """
    rows = np.random.default_rng(0).integers(n_items, size=max_history).tolist()
    spare = spare_bytes(max_history, dim)
    try:
        with _spare_memory(spare):
            for size in (1, BUCKETS[-1], *BUCKETS[1:-1]):
                for length in (max_history, 0, 1):
                    took_s = _time(student, [rows[:length]] * size)
                    if took_s > MOST_S:
                        text = f"{size} histories of {length} items take {took_s:.2f} s, and may take {MOST_S:g} s"
                        raise RefusedError("rejected_canary", f"{path}: {text}; it is not served")
    except (MemoryError, ModelError) as exc:
        if isinstance(exc, MemoryError) or "alloc" in str(exc.__cause__):
            text = f"a batch of histories needs more than {spare >> 20} MiB, so no golden answer was asked for"
            raise RefusedError("rejected_canary", f"{path}: {text}; it is not served") from exc


@contextmanager
def _spare_memory(spare: int) -> Iterator[None]:
    """Let this process take no more than so many bytes beside what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = min(_used_bytes() + spare, *[each for each in (soft, hard) if each != resource.RLIM_INFINITY], sys.maxsize)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _time(student: Student, histories: Sequence[Sequence[int]]) -> float:
    """Return the least time of the processor that a batch took, in at most three tries."""
    least = float("inf")
    for _ in range(_TRIES):
        signal.setitimer(signal.ITIMER_PROF, KILLED_AFTER_S)
        start = time.process_time()
        student.encode(histories)
        least = min(least, time.process_time() - start)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if least <= MOST_S or least > _FAR * MOST_S:
            break
    return least


def _used_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
