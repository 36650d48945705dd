"""For whom a model works: its metrics by the popularity of the held-out item, and by the length of the history.

An average over all users can hide that a model recommends best sellers to frequent buyers and fails everybody else.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metric import Ranks, hit, ndcg

QUINTILES = 5
HISTORY_FROM = (1, 5, 10, 20, 50)  # the fewest known events in each group of requests
AT = 10  # the cutoff of the metrics


def popularity_quintile(popularity: NDArray[Any]) -> NDArray[np.int64]:
    """Return the quintile of each item [N], from 0 for the best sellers to 4: each makes a fifth of the events.

    popularity: training events of each item [N]. Items of equal popularity are in the same quintile, the more popular
    one of those that they would fill.
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
    """Return a row for each quintile of items, about the users whose held-out item is in it.

    ranks, target: the rank and the item row of each user's held-out item [U]; a target of -1 is in no quintile.
    popularity: training events of each item [N]. A row holds quintile (from 1), items, from and to (the fewest and the
    most events of an item in it), users, recall@10 and ndcg@10, both None where there are no users.
    """
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
    """Return a row for each range of history lengths: from, to, users, recall@10 and ndcg@10.

    ranks: of each request's held-out item [U]. length: events known before it [U]. The last range is open: its `to` is
    None. Users without a history have a row of their own, the first, where there are any. The metrics are None where
    there are no users.
    """
    starts = (0, *HISTORY_FROM) if (length == 0).any() else HISTORY_FROM
    group = np.searchsorted(starts, length, side="right") - 1
    stops: list[int | None] = [start - 1 for start in starts[1:]]
    return [
        {"from": start, "to": stop} | _metrics(ranks[group == number])
        for number, (start, stop) in enumerate(zip(starts, [*stops, None], strict=True))
    ]


def _metrics(ranks: Ranks) -> dict[str, Any]:
    """Return how many users there are and the means of their metrics, None where there are none."""
    if not len(ranks):
        return {"users": 0, f"recall@{AT}": None, f"ndcg@{AT}": None}
    return {
        "users": len(ranks),
        f"recall@{AT}": float(hit(ranks, AT).mean()),
        f"ndcg@{AT}": float(ndcg(ranks, AT).mean()),
    }
