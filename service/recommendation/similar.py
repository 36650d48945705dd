"""Items that go with others: what the ranker does for a job with anchors that it does not do for others.

The score (service/bundle/similar.py) is a product with a vector, plus an addend, as that of a user is; so the search,
filters and rules are the same. Where a user or a history is known, PERSONAL of that score is added.
"""

from collections.abc import Sequence

import numpy as np

from service.bundle import Float32
from service.model.catalogue import Catalogue
from service.recommendation.job import Ranking
from service.search.addend import Addend

PERSONAL = 0.5
"""How much of a user's own score is added to that of items that go with the anchors."""


def begin_similar(ranking: Ranking) -> None:
    """Say how good the answer to a job with anchors can still be, now that what is known of its user was found.

    The model answers it whoever asks, so nothing that is missing of the user makes it a fallback.
    """
    answer, query = ranking.answer, ranking.job.query
    if answer.level == "fallback":
        answer.level = "degraded"
    elif not len(ranking.found.taste.seen) and (query.user_id is not None or query.history is not None):
        answer.reasons.append("cold_user")


def to_encode(ranking: Ranking, max_history: int) -> list[list[int]]:
    """Return the histories that the encoder has to read for a job: of the anchors, if any, and of the user."""
    seen = ranking.found.taste.seen
    own = [seen[-max_history:].tolist()] if ranking.user is None and len(seen) else []
    return [list(ranking.job.anchors), *own] if ranking.job.anchors else own


def relate(rankings: Sequence[Ranking], catalogue: Catalogue, now: float) -> tuple[Float32, list[Addend]]:
    """Return what is multiplied with the items for jobs with anchors, float32 [batch, dim], and what is added."""
    vectors, addends = [], []
    for ranking in rankings:
        assert ranking.following is not None  # noqa: S101  # encoded, or answered already
        vector, addend = catalogue.relate(ranking.job.anchors, ranking.following)
        taste = ranking.found.taste
        if ranking.user is not None and len(taste.seen):
            user, own = catalogue.weigh(ranking.user[None], [taste.seen], [taste.last_at], now)
            vector = vector + np.float32(PERSONAL) * user[0]
            addend = addend if own is None else addend.plus(own[0], PERSONAL)
        vectors.append(vector)
        addends.append(addend)
        ranking.addend = addend
    return np.stack(vectors), addends
