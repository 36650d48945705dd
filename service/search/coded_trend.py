"""What the coded levels of the trend stand for as counts move on, and which items stand higher than their level says.

Codes are made with the bundle's counts. Later a level stands for the mean of what its items are at now, so fading costs
nothing. An item of which much has been heard since has risen above its level; the items that rose furthest are always
scored. What that finds as counts move: tests/bench/README.md, "The trend is coded in levels".
"""

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64
from service.search.addend import Standing, pick_highest

MOST_RISEN = 2000
_LEAST_RISE = 0.5
_NONE: Int64 = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """What was worked out for one standing. heights: of the levels, float32 [n_levels]. risen: rows, always scored."""

    logs: "weakref.ref[Any]"
    heights: Float32
    risen: Int64


class CodedTrend:
    """Follows the trend for codes with levels. Any thread may call."""

    def __init__(self, levels: NDArray[np.uint8], heights: Float32) -> None:
        """levels: of the items, uint8 [n_items]. heights: of the levels as they were coded, float32 [n_levels]."""
        self._levels, self._coded = levels, heights.copy()
        self._sizes = np.bincount(levels, minlength=len(heights))
        self._last: tuple[Followed, ...] = ()

    def follow(self, standing: Standing) -> Followed:
        """Return what a standing comes to; it is kept of the last two, since requests under way have the one before."""
        for each in self._last:
            if each.logs() is standing.logs:
                return each
        logs = standing.logs[: len(self._levels)]
        sums = np.bincount(self._levels, weights=logs, minlength=len(self._coded))
        heights = np.where(self._sizes > 0, sums / np.maximum(1, self._sizes), self._coded).astype(np.float32)
        rise = logs - heights[self._levels]
        rows = np.flatnonzero(rise > _LEAST_RISE)
        risen = pick_highest(rows, rise, np.arange(len(rise)), MOST_RISEN) if len(rows) else _NONE
        found = Followed(weakref.ref(standing.logs), heights, risen)
        self._last = (found, *self._last[:1])
        return found
