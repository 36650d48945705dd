"""The files that a refresh is prepared from: what was trained on before, and the events since, as one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from training.data.interaction_file import Cleaning, InteractionFile, read_interactions
from training.data.item_file import BOOLEAN, NUMBER, PREFIX
from training.data.prepared import ITEMS, Prepared
from training.data.timestamp import Bounds
from training.loop.event_file import EventFile, events_of
from training.loop.propensity import UNWEIGHED, Propensity

SCHEMA: dict[str, Any] = {
    "user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("ms", "UTC"), "event": pl.String,
    "weight": pl.Float64,
}  # fmt: skip


def write_interactions(
    path: Path, before: Prepared, files: Sequence[EventFile], cleaning: Cleaning, propensity: Propensity
) -> None:
    """Write the events of an earlier run and those of some files as one table of Parquet.

    What was trained on before passed the cleaning then; it is written so that it passes now as well, with the weights
    that it had. propensity: weighs the events of the files. Of these, what has no plausible time is left out.
    """
    new, _ = read_events(files, cleaning.times, propensity)
    frame = pl.concat([_old_events(before, cleaning), new])
    aside = path.with_name(f".{path.name}.part")
    frame.write_parquet(aside)
    aside.rename(path)


def read_events(
    files: Sequence[EventFile], times: Bounds, propensity: Propensity = UNWEIGHED
) -> tuple[pl.DataFrame, int]:
    """Return the events of some files, in the columns of SCHEMA, and how many were left out for their time.

    What a clock or a client got wrong is no damage of a file, which would stop the run: the service has accepted it,
    and nobody could correct it. times: between which bounds one is plausible. propensity: times it each weight is
    taken.
    """
    rows: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    for each in files:
        for event in events_of(each):
            rows["user_id"].append(event["user_id"])
            rows["item_id"].append(event["item_id"])
            rows["timestamp"].append(round(event["timestamp"] * 1000))
            rows["event"].append(event.get("event"))
            rows["weight"].append(event.get("weight", 1) * propensity.weight(event.get("position")))
    found = pl.DataFrame(rows, schema=SCHEMA | {"timestamp": pl.Int64}, strict=False)
    kept = found.filter(pl.col("timestamp").is_between(times.earliest_ms, times.latest_ms))
    return kept.cast(pl.Schema(SCHEMA)), found.height - kept.height


def read_new(path: Path, files: Sequence[EventFile], cleaning: Cleaning) -> tuple[InteractionFile, int]:
    """Return what the cleaning leaves of the events of some files, and how many have no plausible time.

    path: of a table that is written to find it out.
    """
    frame, n_implausible = read_events(files, cleaning.times)
    frame.write_parquet(path)
    try:
        return read_interactions(path, cleaning), n_implausible
    finally:
        path.unlink()


def write_items(path: Path, prepared: Path) -> None:
    """Write what a run knows of its items as an items file of JSON lines. prepared: the run's directory of data."""
    frame = pl.read_parquet(prepared / ITEMS).drop("popularity")
    lists = [name for name in frame.columns if name.startswith(PREFIX)]
    frame = frame.with_columns(pl.col(name).list.join("|") for name in lists)
    own = {
        name: name.removeprefix(prefix)
        for prefix in (PREFIX, NUMBER, BOOLEAN)
        for name in frame.columns
        if name.startswith(prefix)
    }
    aside = path.with_name(f".{path.name}.part")
    frame.rename(own).write_ndjson(aside)
    aside.rename(path)


def _old_events(before: Prepared, cleaning: Cleaning) -> pl.DataFrame:
    """Return the events of an earlier run in the columns of SCHEMA."""
    event = cleaning.events[0] if cleaning.events else None
    weight = pl.Series("weight", [max(1.0, cleaning.min_weight + 1)]).new_from_index(0, len(before.item))
    if before.weight is not None:
        weight = pl.Series("weight", before.weight / cleaning.event_weights.get(event or "", 1.0))
    frame = pl.DataFrame({
        "user_id": pl.Series(before.users, dtype=pl.String).gather(before.user),
        "item_id": pl.Series([item.item_id for item in before.items], dtype=pl.String).gather(before.item),
        "timestamp": pl.Series(before.timestamp_ms),
        "event": pl.Series([event], dtype=pl.String).new_from_index(0, len(before.item)),
        "weight": weight,
    })  # fmt: skip
    return frame.cast(pl.Schema(SCHEMA))
