"""Judge a bundle alone, on a file of what was known and a file of what came next, without a run directory.

The bundle is run through onnxruntime, as it is served; the ranking and its metrics are those of every report. So
anybody who has a bundle and two files can repeat a report's figures, or take those of new data.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import Bundle, BundleError, Item, open_bundle, tie_hash
from training.data.event import Events, select_events
from training.data.interaction_file import Cleaning, read_interactions
from training.data.prepared import Prepared
from training.errors import InputError
from training.evaluation.given import Given
from training.evaluation.judge import Ranking, rank, rank_asked, summarise_ranking
from training.evaluation.question import Question
from training.export.onnx_student import ExportedStudent

MAX_HISTORY = 500  # newest events of a user that are read, as prepare does by default


def evaluate_bundle(
    path: Path, interactions: Path, heldout: Path, *, columns: Mapping[str, str], exclude_seen: bool | None
) -> dict[str, Any]:
    """Return the metrics of a bundle that is asked for each user's first held-out event, given the events before it.

    interactions: a file of what was known, or of everything: later events, and the held-out one itself, are not part of
    the history. heldout: a file of the events to ask for. columns: their names for our columns. exclude_seen: None
    takes the bundle's own rule.

    An item that the bundle does not know counts as missed when it is held out, and is skipped in a history, as in
    serving. The metrics are those of summarise_ranking, with version, exclude_seen and unknown_targets beside them.
    Raises InputError where the bundle or a file cannot be read, or the files have no common user.
    """
    try:
        bundle = open_bundle(path)
    except BundleError as exc:
        raise InputError(str(exc)) from exc
    question, unknown = read_question(bundle, interactions, heldout, columns, exclude_seen)
    ranking = _rank(bundle, question, lambda: _all_events(bundle, interactions, heldout, columns))
    about = {"version": bundle.manifest.version, "exclude_seen": question.exclude_seen}
    return summarise_ranking(ranking, question.n_items) | about | {"unknown_targets": unknown}


def read_question(
    bundle: Bundle, interactions: Path, heldout: Path, columns: Mapping[str, str], exclude_seen: bool | None
) -> tuple[Question, int]:
    """Return the question that two files ask, in the bundle's rows, and how many targets the bundle does not know.

    The arguments are those of evaluate_bundle. Raises InputError where a file cannot be read, or they have no common
    user.
    """
    known, asked = (
        read_interactions(file, Cleaning(columns, max_history=MAX_HISTORY)).frame for file in (interactions, heldout)
    )
    first = asked.group_by("user_id", maintain_order=True).first()
    asked_ms = dict(zip(first["user_id"].to_list(), first["timestamp_ms"].to_list(), strict=True))
    known = _before(known, first)
    users = first.join(known.select("user_id").unique(), on="user_id", how="semi")["user_id"].to_list()
    if not users:
        raise InputError(
            f"{heldout}: no user of it has an earlier event in {interactions}; are both from the same data?"
        )
    row = {item_id: number for number, item_id in enumerate(bundle.items.ids)}
    item_of = dict(zip(first["user_id"].to_list(), first["item_id"].to_list(), strict=True))
    target = np.array([row.get(item_of[user], -1) for user in users], dtype=np.int64)
    question = Question(
        _histories(known, users, row),
        np.arange(len(users)),
        target,
        exclude_seen=not bundle.manifest.repeat_consumption if exclude_seen is None else exclude_seen,
        n_items=len(bundle.items),
        asked_ms=np.array([asked_ms[user] for user in users], dtype=np.int64),
        gap=_gaps(known, first, users),
    )
    return question, int((target < 0).sum())


def _rank(bundle: Bundle, question: Question, events: Callable[[], Prepared]) -> Ranking:
    """Rank the question with a bundle. events: opens what the counts of its trend are made of."""
    taste, longest, parts = ExportedStudent(bundle).padded_scores, bundle.manifest.max_history, bundle.table.parts
    if parts is None:
        return rank(question, taste, longest)
    return rank_asked(question, Given(events(), parts).scorer(question, taste, parts.rule), longest)


def _all_events(bundle: Bundle, interactions: Path, heldout: Path, columns: Mapping[str, str]) -> Prepared:
    """Return the events of both files, each once, of the items that the bundle knows."""
    frames = [
        read_interactions(file, Cleaning(columns, max_history=MAX_HISTORY)).frame for file in (interactions, heldout)
    ]
    names = ["user_id", "item_id", "timestamp_ms"]
    frame = pl.concat([one.select(names) for one in frames]).unique(maintain_order=True)
    users = frame["user_id"].unique(maintain_order=True).to_list()
    row = {item_id: number for number, item_id in enumerate(bundle.items.ids)}
    place = {user: number for number, user in enumerate(users)}
    frame = frame.filter(pl.col("item_id").is_in(list(row))).sort("user_id", maintain_order=True)
    item = np.array([row[item_id] for item_id in frame["item_id"]], dtype=np.int32)
    user = np.array([place[user_id] for user_id in frame["user_id"]], dtype=np.int32)
    items = [Item(item_id, 0.0, None, {}) for item_id in bundle.items.ids]
    no_part = np.zeros(len(item), dtype=np.uint8)
    return Prepared(users, items, user, item, frame["timestamp_ms"].to_numpy(), no_part, {})


def _gaps(known: pl.DataFrame, first: pl.DataFrame, users: Sequence[str]) -> NDArray[np.float64]:
    """Return log1p of the seconds from each user's last event strictly before the held-out one; NaN without any."""
    asked = first.select("user_id", pl.col("timestamp_ms").alias("asked_ms"))
    joined = known.join(asked, on="user_id", how="inner").filter(pl.col("timestamp_ms") < pl.col("asked_ms"))
    since = joined.group_by("user_id").agg((pl.col("asked_ms") - pl.col("timestamp_ms")).min().alias("since"))
    found = dict(zip(since["user_id"].to_list(), since["since"].to_list(), strict=True))
    return np.log1p(np.array([found.get(user, np.nan) for user in users], dtype=np.float64) / 1000)


def _histories(known: pl.DataFrame, users: Sequence[str], row: Mapping[str, int]) -> Events:
    """Return the known events of some users, numbered in their order, in rows; unknown items are left out."""
    place = {user: number for number, user in enumerate(users)}
    known = known.with_columns(
        pl.col("user_id").replace_strict(place, default=None, return_dtype=pl.Int32).alias("user"),
        pl.col("item_id").replace_strict(row, default=None, return_dtype=pl.Int32).alias("row"),
    ).drop_nulls(["user", "row"])
    known = known.sort("user", maintain_order=True)
    user, item = (known[name].to_numpy().astype(np.int32) for name in ("user", "row"))
    return select_events(user, item, np.ones(len(user), dtype=bool), len(users))


def _before(known: pl.DataFrame, first: pl.DataFrame) -> pl.DataFrame:
    """Return the events of each user before the first held-out one; events of one instant are in the store's order.

    That order is a hash of user and item, in training and in serving alike.
    """
    asked = first.select("user_id", pl.col("timestamp_ms").alias("asked_ms"), pl.col("item_id").alias("asked_id"))
    joined = known.join(asked, on="user_id", how="inner", maintain_order="left")
    is_before = (joined["timestamp_ms"] < joined["asked_ms"]).to_numpy().copy()
    tied = (joined["timestamp_ms"] == joined["asked_ms"]).arg_true()
    is_before[tied] = [
        _tie_place(user_id, item_id) < _tie_place(user_id, asked_id)
        for user_id, item_id, asked_id in joined[tied].select("user_id", "item_id", "asked_id").iter_rows()
    ]
    return joined.filter(pl.Series(is_before)).drop("asked_ms", "asked_id")


def _tie_place(user_id: str, item_id: str) -> tuple[bytes, bytes]:
    """Return what events of one user and instant are ordered by."""
    return tie_hash(user_id, item_id), item_id.encode()
