"""For whom a model works: the same metrics by popularity of the held-out item, and by length of the history.

An average hides a model that serves best sellers to heavy buyers and nobody else.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metric import Ranks, hit, ndcg

QUINTILES = 5
HISTORY_FROM = (1, 5, 10, 20, 50)  # known events at which the groups begin
AT = 10


def popularity_quintile(popularity: NDArray[Any]) -> NDArray[np.int64]:
    """Return the quintile of each item [N]: 0 the best sellers, 4 the tail; each holds a fifth of the training events.

    Items of equal popularity stay together in the more popular of their quintiles.
    """
    order = np.argsort(-popularity, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(popularity[order])[:-1]]) / max(popularity.sum(), 1)
    quintile = np.empty(len(popularity), dtype=np.int64)
    quintile[order] = np.minimum(before * QUINTILES + 1e-9, QUINTILES - 1).astype(np.int64)
    values, place = np.unique(popularity, return_inverse=True)
    best = np.full(len(values), QUINTILES)
    np.minimum.at(best, place, quintile)
    return best[place]


def by_popularity(
    ranks: NDArray[np.int64], target: NDArray[np.int64], popularity: NDArray[Any]
) -> list[dict[str, Any]]:
    """Return a row for each quintile: how many items, users, the range of training events of an item, the metrics."""
    quintile = popularity_quintile(popularity)
    known = target >= 0
    of_user = np.where(known, quintile[np.maximum(target, 0)], QUINTILES)
    rows = []
    for number in range(QUINTILES):
        inside = popularity[quintile == number]
        span = {"from": float(inside.min()), "to": float(inside.max())} if len(inside) else {"from": 0.0, "to": 0.0}
        rows.append({"quintile": number + 1, "items": len(inside)} | span | _metrics(ranks[of_user == number]))
    return rows


def by_history(ranks: Ranks, length: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return a row for each range of history lengths (events known before the held-out one); `to` None is open."""
    group = np.searchsorted(HISTORY_FROM, length, side="right") - 1
    stops: list[int | None] = [start - 1 for start in HISTORY_FROM[1:]]
    return [
        {"from": start, "to": stop} | _metrics(ranks[group == number])
        for number, (start, stop) in enumerate(zip(HISTORY_FROM, [*stops, None], strict=True))
    ]


def _metrics(ranks: Ranks) -> dict[str, Any]:
    if not len(ranks):
        return {"users": 0, f"recall@{AT}": None, f"ndcg@{AT}": None}
    return {
        "users": len(ranks),
        f"recall@{AT}": float(hit(ranks, AT).mean()),
        f"ndcg@{AT}": float(ndcg(ranks, AT).mean()),
    }
