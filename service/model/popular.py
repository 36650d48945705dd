"""The most popular items of a catalogue, without a model: by the trend where there is one, else as in training.

Live items have not been popular in training: they come after the others.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, Items, popularity_order
from service.catalogue.growing import Growing
from service.search.addend import Standing, pick_highest
from service.search.protocol import Ranked
from service.search.segment import lengthened

_AT_ONCE = 256


class Popular:
    """The order of popularity. standing: in the trend; None where there is none."""

    def __init__(self, items: Items) -> None:
        self.order = popularity_order(items)
        self._places = Growing(np.argsort(self.order), 0)
        self._popularity = Growing(items.popularity, 0.0)
        self.standing: Standing | None = None

    @property
    def places(self) -> Int64:
        """The place of each row in the order."""
        places: Int64 = self._places.values
        return places

    def __len__(self) -> int:
        return len(self._places)

    def grow(self, n_items: int) -> None:
        """Take further rows, the least popular ones in their order."""
        n_before = len(self)
        self._places.grow(n_items)
        self._places.values[n_before:] = np.arange(n_before, n_items)
        self._popularity.grow(n_items)

    def rank(
        self,
        k: int,
        masked: Iterable[int],
        candidates: Sequence[int] | None = None,
        allowed: NDArray[np.bool_] | None = None,
        boost: Float32 | None = None,
    ) -> Ranked:
        """Return the k most popular rows, see Catalogue.most_popular()."""
        hidden = set(masked)
        if allowed is not None or boost is not None:
            left = np.ones(len(self), dtype=np.bool_) if allowed is None else lengthened(allowed, len(self), 0).copy()
            left[list(hidden)] = False
            chosen: Int64 = np.flatnonzero(left)
            if candidates is not None:
                chosen = np.array(sorted({row for row in candidates if left[row]}), dtype=np.int64)
            return self._best_of(chosen, k, boost)
        if (standing := self.standing) is not None:
            return self._trending(standing, k, hidden, candidates)
        places = self._places.values
        rows = self.each() if candidates is None else sorted(set(candidates), key=places.__getitem__)
        best = list(itertools.islice((row for row in rows if row not in hidden), k))
        return best, self._popularity.values[best]

    def each(self) -> Iterator[int]:
        """Yield all rows, the most popular first. They are converted 256 at a time, because few are asked for."""
        for first in range(0, len(self.order), _AT_ONCE):
            yield from self.order[first : first + _AT_ONCE].tolist()
        yield from range(len(self.order), len(self))

    def _best_of(self, rows: Int64, k: int, boost: Float32 | None) -> Ranked:
        """Return the k most popular of rows."""
        standing, places = self.standing, self.places
        popularity: NDArray[Any] = self._popularity.values
        if standing is not None:
            popularity = lengthened(standing.logs, len(self), standing.least)
        if boost is not None:
            popularity = popularity + lengthened(boost, len(self), 0.0)
        rows = pick_highest(rows, popularity, places, k)
        rows = rows[np.lexsort((places[rows], -popularity[rows]))]
        return rows.tolist(), popularity[rows]

    def _trending(self, standing: Standing, k: int, hidden: set[int], candidates: Sequence[int] | None) -> Ranked:
        if candidates is not None:
            left = _without(np.array(sorted(set(candidates)), dtype=np.int64), hidden)
        else:
            left = self._highest(standing, k, hidden)
        logs = standing.at(left)
        order = np.lexsort((self._places.values[left], -logs))[:k]
        return left[order].tolist(), logs[order]

    def _highest(self, standing: Standing, k: int, hidden: set[int]) -> Int64:
        """Return rows among which the k best are: of those that are known to be high, if enough of them are shown.

        Rows of the bundle, live rows, and those that came after the trend was counted are three lists, and each has to
        have k of its own, or all that there are: as many in another one may stand lower.
        """
        n_made, n_counted = len(self.order), len(standing.logs)
        later = np.arange(n_counted, min(len(self), n_counted + k + len(hidden)))  # of these the first are the best
        listed = [(standing.top, n_made), (standing.top_live, n_counted - n_made), (later, len(later))]
        left = [(_without(rows, hidden), len(rows) >= n_rows) for rows, n_rows in listed if n_rows > 0]
        if all(is_whole or len(shown) >= k for shown, is_whole in left):
            return np.concatenate([shown for shown, _ in left])
        rows: Int64 = np.delete(np.arange(len(self)), sorted(hidden))
        return pick_highest(rows, lengthened(standing.logs, len(self), standing.least), self.places, k)


def _without(rows: Int64, hidden: set[int]) -> Int64:
    return rows[[row not in hidden for row in rows.tolist()]] if hidden else rows
