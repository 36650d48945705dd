"""Read a table of interactions: which rows count as events, in which order they are put, and why others are dropped.

A malformed row (unreadable time, NaN, wrong number of fields) is a sign of a damaged file. Such rows are counted, and
too large a share of them stops the run. An unusable row (no user, a cancellation) is readable but shows no liking. Such
rows are dropped and counted by reason. The order of the rows decides nothing, unless it stands for the missing times.

Rows are read in chunks, and kept as numbers: an id as the place where it was met first. So memory holds some 30 bytes a
row, whatever the file looks like.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import MAX_ID_LENGTH, check_item_id, tie_hash
from training.data.gathering import Gathered, gather
from training.data.timestamp import Bounds, settle_times
from training.errors import InputError
from training.file.account import EXAMPLES, Account, Form
from training.file.identifier import ROUNDED, tidy_ids
from training.file.moment import UNREAD
from training.file.source import Place, Source, find_source

WEIGHTS = ("ignore", "filter", "loss")
FIRST_MS = 946_684_800_000  # 2000-01-01, the time of the first row where the order of the rows is the time
_TIES = 1_000_000  # events whose tie is computed at a time


@dataclass(frozen=True)
class Cleaning:
    """Which rows of the files count, what their columns are called, and how they are read."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's, where they differ
    events: Sequence[str] = ()  # the values of the event column that count; none: all
    min_weight: float = 0.0  # rows of this weight or less are dropped
    max_malformed: float = 0.01  # the largest share of rows that may be unreadable
    max_history: int = 500  # newest events kept of a user
    form: Form = field(default_factory=Form)
    times: Bounds = field(default_factory=Bounds)
    weights: str = "filter"  # one of WEIGHTS: what the weight of a row is for
    event_weights: Mapping[str, float] = field(default_factory=dict)  # of the values of the event column, for the loss
    min_targets: int = 0  # fewer events to learn from stop the run
    item_columns: Mapping[str, str] = field(default_factory=dict)  # our name -> that of the items file
    item_form: Form = field(default_factory=Form)
    item_text: Sequence[str] = ()  # columns of the items file that are text, whatever they hold

    def settings(self) -> dict[str, Any]:
        """Return what the report says of them: the clock is not among it."""
        return {
            "columns": dict(self.columns),
            "events": list(self.events),
            "min_weight": self.min_weight,
            "max_malformed": self.max_malformed,
            "max_history": self.max_history,
            "weights": self.weights,
            "event_weights": dict(self.event_weights),
            "times": self.times.rule,
        }


@dataclass(frozen=True)
class InteractionFile:
    """A table of interactions, read and cleaned."""

    events: pl.DataFrame  # user, item (places in users, items), timestamp_ms, weight?; by user, time, hash of ties
    users: pl.Series  # ids in their order
    items: pl.Series
    source: Source
    account: Account
    dropped: Mapping[str, int]  # rows by reason
    times: str  # how the times were read
    event_values: Sequence[str] = ()  # of the event column, as they were met

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The events with their ids: user_id, item_id, timestamp_ms, weight?."""
        ids = {"user_id": self.users.gather(self.events["user"]), "item_id": self.items.gather(self.events["item"])}
        rest = self.events.drop("user", "item")
        return pl.DataFrame([*(series.alias(name) for name, series in ids.items()), *rest])


def read_interactions(place: Place | Source, cleaning: Cleaning) -> InteractionFile:
    """Read, clean and order interactions. Malformed rows are counted and left out. Raises InputError."""
    if cleaning.max_history < 1:
        raise InputError(f"prepare.max_history must be at least 1, not {cleaning.max_history}")
    if cleaning.weights not in WEIGHTS:
        raise InputError(f"prepare.weights must be one of {', '.join(WEIGHTS)}, not {cleaning.weights!r}")
    source = place if isinstance(place, Source) else find_source(place)
    account = Account()
    rows = gather(source, cleaning, account)
    ms, bad, times = _settled(rows, cleaning, account)
    users, user = _numbers(rows.users.distinct(), rows.user, account, "user_id")
    items, item = _numbers(rows.items.distinct(), rows.item, account, "item_id")
    reasons = _reasons(rows, cleaning, (users, user), (items, item))
    keep, dropped = ~bad, {}
    for reason, holds in reasons.items():
        dropped[reason] = int((keep & holds).sum())
        keep &= ~holds
    frame = pl.DataFrame({"user": user[keep], "item": item[keep], "timestamp_ms": ms[keep]})
    if rows.weight is not None or cleaning.weights == "loss":
        frame = frame.with_columns(weight=_weights(rows, cleaning)[keep])
    values = list(rows.event_codes)
    del rows, user, item, ms, bad, reasons
    once = _once(frame)
    dropped["duplicate"] = frame.height - once.height
    recent = _newest(_ordered(once, users, items), cleaning.max_history)
    dropped["over_max_history"] = once.height - recent.height
    recent, users, items = _compact(recent, users, items)
    counts = {reason: count for reason, count in dropped.items() if count}
    return InteractionFile(recent, users, items, source, account, counts, times, values)


def _settled(rows: Gathered, cleaning: Cleaning, account: Account) -> tuple[NDArray[np.int64], NDArray[np.bool_], str]:
    """Return the times of all rows in milliseconds, which rows are malformed, and how the times were read."""
    if not len(rows.user):
        return rows.micro, rows.bad, ""
    if not rows.has_times:
        return FIRST_MS + 1000 * np.arange(len(rows.user), dtype=np.int64), rows.bad, "none: the order of the rows"
    settled = settle_times(rows.micro, rows.forms, cleaning.times)
    positions = np.flatnonzero(settled.bad & (rows.forms != UNREAD) & ~rows.bad)
    for position in positions[:EXAMPLES].tolist():
        account.bad(rows.at(position), settled.why(position))
    account.malformed += max(0, len(positions) - EXAMPLES)
    return settled.ms, rows.bad | settled.bad, settled.said


def _numbers(distinct: pl.Series, codes: NDArray[np.int32], account: Account, name: str) -> tuple[pl.Series, Any]:
    """Return the ids in their order, and the place of each row's among them, -1 where it has none.

    distinct: the ids as they were read, by their code; codes [n_rows], -1 for none.
    """
    tidy = tidy_ids(distinct.alias(name))
    rounded = int(tidy.str.contains(ROUNDED).fill_null(False).sum())
    if rounded:
        account.counts[f"{name}_rounded"] = rounded
    ids = tidy.drop_nulls().unique().sort()
    place = (
        tidy.replace_strict(ids, pl.int_range(len(ids), dtype=pl.Int32, eager=True), default=-1) if len(ids) else None
    )
    lookup = np.full(len(distinct) + 1, -1, dtype=np.int32)  # the last is that of no id, code -1
    if place is not None:
        lookup[:-1] = place.fill_null(-1).cast(pl.Int32).to_numpy()
    return ids, lookup[codes]


def _reasons(
    rows: Gathered, cleaning: Cleaning, users: tuple[pl.Series, Any], items: tuple[pl.Series, Any]
) -> dict[str, NDArray[np.bool_]]:
    """Return which rows show no liking, by reason; a row is dropped for the first that holds."""
    reasons = {"no_user": users[1] < 0, "no_item": items[1] < 0}
    for name, (ids, numbers) in (("user_id", users), ("item_id", items)):
        for reason, refused in _refused_ids(ids).items():
            reasons[f"{name}_{reason}"] = np.isin(numbers, refused)
    if cleaning.events:
        wanted = [code for text, code in rows.event_codes.items() if text in cleaning.events]
        reasons["event_not_wanted"] = ~np.isin(rows.event, wanted)
    if rows.weight is not None:
        reasons["no_weight"] = np.isnan(rows.weight)
        reasons["weight_too_low"] = ~(rows.weight > cleaning.min_weight)
    if cleaning.weights == "loss" and cleaning.event_weights:
        reasons["event_weight_of_zero"] = _event_weights(rows, cleaning) <= 0
    return reasons


def _weights(rows: Gathered, cleaning: Cleaning) -> NDArray[np.float64]:
    """Return the weight of each row: its own, and for the loss times that of its event."""
    own = rows.weight if rows.weight is not None else np.ones(len(rows.user))
    return own * _event_weights(rows, cleaning) if cleaning.weights == "loss" and cleaning.event_weights else own


def _event_weights(rows: Gathered, cleaning: Cleaning) -> NDArray[np.float64]:
    lookup = np.ones(len(rows.event_codes) + 1)
    for text, code in rows.event_codes.items():
        lookup[code] = cleaning.event_weights.get(text, 1.0)
    return lookup[rows.event]


def _refused_ids(ids: pl.Series) -> dict[str, list[int]]:
    """Return, by reason, the places of the ids that a bundle would refuse."""
    refused: dict[str, list[int]] = {}
    suspects = (ids.str.len_chars() > MAX_ID_LENGTH) | ids.str.contains(r"[\p{C}\p{Z}]")
    for place in suspects.arg_true().to_list():
        try:
            check_item_id(ids[place])
        except ValueError:
            reason = "too_long" if len(ids[place]) > MAX_ID_LENGTH else "has_control_character"
            refused.setdefault(reason, []).append(place)
    return refused


def _once(frame: pl.DataFrame) -> pl.DataFrame:
    """Merge events of the same user, item and millisecond into one with the highest weight; sort by all three."""
    frame = frame.sort("user", "timestamp_ms", "item")
    keys = [frame[name].to_numpy() for name in ("user", "timestamp_ms", "item")]
    is_new = np.ones(frame.height, dtype=bool)
    if frame.height:
        is_new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    once = frame.filter(pl.Series(is_new)) if not is_new.all() else frame
    if "weight" in frame.columns and frame.height:
        best = np.maximum.reduceat(frame["weight"].to_numpy(), np.flatnonzero(is_new))
        once = once.with_columns(weight=best)
    return once


def _ordered(frame: pl.DataFrame, users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """Sort by user and time, and ties by tie_hash, then by the bytes of the id, which is the order of the store."""
    user, ms = frame["user"].to_numpy(), frame["timestamp_ms"].to_numpy()
    same = (user[1:] == user[:-1]) & (ms[1:] == ms[:-1])
    tied = (
        np.flatnonzero(np.append(same, False) | np.append(False, same)) if frame.height else np.zeros(0, dtype=np.int64)
    )
    if not len(tied):
        return frame
    tie = np.zeros(frame.height, dtype=np.uint32)
    for start in range(0, len(tied), _TIES):
        at = tied[start : start + _TIES]
        rows = frame[at]
        pairs = zip(users.gather(rows["user"]).to_list(), items.gather(rows["item"]).to_list(), strict=True)
        tie[at] = [int.from_bytes(tie_hash(user_id, item_id), "big") for user_id, item_id in pairs]
    return frame.with_columns(tie=tie).sort("user", "timestamp_ms", "tie", "item").drop("tie")


def _newest(frame: pl.DataFrame, max_history: int) -> pl.DataFrame:
    """Keep each user's newest max_history events, as the store does."""
    user = frame["user"].to_numpy()
    if not len(user):
        return frame
    starts = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    ends = np.append(starts[1:], len(user))
    from_end = np.repeat(ends, ends - starts) - np.arange(len(user))
    return frame if from_end.max() <= max_history else frame.filter(pl.Series(from_end <= max_history))


def _compact(frame: pl.DataFrame, users: pl.Series, items: pl.Series) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Number users and items anew, without those that have no event left."""
    found = []
    for name, ids in (("user", users), ("item", items)):
        numbers = frame[name].to_numpy()
        present = (
            np.flatnonzero(np.bincount(numbers, minlength=len(ids))) if len(numbers) else np.zeros(0, dtype=np.int64)
        )
        place = np.zeros(max(1, len(ids)), dtype=np.int32)
        place[present] = np.arange(len(present), dtype=np.int32)
        frame = frame.with_columns(pl.Series(name, place[numbers], dtype=pl.Int32))
        found.append(ids.gather(present))
    return frame, found[0], found[1]
