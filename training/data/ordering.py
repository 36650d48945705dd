"""Put cleaned events in the order of histories: by user and time, ties by their hash, repeats merged into one."""

import numpy as np
import polars as pl

from service.bundle import tie_hash

_TIES = 1_000_000  # events whose tie is computed at a time


def merge_repeats(frame: pl.DataFrame) -> pl.DataFrame:
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


def order_ties(frame: pl.DataFrame, users: pl.Series, items: pl.Series) -> pl.DataFrame:
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


def keep_newest(frame: pl.DataFrame, max_history: int) -> pl.DataFrame:
    """Keep each user's newest max_history events, as the store does."""
    user = frame["user"].to_numpy()
    if not len(user):
        return frame
    starts = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    ends = np.append(starts[1:], len(user))
    from_end = np.repeat(ends, ends - starts) - np.arange(len(user))
    return frame if from_end.max() <= max_history else frame.filter(pl.Series(from_end <= max_history))


def compact(frame: pl.DataFrame, users: pl.Series, items: pl.Series) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
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
