"""Arrays of one value an item that grow as live items come: at their end, in steps that become larger."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST = 256


class Growing:
    """An array of [n_items, ...]. values: the array as it is now; it may be written to, but not kept for long."""

    def __init__(self, values: NDArray[Any], fill: Any) -> None:
        """values: taken as it is, not copied. fill: the value of items that come later."""
        self.values, self._buffer, self._fill = values, values, fill

    def __len__(self) -> int:
        return len(self.values)

    def grow(self, n_items: int) -> None:
        """Make room for n_items; where there are as many, nothing is done."""
        n_before = len(self.values)
        if n_items <= n_before:
            return
        if n_items > len(self._buffer):
            room = n_items + max(_LEAST, n_items // 8)
            self._buffer = np.empty((room, *self._buffer.shape[1:]), dtype=self._buffer.dtype)
            self._buffer[:n_before] = self.values
        self._buffer[n_before:n_items] = self._fill
        self.values = self._buffer[:n_items]
