"""Which search a catalogue gets: the exact one while its table is small, else the approximate one.

The size of the table decides, not a measured time, because replicas of one bundle must give the same answers. If codes
miss more than 1 in 100 of the true best 100 items, the search is exact whatever the size, and the operator is warned.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from service.bundle import Bundle, ItemTable
from service.search.approximate import Approximate
from service.search.code_cache import read_or_make_codes
from service.search.exact import Exact
from service.search.measured_code import LEAST_RECALL, MANY, MeasuredCodes, make_codes
from service.search.protocol import Encode, Search

Kind = Literal["auto", "exact", "approximate"]
"""The values of RETORT_INDEX."""
Warn = Callable[[str], None]
"""Tells the operator, in one line."""
EXACT_BYTES = 5 << 20
"""The largest table that is searched exactly, in bytes as it is multiplied.

Larger ones fall out of the processor's cache between requests: tests/bench/README.md, "Exact up to a table of 5 MiB".
"""


def open_search(bundle: Bundle, encode: Encode, *, kind: Kind, directory: Path, warn: Warn) -> Search[Any]:
    """Return the search for a bundle's items.

    kind: "auto" decides by size. directory: where codes are kept. Raises StartError, and ModelError from encode.
    """
    if kind == "exact" or (kind == "auto" and _multiplied_bytes(bundle.table) <= EXACT_BYTES):
        return Exact(bundle.table)
    measured = _find_codes(bundle, encode, directory, warn)
    if measured.recall < LEAST_RECALL:
        warn(f"codes find only {measured.recall:.3f} of the best {MANY}: searching exactly, which is slow")
        return Exact(bundle.table)
    return Approximate(bundle.table, measured)


def _multiplied_bytes(table: ItemTable) -> int:
    """Return how many bytes the exact search reads: int8 as it is, all else as float32."""
    return int(table.embeddings.size) * (4 if table.scales is None else 1)


def _find_codes(bundle: Bundle, encode: Encode, directory: Path, warn: Warn) -> MeasuredCodes:
    try:
        return read_or_make_codes(directory, bundle.manifest, lambda: make_codes(bundle, encode))
    except OSError as exc:
        warn(f"codes cannot be kept in {directory} ({exc.strerror}): they are made anew at every start")
        return make_codes(bundle, encode)
