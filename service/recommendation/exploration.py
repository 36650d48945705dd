"""Exploration: in a share of the lists one place goes to a live item, so that something is learned of new items.

Which lists these are is decided when they are asked for, by a seed that follows from the recommendation_id; the same
seed also draws the place and the item, so that an answer can be made again. The place is drawn from the lower half of
the list, each of its places being as likely; what stood there is left out, and everything else stays as it was. The
item is one that would not be shown else, and that filter, exclude, candidates and max_per let through.

A half of these items, drawn at random, compete for the place, so that the one that the model likes best does not always
win. Thompson sampling chooses among them (Thompson 1933; Chapelle and Li 2011): the item with the highest of scores
that are drawn around the model's own. If the cosine of an item's vector with the true one is c, what is missing of it
has the length |v| * sqrt(1 - c^2) in an unknown direction of d dimensions, and changes the product with a user u by
about |u| * |v| * sqrt((1 - c^2) / d), which is the standard deviation. c is the confidence of the item encoder; 0 where
the vector is of another kind. Where there is no user's vector, every item is as likely.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.bundle import Float32, Int64
from service.errors import ModelError
from service.model.catalogue import Catalogue
from service.recommendation.job import Query, Ranking
from service.recommendation.rule import have_room
from service.search.addend import Addends

MOST_DRAWN = 500
"""So many live items compete for a place at most."""


@dataclass(frozen=True, slots=True)
class Explored:
    """Which lists are explored. share: of the lists, from 0 to 1."""

    share: float = 0.0

    def mark(self, query: Query, catalogue: Catalogue, slot: int = 0) -> None:
        """Say in a query, which has its recommendation_id, whether its list is explored. slot: which one of a page.

        Of a list only the first page is.
        """
        if not self.share or not catalogue.has_live_rows or (query.rules is not None and query.rules.offset):
            return
        seed = int(query.recommendation_id, 16), slot
        if np.random.default_rng(seed).random() < self.share:
            query.explore = seed


class Explorer:
    """Gives places of finished lists to live items of one catalogue."""

    def __init__(
        self,
        catalogue: Catalogue,
        scores_of: Callable[[Ranking, Sequence[int]], dict[int, Any]],
        weigh: Callable[[Sequence[Ranking]], tuple[Float32, Addends | None]],
    ) -> None:
        """scores_of: returns the scores of rows. weigh: returns the users' vectors first. Both raise ModelError."""
        self._catalogue, self._scores_of, self._weigh = catalogue, scores_of, weigh

    def explore(self, ranking: Ranking) -> None:
        """Give a place of a ranking's answer, a whole page, to a live item, if there is one that may have it."""
        answer, rng = ranking.answer, np.random.default_rng((*ranking.job.query.explore, 1))
        rows, scores = answer.ranked
        placed = ranking.job.placed
        places = [place for place in range((len(rows) + 1) // 2, len(rows)) if place + 1 not in placed]
        if not places:
            return
        place = int(rng.choice(places))
        others = {*map(int, rows), *placed.values()} - {int(rows[place])}
        able = self._able(ranking, {*others, int(rows[place])})
        if (rules := ranking.job.query.rules) is not None and rules.caps:
            able = able[have_room(rules.caps, sorted(others), able)]
        if not len(able):
            return
        able = rng.choice(able, min(MOST_DRAWN, (len(able) + 1) // 2), replace=False)
        try:
            row, score = self._choose(ranking, able, rng)
        except ModelError:
            return
        shown = scores.copy()
        shown[place] = score
        answer.ranked, answer.explored = ([*rows[:place], row, *rows[place + 1 :]], shown), place

    def _able(self, ranking: Ranking, shown: set[int]) -> Int64:
        """Return the live rows that a list may show, ascending, without those that it shows."""
        n_made, n_items = self._catalogue.n_made, len(self._catalogue)
        job, is_able = ranking.job, np.ones(n_items, dtype=np.bool_)
        if job.mask is not None:
            is_able[: len(job.mask)] = job.mask
        if job.candidates is not None:
            is_able &= np.isin(np.arange(n_items), job.candidates)
        is_able[np.array([*ranking.masked(n_items), *shown], dtype=np.int64)] = False
        return np.flatnonzero(is_able[n_made:]) + n_made

    def _choose(self, ranking: Ranking, rows: Int64, rng: "np.random.Generator") -> tuple[int, Any]:
        """Return one of rows, and its score. Raises ModelError."""
        found = self._scores_of(ranking, rows.tolist())
        if ranking.answer.level == "fallback":
            row = int(rng.choice(rows))
            return row, found[row]
        users, _ = self._weigh([ranking])
        vectors, sure = self._catalogue.vectors(rows.tolist()), self._catalogue.certainties(rows)
        lengths = np.linalg.norm(vectors, axis=1) * float(np.linalg.norm(users[0]))
        spread = lengths * np.sqrt((1 - sure**2) / vectors.shape[1])
        drawn = np.array([found[row] for row in rows.tolist()]) + spread * rng.standard_normal(len(rows))
        row = int(rows[int(drawn.argmax())])
        return row, found[row]
