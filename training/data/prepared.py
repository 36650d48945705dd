"""Read back what `prepare` wrote: the events of all users as arrays, the catalogue, and the report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import Item
from training.data.event import Events, select_events
from training.data.item_file import to_items
from training.data.split import TRAIN
from training.errors import InputError

EVENTS, USERS, ITEMS, REPORT = "events.parquet", "users.parquet", "items.parquet", "report.json"


@dataclass(frozen=True, eq=False)
class Prepared:
    """The events of all users, grouped by user number, oldest first. Ties in time are in the order of the store."""

    users: list[str]  # user_id by user number
    items: list[Item]  # by row; popularity is the number of TRAIN events
    user: NDArray[np.int32]  # [n_events], the user number, never decreasing
    item: NDArray[np.int32]  # [n_events], the item's row
    timestamp_ms: NDArray[np.int64]  # [n_events]
    part: NDArray[np.uint8]  # [n_events], TRAIN | VAL | TEST
    report: dict[str, Any]  # what report.json holds
    weight: NDArray[np.float64] | None = None  # [n_events], where prepare.weights is loss


def load_prepared(out: Path) -> Prepared:
    """Read a prepared directory. Raises InputError where it is missing or damaged."""
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        events, users, items = (pl.read_parquet(out / name, glob=False) for name in (EVENTS, USERS, ITEMS))
        return Prepared(
            users=users["user_id"].to_list(),
            items=to_items(items),
            user=events["user"].to_numpy(),
            item=events["item"].to_numpy(),
            timestamp_ms=events["timestamp_ms"].to_numpy(),
            part=events["part"].to_numpy(),
            report=report,
            weight=events["weight"].to_numpy() if _has_weights(report) else None,
        )
    except FileNotFoundError as exc:
        raise InputError(
            f"{out}: no prepared data ({Path(exc.filename or '').name or exc}); run prepare first"
        ) from exc
    except (OSError, ValueError, pl.exceptions.PolarsError) as exc:
        raise InputError(f"{out}: damaged prepared data ({exc}); delete it and run prepare again") from exc


def _has_weights(report: dict[str, Any]) -> bool:
    return report.get("settings", {}).get("weights") == "loss"


def training_events(prepared: Prepared) -> Events:
    """Return the events of the training part, which is what models are trained on."""
    return select_events(prepared.user, prepared.item, prepared.part == TRAIN, len(prepared.users))


def all_events(prepared: Prepared) -> Events:
    """Return the events of every part, which is what a refit is trained on."""
    return select_events(prepared.user, prepared.item, np.ones(len(prepared.item), dtype=bool), len(prepared.users))
