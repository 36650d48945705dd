"""What a cluster does with the parts of a table and the shards of its users: plain functions of values that travel.

A part is read by itself (PartRead) and says what it knows of the whole (Told). When all have told, the whole is
settled (Settled), each part is cut into the shards of its users, and the pieces of a shard are cleaned together by the
functions that clean a table in memory. Nothing here knows what engine carries the values.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.data.gathering import Gathered, InMemory, gather_part
from training.data.interaction_file import Cleaned, Cleaning, Coded, clean_rows, order_ids
from training.data.settling import Meaning, Tally
from training.errors import InputError
from training.file.account import Account
from training.file.identifier import ROUNDED, IdForm, see_ids, tidy_ids
from training.file.source import Source

_SAMPLE = 1000  # rows of a part whose users say where shards are cut
Texts = dict[str, pl.Series]  # "user" and "item": the ids by their code


@dataclass(frozen=True)
class Told:
    """What a part knows of the whole table."""

    number: int
    account: Account
    tally: Tally
    n: int  # rows
    has_times: bool
    labels: tuple[str, str]  # of its rows: that of the part, and what stands before a line
    events: Sequence[str]  # values of the event column
    forms: Mapping[str, IdForm]  # of its users and items
    rounded: Mapping[str, Sequence[str]]  # ids that a spreadsheet may have rounded
    sample: Sequence[str]  # users of some rows


@dataclass(frozen=True)
class PartRead:
    """The rows of a part."""

    told: Told
    rows: Gathered
    texts: Texts
    events: Mapping[str, int]


@dataclass(frozen=True)
class Settled:
    """What the parts together have settled."""

    cleaning: Cleaning
    meaning: Meaning | None
    forms: Mapping[str, IdForm]
    bounds: Sequence[str]  # the first user of each shard but the first
    starts: Mapping[int, int]  # rows before each part


@dataclass(frozen=True)
class Piece:
    """The rows of a part that belong to one shard."""

    part: int
    rows: Gathered
    texts: Texts
    events: Mapping[str, int]


def read_one(source: Source, number: int, cleaning: Cleaning) -> PartRead | InputError:
    """Read a part; what is wrong with it is returned, because a cluster would try it again and again."""
    account, rows = Account(), InMemory()
    try:
        gather_part(source, number, cleaning, account, rows)
    except InputError as error:
        return error
    texts = {"user": rows.users.distinct(), "item": rows.items.distinct()}
    gathered = rows.whole(account)
    few = gathered.user[:: max(1, rows.n // _SAMPLE)]
    labels = (rows.rows[0].label, rows.rows[0].of) if rows.rows else ("", "")
    told = Told(
        number, account, rows.tally, rows.n, rows.has_times, labels, list(rows.event_codes),
        {name: see_ids(ids) for name, ids in texts.items()},
        {name: ids.filter(ids.str.strip_chars().str.contains(ROUNDED)).to_list() for name, ids in texts.items()},
        texts["user"].gather(few[few >= 0]).to_list(),
    )  # fmt: skip
    return PartRead(told, gathered, texts, rows.event_codes)


def told_by(part: PartRead | InputError) -> Told | InputError:
    """Return what a part knows of the whole, or what is wrong with it."""
    return part.told if isinstance(part, PartRead) else part


def cut(part: PartRead, settled: Settled) -> Iterator[tuple[int, Piece]]:
    """Yield the pieces of a part with the number of their shard."""
    texts = {name: tidy_ids(ids, settled.forms[name]) for name, ids in part.texts.items()}
    number = part.told.number
    spread = number % (len(settled.bounds) + 1)  # where rows of no user go
    bounds = settled.bounds
    shards = [spread if text is None else bisect_right(bounds, text) for text in texts["user"].to_list()]
    shard = np.array([*shards, spread], dtype=np.int32)[part.rows.user]  # the last is that of no id, code -1
    start = settled.starts[number]
    for one in np.unique(shard).tolist():
        chosen = np.flatnonzero(shard == one)
        rows = {name: array[chosen] for name, array in _arrays(part.rows).items()}
        found = {name: _recode(rows, name, ids) for name, ids in texts.items()}
        yield one, Piece(number, Gathered(**rows | {"position": chosen + start}), found, part.events)


def clean_pieces(pieces: Sequence[Piece], settled: Settled) -> Cleaned:
    """Clean the rows of a shard. pieces: of one shard, in any order."""
    pieces = sorted(pieces, key=lambda piece: piece.part)
    events: dict[str, int] = {}
    parts: list[dict[str, Any]] = []
    before = {"user": 0, "item": 0}
    for piece in pieces:
        arrays = _arrays(piece.rows)
        lookup = [events.setdefault(text, len(events)) for text in piece.events]
        arrays["event"] = np.array([*lookup, -1], dtype=np.int32)[arrays["event"]]
        for name, ids in piece.texts.items():
            arrays[name] = np.where(arrays[name] < 0, -1, arrays[name] + before[name]).astype(np.int32)
            before[name] += len(ids)
        parts.append(arrays)
    rows = Gathered(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    users, items = (order_ids(pl.concat([piece.texts[name] for piece in pieces])) for name in ("user", "item"))
    return clean_rows(rows, Coded(users, items, events), settled.cleaning, settled.meaning)


def _arrays(rows: Gathered) -> dict[str, Any]:
    """Return the arrays that rows have, by name."""
    found = {one.name: getattr(rows, one.name) for one in fields(rows)}
    return {name: array for name, array in found.items() if array is not None}


def _recode(rows: dict[str, NDArray[Any]], name: str, ids: pl.Series) -> pl.Series:
    """Number the ids of some rows anew, in place, and return those that they have."""
    present, codes = np.unique(rows[name], return_inverse=True)
    has_none = int(len(present) > 0 and present[0] < 0)
    rows[name] = (codes - has_none).astype(np.int32)
    return ids.gather(present[has_none:])
