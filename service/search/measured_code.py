"""How the codes of a catalogue are made, and how much of them is looked at.

Synthetic users say how many of the best by code must be scored, and what share of the lists must be looked at, to find
the true best items. The cheapest that suffices is kept. Codes are made coarse first, and finer only if that is not
enough. Where the score is a sum, it is the sum's best items that must be found, with the bundle's counts and users who
were away for times of all kinds; those that are always scored, whatever the codes say, count as found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.bundle import Bundle, Float32, Int64
from service.search.addend import Addends, stand, weigh
from service.search.code import CodeBuilder, Codes, extend_items, extend_users
from service.search.protocol import Encode
from service.search.scan import read_blocks, scan_best
from service.search.synthetic_user import draw_known_users

FEW, MANY = 10, 100
"""The numbers of items for which a depth is measured. Recall is the share of the best MANY that is found."""
FOUND = -2
"""In the place of a row: it is scored whatever the codes say."""
LEAST_RECALL = 0.99
"""Codes that find less are not used."""
_MARGIN, _SPARE = 0.002, 0.001
"""How much more a depth must find, and a share of the lists again more: real users differ from the ones measured."""
_N_USERS, _N_HELD_OUT = 2000, 400
_N_ITEMS = 50_000
_DEPTHS = (100, 175, 250, 350, 500, 750, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 8000)
_SHARES = (0.25, 0.375, 0.4375, 0.5, 0.625, 0.75, 1.0)
_MOST_SHARES = 3
_ROW_BYTES = 8_000
"""One more row in the shortlists takes about as long as reading so many bytes of codes."""
_MANY_ITEMS = 200_000
_N_LISTS, _N_LISTS_OF_MANY = 64, 256


@dataclass(frozen=True, slots=True)
class MeasuredCodes:
    """Codes, and what was measured of them.

    depths: how long a shortlist must be for FEW and for MANY items. recall: the share of the best MANY that is found.
    """

    codes: Codes
    depths: tuple[int, int]
    recall: float


def make_codes(bundle: Bundle, encode: Encode) -> MeasuredCodes:
    """Make the codes of a bundle's items and measure them. Its recall may be too low: see LEAST_RECALL.

    Takes seconds, or half a minute for a million items. Raises ModelError.
    """
    users, histories = draw_known_users(bundle, encode, _N_USERS + _N_HELD_OUT)
    known = users[_N_HELD_OUT:]
    held_out, addends = _weigh(bundle, users[:_N_HELD_OUT], histories[:_N_HELD_OUT])
    true = scan_best(bundle.table, held_out, MANY, addends)
    for dims_per_code in (2, 1):
        codes = _code(bundle, known, dims_per_code)
        trend = None if addends is None else np.array([addend.weight for addend in addends], dtype=np.float32)
        measured = _measure(codes, extend_users(held_out, bundle.table), trend, _without(true, addends))
        if measured.recall >= LEAST_RECALL:
            break
    return measured


def _weigh(bundle: Bundle, users: Float32, histories: Sequence[Sequence[int]]) -> tuple[Float32, Addends | None]:
    """Return users as they are multiplied, and what is added to their scores at the time of the bundle's counts."""
    parts = bundle.table.parts
    if parts is None:
        return users, None
    standing = None if parts.counts is None else stand(parts, np.asarray(parts.counts[0]))
    gap = parts.rule.gap
    gaps = np.resize(np.repeat([gap.typical, *gap.knots], 2), len(users))  # both kinds of users have every gap
    return weigh(parts, users, histories, gaps, standing)


def _without(true: Int64, addends: Addends | None) -> Int64:
    """Return the true best rows, with FOUND in the place of those that are scored whatever the codes say."""
    if addends is None:
        return true
    return np.stack(
        [np.where(np.isin(rows, addend.candidates()), FOUND, rows) for rows, addend in zip(true, addends, strict=True)]
    )


def _code(bundle: Bundle, users: Float32, dims_per_code: int) -> Codes:
    """Learn codes from some users and items, and code every item."""
    table, n_items, parts = bundle.table, bundle.manifest.n_items, bundle.table.parts
    trend = None
    if parts is not None and parts.counts is not None and parts.rule.trend is not None:
        trend = parts.rule.trend.log(np.asarray(parts.counts[0]))
    rows = np.sort(np.random.default_rng(1).choice(n_items, size=min(n_items, _N_ITEMS), replace=False))
    builder = CodeBuilder(
        extend_users(users, table),
        extend_items(table.pick(rows), rows, table),
        dims_per_code=dims_per_code,
        n_lists=_N_LISTS_OF_MANY if n_items >= _MANY_ITEMS else _N_LISTS,
        trend=None if trend is None else trend[rows],
    )
    for first, block in read_blocks(table):
        own = slice(first, first + len(block))
        builder.add(extend_items(block, own, table), None if trend is None else trend[own])
    return builder.finish()


def _measure(codes: Codes, users: Float32, trend: Float32 | None, true: Int64) -> MeasuredCodes:
    """Find the share of the lists and the depths that are enough and cost least; set the share.

    users: float32 [n_users, dim], from extend_users(). trend: its weight for each, float32 [n_users]. true: their best
    rows, int64 [n_users, MANY], the best first.
    """
    enough: list[tuple[float, float, MeasuredCodes]] = []
    for share in _SHARES:
        codes.share = share
        nearest = codes.nearest(users, _DEPTHS[-1], trend=trend)
        if share < _SHARES[-1] and _recall(nearest, true, _DEPTHS[-1]) < LEAST_RECALL + _MARGIN + _SPARE:
            continue
        few, many = (_least_depth(nearest, true[:, :k]) for k in (FEW, MANY))
        measured = MeasuredCodes(codes, (min(few, many), many), round(_recall(nearest, true, many), 4))
        enough.append((share * codes.n_bytes + _ROW_BYTES * (few + many), share, measured))
        if len(enough) == _MOST_SHARES:
            break
    _, codes.share, cheapest = min(enough, key=lambda each: each[:2])
    return cheapest


def _least_depth(nearest: Int64, true: Int64) -> int:
    """Return the least depth that finds enough of the true best, or the greatest there is."""
    enough = (depth for depth in _DEPTHS if _recall(nearest, true, depth) >= LEAST_RECALL + _MARGIN)
    return next(enough, _DEPTHS[-1])


def _recall(nearest: Int64, true: Int64, depth: int) -> float:
    """Return the share of the true best among the first `depth` by code: the lower one of both kinds of users."""
    shares = [(np.isin(best, rows[:depth]) | (best == FOUND)).mean() for rows, best in zip(nearest, true, strict=True)]
    return float(min(np.mean(shares[0::2]), np.mean(shares[1::2])))  # draw_users() lets them take turns
