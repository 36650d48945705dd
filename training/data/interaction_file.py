"""Read a file of interactions: which rows count as events, in which order they are put, and why others are dropped.

A malformed row (unreadable time, NaN, wrong number of fields) is a sign of a damaged file. Such rows are counted, and
too large a share of them stops the run. An unusable row (no user, a cancellation) is readable but shows no liking. Such
rows are dropped and counted by reason. The order of the rows in the file does not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from service.bundle import MAX_ID_LENGTH, check_item_id, tie_hash
from training.data.table import EXAMPLES, LINE, Malformed, Table, as_id, as_text, choose_columns, read_table
from training.data.timestamp import parse_timestamps
from training.errors import InputError

WANTED = ("user_id", "item_id", "timestamp", "weight", "event")
REQUIRED = WANTED[:3]


@dataclass(frozen=True)
class Cleaning:
    """Which rows of the files count, and what their columns are called."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's, where they differ
    events: Sequence[str] = ()  # the values of the event column that count; none: all
    min_weight: float = 0.0  # rows of this weight or less are dropped
    max_malformed: float = 0.01  # the largest share of rows that may be unreadable
    max_history: int = 500  # newest events kept of a user


@dataclass(frozen=True)
class InteractionFile:
    """A file of interactions, read and cleaned."""

    frame: pl.DataFrame  # user_id, item_id, timestamp_ms, weight?; sorted by user, then time, ties by hash
    table: Table  # as it was read
    malformed: Malformed
    dropped: Mapping[str, int]  # rows by reason


def read_interactions(path: Path, cleaning: Cleaning) -> InteractionFile:
    """Read, clean and order a file of interactions. Malformed rows are counted and left out. Raises InputError."""
    required = (*REQUIRED, "event") if cleaning.events else REQUIRED
    mapped = {ours: theirs for ours, theirs in cleaning.columns.items() if ours in WANTED}
    table = read_table(path, choose_columns(path, mapped, required=required, optional=("weight", "event")))
    rows, malformed = _readable(table)
    frame, dropped = _usable(rows, cleaning)
    n_usable = frame.height
    frame = _once(frame)
    dropped["duplicate"] = n_usable - frame.height
    recent = _newest(_ordered(frame), cleaning.max_history)
    dropped["over_max_history"] = frame.height - recent.height
    return InteractionFile(recent, table, malformed, {reason: count for reason, count in dropped.items() if count})


def _readable(table: Table) -> tuple[pl.DataFrame, Malformed]:
    """Parse every column. Return the rows in which all could be parsed, and the count of the others."""
    frame, lines = table.frame, table.frame[LINE]
    malformed = Malformed(table.malformed.count, list(table.malformed.examples))
    parsed = {
        LINE: lines,
        "user_id": as_id(frame["user_id"], table.path),
        "item_id": as_id(frame["item_id"], table.path),
        "timestamp_ms": parse_timestamps(frame["timestamp"], lambda position: table.where(lines[position])),
    }
    is_bad = parsed["timestamp_ms"].is_null()
    _note(malformed, "unreadable timestamp", frame["timestamp"], lines, is_bad)
    if "weight" in frame.columns:
        parsed["weight"], weight_is_bad = _parse_weights(frame["weight"], table.path)
        _note(malformed, "unreadable weight", frame["weight"], lines, weight_is_bad & ~is_bad)
        is_bad = is_bad | weight_is_bad
    if "event" in frame.columns:
        parsed["event"] = as_text(frame["event"], table.path)
    return pl.DataFrame([values.alias(name) for name, values in parsed.items()]).filter(~is_bad), malformed


def _parse_weights(values: pl.Series, path: Path) -> tuple[pl.Series, pl.Series]:
    """Return the weights, null where there is none, and which of the values are not finite numbers."""
    if not values.dtype.is_numeric():
        values = as_text(values, path).str.strip_chars().replace("", None)
    weights = values.cast(pl.Float64, strict=False)
    return weights, values.is_not_null() & ~weights.is_finite().fill_null(False)


def _note(malformed: Malformed, what: str, values: pl.Series, lines: pl.Series, is_bad: pl.Series) -> None:
    positions = is_bad.arg_true().to_list()
    for position in positions[:EXAMPLES]:
        malformed.add(lines[position], f"{what} {values[position]!r}")
    malformed.count += max(0, len(positions) - EXAMPLES)


def _usable(rows: pl.DataFrame, cleaning: Cleaning) -> tuple[pl.DataFrame, dict[str, int]]:
    """Drop the rows that show no liking, each for the first reason that holds."""
    reasons = {"no_user": pl.col("user_id").is_null(), "no_item": pl.col("item_id").is_null()}
    for name in ("user_id", "item_id"):
        for reason, ids in _refused_ids(rows[name]).items():
            reasons[f"{name}_{reason}"] = pl.col(name).is_in(ids)
    if cleaning.events:
        reasons["event_not_wanted"] = ~pl.col("event").is_in(list(cleaning.events)).fill_null(False)
    if "weight" in rows.columns:
        reasons["no_weight"] = pl.col("weight").is_null()
        reasons["weight_too_low"] = pl.col("weight") <= cleaning.min_weight
    dropped = {}
    for reason, holds in reasons.items():
        kept = rows.filter(~holds)
        dropped[reason] = rows.height - kept.height
        rows = kept
    return rows, dropped


def _refused_ids(ids: pl.Series) -> dict[str, list[str]]:
    """Return, by reason, the ids that a bundle would refuse."""
    refused: dict[str, list[str]] = {}
    for value in ids.drop_nulls().unique().to_list():
        try:
            check_item_id(value)
        except ValueError:
            reason = "too_long" if len(value) > MAX_ID_LENGTH else "has_control_character"
            refused.setdefault(reason, []).append(value)
    return refused


def _once(frame: pl.DataFrame) -> pl.DataFrame:
    """Merge events of the same user, item and millisecond into one with the highest weight."""
    weight = [pl.col("weight").max()] if "weight" in frame.columns else []
    return frame.group_by("user_id", "item_id", "timestamp_ms").agg(weight)


def _ordered(frame: pl.DataFrame) -> pl.DataFrame:
    """Sort by user and time, and ties by tie_hash, then by the bytes of the id, which is the order of the store."""
    tie = np.zeros(frame.height, dtype=np.uint32)
    tied = np.flatnonzero(frame.select(pl.struct("user_id", "timestamp_ms").is_duplicated()).to_series().to_numpy())
    pairs = frame[tied].select("user_id", "item_id").iter_rows()
    tie[tied] = [int.from_bytes(tie_hash(user_id, item_id), "big") for user_id, item_id in pairs]
    return frame.with_columns(tie=tie).sort("user_id", "timestamp_ms", "tie", "item_id").drop("tie")


def _newest(frame: pl.DataFrame, max_history: int) -> pl.DataFrame:
    """Keep each user's newest max_history events, as the store does."""
    if max_history < 1:
        raise InputError(f"prepare.max_history must be at least 1, not {max_history}")
    place_from_end = pl.int_range(pl.len(), 0, -1).over("user_id")
    return frame.filter(place_from_end <= max_history)
