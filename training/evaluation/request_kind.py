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

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.judge import Ranking
from training.evaluation.metric import Float, Pool, Ranks, hit, ndcg, resampled_by_user
from training.evaluation.question import Question

Flags = NDArray[np.bool_]
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


def by_kind(rankings: Mapping[str, Ranking], question: Question, bar: str | None = BAR) -> dict[str, Any]:
    """Return for each kind its title, requests and users, and a row for each model.

    A row holds ndcg@10, ndcg@10_interval, hr@10 and of_bar: the ratio of its NDCG@10 to the bar's with low and high,
    the ends of its 95 % interval; None where the bar was not ranked or found nothing. The start of the basket is there
    where events tie in time, with the models that were ranked there.
    """
    return pooled_by_kind([question], {name: [ranking] for name, ranking in rankings.items()}, np.concatenate, bar)


def pooled_by_kind(
    questions: Sequence[Question], rankings: Mapping[str, Sequence[Ranking]], pool: Pool, bar: str | None = BAR
) -> dict[str, Any]:
    """Return by_kind of several runs. rankings: of each model, in every run.

    pool: np.concatenate for runs of other requests, else the runs answer the question of the first.
    """
    asked = questions if pool is np.concatenate else questions[:1]
    users = np.concatenate([question.users for question in asked])
    warm = np.concatenate([question.lengths() > 0 for question in asked])
    known = np.concatenate([_of_known_items(question) for question in asked])
    values = {name: _values([ranking.ranks for ranking in of], pool) for name, of in rankings.items()}
    found = {name: (mask, values) for name, mask in kinds_of(warm, known).items()}
    starts = {name: _start_ranks(of, questions) for name, of in rankings.items()}
    at_start = {name: _values(ranks, pool) for name, ranks in starts.items() if len(ranks) == len(questions)}
    if at_start and any(question.opening is not None for question in questions):
        found[START] = (found[ALL][0], at_start)
    return {
        name: {
            "title": TITLES[name],
            "requests": int(mask.sum()),
            "users": len(np.unique(users[mask])),
            "models": beside_bar({m: (n[mask], h[mask]) for m, (n, h) in of.items()}, users[mask], bar),
        }
        for name, (mask, of) in found.items()
    }


def kinds_of(warm: Flags, known: Flags) -> dict[str, Flags]:
    """Return which requests are of each kind, by name, each bool [U].

    warm: whether the user has a history [U]. known: whether the item has a training event [U]. Kinds without a request,
    and kinds of the same requests as another, are left out; so is the start of the basket, which changes what is known
    and not what is asked.
    """
    masks = {ALL: np.ones(len(warm), dtype=bool), "warm": warm, "cold": ~warm, "known_item": known, "new_item": ~known}
    kinds: dict[str, Flags] = {}
    for name, mask in (masks | {"warm_known_item": warm & known}).items():
        if mask.any() and not any(np.array_equal(mask, other) for other in kinds.values()):
            kinds[name] = mask
    return kinds


def _of_known_items(question: Question) -> Flags:
    """Return whether each request's item has a training event: bool [U]."""
    popularity = np.ones(question.n_items) if question.popularity is None else question.popularity
    return (question.target >= 0) & (popularity[np.maximum(question.target, 0)] > 0)


def _start_ranks(rankings: Sequence[Ranking], questions: Sequence[Question]) -> list[Ranks]:
    """Return the ranks at the start of the basket in each run that has them; without ties they are the ranks."""
    found = [
        ranking.ranks if question.opening is None else ranking.start
        for ranking, question in zip(rankings, questions, strict=True)
    ]
    return [ranks for ranks in found if ranks is not None]


def _values(ranks: Sequence[Ranks], pool: Pool) -> tuple[Float, Float]:
    """Return NDCG@10 and HR@10 of each request [U], pooled over the runs."""
    return pool([ndcg(of_run, 10) for of_run in ranks]), pool([hit(of_run, 10) for of_run in ranks])


def beside_bar(
    values: Mapping[str, tuple[Float, Float]], users: NDArray[np.int64], bar: str | None
) -> dict[str, dict[str, Any]]:
    """Return a row for each model, as by_kind does. values: NDCG@10 and HR@10 of each [U]. users: who asks [U]."""
    rows = compare_values(list(values), np.stack([quality for quality, _ in values.values()], axis=1), users, bar)
    return {name: row | {"hr@10": float(values[name][1].mean())} for name, row in rows.items()}


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


def describe_bar(setting: Mapping[str, Any]) -> str:
    """Return a setting of recent popularity for the reader, such as "window of 3 days"."""
    if "half_life_hours" in setting:
        return f"half-life of {setting['half_life_hours']} hours"
    days = setting.get("window_days", setting.get("days"))  # "days" in the runs of an older version
    return f"window of {days} day{'s' if days != 1 else ''}" if days else "setting unknown"


def judge_bar(of_bar: Mapping[str, float] | None, setting: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return "above", "within" or "below" the bar, and a sentence for the reader; None where there is no ratio.

    of_bar: the ratio of what is served to the bar, as in by_kind.
    """
    if of_bar is None:
        return None
    numbers = (
        f"{of_bar['ratio']:.2f} times its NDCG@10 (95 % interval {of_bar['low']:.2f} to {of_bar['high']:.2f}; "
        f"{describe_bar(setting)}, chosen on validation)"
    )
    if of_bar["high"] < 1:
        return "below", f"Below the bar: recent popularity at the time of the request does better. Served: {numbers}."
    if of_bar["low"] > 1:
        return "above", f"Above the bar of recent popularity at the time of the request. Served: {numbers}."
    return "within", f"Level with recent popularity at the time of the request, within noise. Served: {numbers}."


def _ratio(resampled: Float, means: Float, number: int, bar: int) -> dict[str, float] | None:
    """Return the ratio of one column to the bar's with its interval; None where the bar found nothing."""
    if not (means[bar] > 0 and (resampled[:, bar] > 0).all()):
        return None
    low, high = np.quantile(resampled[:, number] / resampled[:, bar], [0.025, 0.975]).tolist()
    return {"ratio": float(means[number] / means[bar]), "low": low, "high": high}
