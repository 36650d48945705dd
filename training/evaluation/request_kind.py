"""The kinds of requests that a mean over all of them would hide, and how each model does beside the bar on each kind.

The bar is recent popularity at the time of the request, its window or half-life chosen on validation: a few lines of
SQL that a model has to beat before it is worth running. A model's ratio to it is taken over the same requests, and its
interval resamples users, because the requests of one user are not independent.

Why not the last event of each user alone (split.test = last): the training events of other users then lie after the
request, so a model is judged with a knowledge of the future (Ji et al.; Gusak et al., "Time to Split", arXiv
2507.16289). What a sceptic expects of a global time split is a published table (blondered/transformer_benchmark,
NDCG@10 on MovieLens-20M): popular in the last 7 days .167, SASRec .119, eSASRec .156, HSTU .187. There as here
(RecTools, TimeRangeSplitter) everything from an instant on is the test, and everything before it is for training. The
differences: RecTools starts the test at a whole day or hour, leaves out cold users, cold items and seen pairs unless it
is told not to, and a model answers each user once, with what was known at the cut. Here the cut is at a share of the
events, every event after it is a request at its own time, and the kinds stand apart.

Letters: U requests, M models, B resamples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.judge import Ranking
from training.evaluation.metric import Float, Ranks, hit, ndcg, resampled_by_user
from training.evaluation.question import Question

BAR = "recent_popularity"
ALL, START = "all", "start_of_basket"
TITLES = {
    ALL: "all requests",
    "warm": "users with a history",
    "cold": "users without a history",
    "known_item": "items with a training event",
    "new_item": "items without a training event",
    "warm_known_item": "users with a history, items with a training event",
    START: "all, asked at the start of the basket",
}


def kinds_of(question: Question) -> dict[str, NDArray[np.bool_]]:
    """Return which requests are of each kind, by name, each bool [U].

    Kinds without a request, and kinds that all requests are of, are left out, but for "all"; so is the start of the
    basket, which changes what is known and not what is asked.
    """
    warm = question.lengths() > 0
    masks = {ALL: np.ones(len(warm), dtype=bool), "warm": warm, "cold": ~warm}
    if question.popularity is not None:
        known = (question.target >= 0) & (question.popularity[np.maximum(question.target, 0)] > 0)
        masks |= {"known_item": known, "new_item": ~known}
        if not warm.all():
            masks["warm_known_item"] = warm & known
    return {name: mask for name, mask in masks.items() if name == ALL or (mask.any() and not mask.all())}


def by_kind(rankings: Mapping[str, Ranking], question: Question, bar: str | None = BAR) -> dict[str, Any]:
    """Return for each kind its requests, its users, and a row for each model.

    A row holds ndcg@10, ndcg@10_interval, hr@10 and of_bar: the ratio of its NDCG@10 to the bar's with low and high,
    the ends of its 95 % interval; None where the bar was not ranked or found nothing. The start of the basket is there
    where events tie in time, with the models that were ranked there.
    """
    at_start = {name: ranking.start for name, ranking in rankings.items() if ranking.start is not None}
    asked = {name: (mask, {m: r.ranks for m, r in rankings.items()}) for name, mask in kinds_of(question).items()}
    if question.opening is not None and at_start:
        asked[START] = (asked[ALL][0], at_start)
    return {
        name: {
            "title": TITLES[name],
            "requests": int(mask.sum()),
            "users": len(np.unique(question.users[mask])),
            "models": beside_bar({m: r[mask] for m, r in ranks.items()}, question.users[mask], bar),
        }
        for name, (mask, ranks) in asked.items()
    }


def beside_bar(ranks: Mapping[str, Ranks], users: NDArray[np.int64], bar: str | None) -> dict[str, dict[str, Any]]:
    """Return a row for each model, as by_kind does. ranks: of each model [U]. users: who asks [U]."""
    names = list(ranks)
    rows = compare_values(names, np.stack([ndcg(of_model, 10) for of_model in ranks.values()], axis=1), users, bar)
    return {name: row | {"hr@10": float(hit(ranks[name], 10).mean())} for name, row in rows.items()}


def compare_values(
    names: list[str], values: Float, users: NDArray[np.int64], bar: str | None
) -> dict[str, dict[str, Any]]:
    """Return a row for each model without its hr@10: names of the columns of NDCG@10 values [U, M]."""
    resampled, means = resampled_by_user(values, users), values.mean(axis=0)
    place = names.index(bar) if bar in names else None
    rows = {}
    for number, name in enumerate(names):
        low, high = np.quantile(resampled[:, number], [0.025, 0.975]).tolist()
        rows[name] = {
            "ndcg@10": float(means[number]),
            "ndcg@10_interval": [low, high],
            "of_bar": None if place is None else _ratio(resampled, means, number, place),
        }
    return rows


def _ratio(resampled: Float, means: Float, number: int, bar: int) -> dict[str, float] | None:
    """Return the ratio of one column to the bar's with its interval; None where the bar found nothing."""
    if not (means[bar] > 0 and (resampled[:, bar] > 0).all()):
        return None
    low, high = np.quantile(resampled[:, number] / resampled[:, bar], [0.025, 0.975]).tolist()
    return {"ratio": float(means[number] / means[bar]), "low": low, "high": high}
