"""The funnel of an answer: how many items were left after each step, from the catalogue to the page."""

import numpy as np

from service.model.catalogue import Catalogue
from service.recommendation.job import Ranking


def count_funnel(ranking: Ranking, catalogue: Catalogue, n_in_list: int | None) -> dict[str, int]:
    """Return how many items were left after each step. n_in_list: of the whole list, where rules decide it."""
    job = ranking.job
    n_items = len(catalogue) if job.n_items is None else job.n_items
    is_allowed = np.zeros(n_items, dtype=np.bool_)
    is_allowed[slice(None) if job.candidates is None else np.array(job.candidates, dtype=np.int64)] = True
    if job.mask is not None:
        is_allowed &= job.mask
    is_allowed[job.withdrawn] = False
    hidden = {row for row in map(int, job.hidden(ranking.found.taste)) if row < n_items and is_allowed[row]}
    n_allowed = int(is_allowed.sum())
    n_seen = n_allowed - len(hidden)
    n_pinned = sum(row in hidden for row in job.placed.values())
    return {
        "catalogue": n_items - sum(row < n_items for row in catalogue.live.withdrawn),
        "filter": n_allowed,
        "seen": n_seen,
        "rules": n_seen + n_pinned if n_in_list is None else n_in_list,
        "returned": len(ranking.answer.ranked[0]),
    }
