"""How a catalogue is searched: exactly while its table is small, else through codes that were measured to be enough.

Decided by size, not by a clock: replicas of one bundle must search alike. Codes are made once for a version and kept in
the data directory, where other workers and later starts find them; the bundle itself is never written to. A search that
misses more than 1 in 100 of the true best 100 is not used: then the scan is exact again, slow as it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.bundle import Bundle, Float32, Int64, ItemTable
from service.search.approximate import FEW_AND_MANY, RECALL_AT, Approximate
from service.search.code import Coder, Codes, versions
from service.search.code_cache import FORMAT, MeasuredCodes, keep_codes, locked, read_codes
from service.search.exact import Exact
from service.search.protocol import Encode, Search
from service.search.scan import read_blocks, scan_best, with_biases, with_ones
from service.search.synthetic_user import sample_users

Kind = Literal["auto", "exact", "approximate"]
Warn = Callable[[str], None]
EXACT_BYTES = 5 << 20
"""A table up to here, as it is multiplied, is searched exactly: past it, a pass falls out of the processor's cache.

Of whole answers, approximate against exact, interleaved, fits to MovieTweetings and Online Retail, int8, 384 wide (one
core of a shared AMD EPYC): 12,600 items p50 of one client .71 and .78 ms against .99 and 1.03, requests a second at 16
connections 3,643 and 2,685 against 3,308 and 3,053; 20,000 items .87 and .91 ms against 1.15 and 1.35, 2,853 and 2,534
against 2,979 and 2,542; 6,000 items .81 against .90 ms, but 2,330 against 3,560 a second.
"""
LEAST_RECALL = 0.99
_MARGIN, _SPARE = 0.002, 0.001
_N_USERS, _N_HELD_OUT = 2000, 400
_N_TRAIN = 50_000
_DEPTHS = (100, 175, 250, 350, 500, 750, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 8000)
_SHARES = (0.25, 0.375, 0.4375, 0.5, 0.625, 0.75, 1.0)
_MOST_SHARES = 3
_ROW_BYTES = 8_000
"""Of codes, that are read in the time that one more row takes, to be found and for the fewest to be scored."""
_MANY_ITEMS = 200_000


def open_search(bundle: Bundle, encode: Encode, *, kind: Kind, directory: Path, warn: Warn) -> Search[Any]:
    """Return the search for a bundle. directory: where codes are kept."""
    if kind == "exact" or (kind == "auto" and _scanned_bytes(bundle.table) <= EXACT_BYTES):
        return Exact(bundle.table)
    found = _find(bundle, encode, directory, warn)
    if found.recall < LEAST_RECALL:
        warn(f"codes find only {found.recall:.3f} of the best {RECALL_AT}: searching exactly, which is slow")
        return Exact(bundle.table)
    return Approximate(bundle.table, found.codes, depths=found.depths, recall=found.recall)


def _scanned_bytes(table: ItemTable) -> int:
    """Return how much an exact search reads: int8 as it is, all else as float32."""
    return int(table.embeddings.size) * (4 if table.scales is None else 1)


def _find(bundle: Bundle, encode: Encode, directory: Path, warn: Warn) -> MeasuredCodes:
    """Read the codes of this version, or make and keep them; one process at a time, the others wait for it."""
    place = directory / f"{bundle.manifest.version}-{FORMAT}-{versions()['faiss']}"
    try:
        with locked(directory):
            if (kept := read_codes(place, bundle.manifest.n_items)) is not None:
                return kept
            made = _make(bundle, encode)
            keep_codes(made, place)
            return made
    except OSError as exc:
        warn(f"codes cannot be kept in {directory} ({exc.strerror}): they are made anew at every start")
        return _make(bundle, encode)


def _make(bundle: Bundle, encode: Encode) -> MeasuredCodes:
    """Make codes, coarse ones first, until few enough of the best by code hold the true best."""
    users = sample_users(bundle, encode, _N_USERS + _N_HELD_OUT)
    known, held_out = users[_N_HELD_OUT:], users[:_N_HELD_OUT]
    true = scan_best(bundle.table, held_out, RECALL_AT)
    for dims_per_code in (2, 1):
        found = _measure(_code(bundle, known, dims_per_code), with_ones(held_out, bundle.table), true)
        if found.recall >= LEAST_RECALL:
            break
    return found


def _code(bundle: Bundle, users: Float32, dims_per_code: int) -> Codes:
    table, n_items = bundle.table, bundle.manifest.n_items
    rows = np.sort(np.random.default_rng(1).choice(n_items, size=min(n_items, _N_TRAIN), replace=False))
    sample = table.pick(rows)
    if table.biases is not None:
        sample = np.concatenate([sample, table.biases[rows, None]], axis=1)
    coder = Coder(with_ones(users, table), sample, dims_per_code, 256 if n_items >= _MANY_ITEMS else 64)
    for first, block in read_blocks(table):
        coder.add(with_biases(block, first, table))
    return coder.finish()


def _measure(codes: Codes, users: Float32, true: Int64) -> MeasuredCodes:
    """Find the share of the lists and the depths that are enough and cost least. true: the best first."""
    found: list[tuple[float, float, MeasuredCodes]] = []
    for share in _SHARES:
        codes.share = share
        nearest = codes.nearest(users, _DEPTHS[-1])
        if share < _SHARES[-1] and _recall(nearest, true, _DEPTHS[-1]) < LEAST_RECALL + _MARGIN + _SPARE:
            continue
        few, many = (_least_depth(nearest, true[:, :k]) for k in FEW_AND_MANY)
        measured = MeasuredCodes(codes, (min(few, many), many), round(_recall(nearest, true, many), 4))
        found.append((share * codes.n_bytes + _ROW_BYTES * (few + many), share, measured))
        if len(found) == _MOST_SHARES:
            break
    _, codes.share, best = min(found, key=lambda each: each[:2])
    return best


def _least_depth(nearest: Int64, true: Int64) -> int:
    enough = (depth for depth in _DEPTHS if _recall(nearest, true, depth) >= LEAST_RECALL + _MARGIN)
    return next(enough, _DEPTHS[-1])


def _recall(nearest: Int64, true: Int64, depth: int) -> float:
    """Return the recall of strangers or of users with a taste, the lower one: see sample_users()."""
    shares = [np.isin(best, line[:depth]).mean() for line, best in zip(nearest, true, strict=True)]
    return float(min(np.mean(shares[0::2]), np.mean(shares[1::2])))
