"""Judge two bundles on the newest events, which neither of them saw, each as it would be served.

Each held-out event is a request at its own time, with all that the user did before it and the live counts of the
trend; see training/evaluation/question.py. Every bundle ranks its own catalogue, by its own rule about seen items. An
item that a bundle does not know is a miss where it was taken, and is skipped in a history, as in serving.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import Bundle, Item
from training.data.event import Events
from training.data.prepared import Prepared
from training.data.split import TEST
from training.evaluation.breakdown import QUINTILES, popularity_quintile
from training.evaluation.given import Given
from training.evaluation.judge import Ranking, rank, rank_asked
from training.evaluation.metric import ndcg, relative_difference
from training.evaluation.question import Question, ask
from training.export.onnx_student import ExportedStudent

Flags = NDArray[np.bool_]
AT = 10


def unseen_question(prepared: Prepared, before: Prepared) -> Question:
    """Return the question of the test part, without the events that are among those of an earlier run."""
    question = ask(prepared, TEST)
    place = question.stops()
    return select_requests(question, ~is_known(prepared, before)[place])


def select_requests(question: Question, keep: Flags) -> Question:
    """Return a question with some of its requests alone. keep: which [U]."""
    arrays = {name: getattr(question, name) for name in ("users", "target", "asked_ms", "gap", "stop", "opening")}
    kept: dict[str, Any] = {name: None if each is None else each[keep] for name, each in arrays.items()}
    return replace(question, **kept, baskets=None)


def is_known(prepared: Prepared, before: Prepared, part: int | None = None) -> Flags:
    """Return which events are among those of an earlier run [n_events]. part: of that run; None: of any."""
    ours, theirs = _keys(prepared), _keys(before)
    if part is not None:
        theirs = theirs.filter(pl.Series(before.part == part))
    found = ours.join(theirs.unique().with_columns(known=True), on=theirs.columns, how="left", maintain_order="left")
    return found["known"].fill_null(False).to_numpy()


def judge_bundle(bundle: Bundle, question: Question, prepared: Prepared) -> Ranking:
    """Rank the requests of a question about prepared data with a bundle."""
    asked, known = in_rows_of(bundle, question, prepared)
    student, parts, longest = ExportedStudent(bundle), bundle.table.parts, bundle.manifest.max_history
    if parts is None:
        return rank(asked, student.padded_scores, longest)
    return rank_asked(asked, Given(known, parts).scorer(asked, student.padded_scores, parts.rule), longest)


def in_rows_of(bundle: Bundle, question: Question, prepared: Prepared) -> tuple[Question, Prepared]:
    """Return question and data in the rows of a bundle, without the events of items that it does not know."""
    row = {item_id: number for number, item_id in enumerate(bundle.items.ids)}
    rows = np.array([row.get(item.item_id, -1) for item in prepared.items], dtype=np.int32)
    item = rows[question.events.item]
    keep = item >= 0
    before = np.concatenate([[0], np.cumsum(keep)])
    popularity = np.array(bundle.items.popularity, dtype=np.float32)
    asked = replace(
        question,
        events=Events(item[keep], before[question.events.offset]),
        target=rows[question.target].astype(np.int64),
        exclude_seen=not bundle.manifest.repeat_consumption,
        n_items=len(bundle.items),
        stop=before[question.stops()],
        opening=None,
        popularity=popularity,
    )
    items = [Item(item_id, float(count), None, {}) for item_id, count in zip(bundle.items.ids, popularity, strict=True)]
    known = replace(
        prepared,
        items=items,
        user=prepared.user[keep],
        item=item[keep],
        timestamp_ms=prepared.timestamp_ms[keep],
        part=prepared.part[keep],
        weight=None,
    )
    return asked, known


def by_group(question: Question, prepared: Prepared, before: Prepared, values: NDArray[np.float64]) -> dict[str, Any]:
    """Return how both models do by group: {"users": {"new": {requests, live, new, difference, low, high}, ...}, ...}.

    values: NDCG@10 of the live model and the new one [U, 2]. Users and items are new where the live model's run has
    none of their events; popularity is by fifths of the training events, 1 the best sellers.
    """
    users, items = set(before.users), {item.item_id for item in before.items}
    new_user = np.array([prepared.users[user] not in users for user in question.users], dtype=bool)
    new_item = np.array([prepared.items[row].item_id not in items for row in question.target], dtype=bool)
    quintile = popularity_quintile(np.array([item.popularity for item in prepared.items]))[question.target]
    groups: dict[str, dict[str, Flags]] = {
        "users": {"known": ~new_user, "new": new_user},
        "items": {"known": ~new_item, "new": new_item},
        "popularity": {str(number + 1): quintile == number for number in range(QUINTILES)},
    }
    return {
        name: {label: _compare(values[inside], question.users[inside]) for label, inside in of.items() if inside.any()}
        for name, of in groups.items()
    }


def ndcg_of(ranking: Ranking) -> NDArray[np.float64]:
    """Return NDCG@10 of each request [U]."""
    return ndcg(ranking.ranks, AT)


def _compare(values: NDArray[np.float64], users: NDArray[np.int64]) -> dict[str, Any]:
    live, new = values[:, 0], values[:, 1]
    found = relative_difference(new, live, users) if live.any() else dict.fromkeys(("difference", "low", "high"))
    return {"requests": len(values), "live": float(live.mean()), "new": float(new.mean()), **found}


def _keys(prepared: Prepared) -> pl.DataFrame:
    """Return what makes each event the same as another: user, item and time."""
    users = pl.Series(prepared.users, dtype=pl.String).gather(prepared.user)
    items = pl.Series([item.item_id for item in prepared.items], dtype=pl.String).gather(prepared.item)
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp_ms": prepared.timestamp_ms})
