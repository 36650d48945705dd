"""How often each item of a catalogue was shown lately: from that coverage and concentration of the lists are told.

A count halves each hour. Instead of letting all counts fade, what is added grows (forward decay: Cormode et al. 2009),
so that an answer costs the same whatever the size of the catalogue: its rows are put aside, and are counted together
with those of other answers. A count has 4 bytes. tests/bench/README.md, "What was shown" has what it costs.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from service.bundle import Float32

HALF_LIFE_S = 3600.0
_AT_ONCE = 500
_MOST_HALVINGS = 40.0


class Shown:
    """Counts of one catalogue. For one thread, but that measure() may run in another one."""

    def __init__(self, n_made: int, clock: Callable[[], float] = time.monotonic) -> None:
        """n_made: how many rows are of the bundle; later rows are live items. clock: returns seconds."""
        self._n_made, self._clock = n_made, clock
        self._aside: list[Sequence[int] | Any] = []
        self._counts: Float32 = np.zeros(n_made, dtype=np.float32)
        self._began = clock()
        self._n_shown = [0, 0]

    def note(self, rows: Sequence[int] | Any) -> None:
        """Count the rows of a list that is shown. They must not change afterwards."""
        self._aside.append(rows)
        if len(self._aside) >= _AT_ONCE:
            self._add_up()

    def take(self) -> tuple[int, int]:
        """Return how many items of the bundle and how many live items were shown since this was called last."""
        self._add_up()
        made, live = self._n_shown
        self._n_shown = [0, 0]
        return made, live

    def measure(self, n_items: int) -> tuple[float, float]:
        """Return the coverage and the Gini coefficient of what take() has counted; 0 and 0 where nothing was shown.

        Coverage is the share of items with a count of at least a half: those shown within the last hour, and those that
        were shown often a little before. Gini is 0 where all items are shown equally often and near 1 where few are
        shown always. n_items: how many may be shown.
        """
        counts = np.sort(self._counts[self._counts > 0]).astype(np.float64)
        n_items = max(n_items, len(counts))
        if not len(counts):
            return 0.0, 0.0
        covered = len(counts) - int(np.searchsorted(counts, 0.5 * self._weight()))
        places = np.arange(n_items - len(counts) + 1, n_items + 1)
        gini = float(((2 * places - n_items - 1) * counts).sum() / (n_items * counts.sum()))
        return covered / n_items, gini

    def _weight(self) -> float:
        """Return what an item that is shown now counts."""
        return float(2 ** ((self._clock() - self._began) / HALF_LIFE_S))

    def _add_up(self) -> None:
        """Count what was put aside."""
        aside, self._aside = [rows for rows in self._aside if len(rows)], []
        if not aside:
            return
        rows, times = np.unique(np.concatenate([np.asarray(each) for each in aside]), return_counts=True)
        weight = self._weight()
        if weight > 2**_MOST_HALVINGS:
            self._counts, self._began, weight = self._counts / np.float32(weight), self._clock(), 1.0
        if rows[-1] >= len(self._counts):
            more = max(int(rows[-1]) + 1, len(self._counts) * 5 // 4) - len(self._counts)
            self._counts = np.concatenate([self._counts, np.zeros(more, dtype=np.float32)])
        self._counts[rows] += (weight * times).astype(np.float32)
        made = int(times[rows < self._n_made].sum())
        self._n_shown[0] += made
        self._n_shown[1] += int(times.sum()) - made
