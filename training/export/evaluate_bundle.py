"""Evaluate a bundle on a file of what was known and a file of what came next.

It needs no run directory, and the scores are those of the bundle through onnxruntime, not those of torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from service.bundle import Bundle, BundleError, open_bundle, tie_hash
from training.data.event import select_events
from training.data.interaction_file import Cleaning, read_interactions
from training.errors import InputError
from training.evaluation.judge import describe, rank
from training.evaluation.question import Question
from training.export.onnx_student import ExportedStudent

MAX_HISTORY = 500


def evaluate_bundle(
    path: Path, interactions: Path, heldout: Path, *, columns: Mapping[str, str], exclude_seen: bool | None
) -> dict[str, Any]:
    """Return the metrics of the bundle: each user's first held-out event, given the user's interactions before it.

    So interactions may be what was known, or everything: later events, and the held-out one itself, are no history. An
    item that the bundle does not know counts as missed when held out, and is skipped in a history, as in serving.
    """
    try:
        bundle = open_bundle(path)
    except BundleError as exc:
        raise InputError(str(exc)) from exc
    question, unknown = read_question(bundle, interactions, heldout, columns, exclude_seen)
    student = ExportedStudent(bundle)
    ranking = rank(
        question,
        lambda rows: student.scores([[row for row in history if row >= 0] for history in rows.tolist()]),
        bundle.manifest.max_history,
    )
    about = {"version": bundle.manifest.version, "exclude_seen": question.exclude_seen}
    return describe(ranking, question.n_items) | about | {"unknown_targets": unknown}


def read_question(
    bundle: Bundle, interactions: Path, heldout: Path, columns: Mapping[str, str], exclude_seen: bool | None
) -> tuple[Question, int]:
    """Read both files into a question in the bundle's rows, and how many targets the bundle does not know."""
    row = {item_id: number for number, item_id in enumerate(bundle.items.ids)}
    known, asked = (
        read_interactions(file, Cleaning(columns, max_history=MAX_HISTORY)).frame for file in (interactions, heldout)
    )
    first = asked.group_by("user_id", maintain_order=True).first()
    known = _before(known, first)
    users = first.join(known.select("user_id").unique(), on="user_id", how="semi")["user_id"].to_list()
    if not users:
        raise InputError(
            f"{heldout}: no user of it has an earlier event in {interactions}; are both from the same data?"
        )
    target = dict(zip(first["user_id"].to_list(), first["item_id"].to_list(), strict=True))
    place = {user: number for number, user in enumerate(users)}
    known = known.with_columns(
        pl.col("user_id").replace_strict(place, default=None, return_dtype=pl.Int32).alias("user"),
        pl.col("item_id").replace_strict(row, default=None, return_dtype=pl.Int32).alias("row"),
    ).drop_nulls(["user", "row"])
    known = known.sort("user", maintain_order=True)
    user, item = (known[name].to_numpy().astype(np.int32) for name in ("user", "row"))
    rows = np.array([row.get(target[name], -1) for name in users], dtype=np.int64)
    rule = not bundle.manifest.repeat_consumption if exclude_seen is None else exclude_seen
    events = select_events(user, item, np.ones(len(user), dtype=bool), len(users))
    return Question(events, np.arange(len(users)), rows, rule, len(bundle.items)), int((rows < 0).sum())


def _before(known: pl.DataFrame, first: pl.DataFrame) -> pl.DataFrame:
    """Keep of each user the events before the first held-out one, ties in the order of training and store."""
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
    return tie_hash(user_id, item_id), item_id.encode()
