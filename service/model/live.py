"""What live items change in one catalogue: which rows are other items than the bundle says, and which are withdrawn.

Changes come between two requests, on one thread, and a row never changes its meaning. Where there is no live item,
nothing of this is asked by a request but whether there is one.
"""

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.bundle import Item
from service.catalogue.attributes import Attributes
from service.catalogue.column import Mask
from service.catalogue.live_item import LiveItem
from service.catalogue.title_index import TitleIndex

FEW_WITHDRAWN = 500
"""So few withdrawn rows are masked as a user's history is; of more a mask of all items is made."""
Int32 = NDArray[np.int32]
_NO_ROWS: Int32 = np.zeros(0, dtype=np.int32)


class LiveRows:
    """The rows of one catalogue that live items are about.

    records: of each such row. items: what it is now. withdrawn: rows that no answer may have. n_items: of the
    catalogue.
    """

    def __init__(
        self, attributes: Attributes, base: Callable[[int], Item | None], n_items: int, titles: TitleIndex
    ) -> None:
        """attributes, titles: are changed. base: returns what the bundle says of a row, if it has it."""
        self._attributes, self._base, self.n_items, self._titles = attributes, base, n_items, titles
        self.records: dict[int, LiveItem] = {}
        self.items: dict[int, Item] = {}
        self.withdrawn: set[int] = set()
        self._expiring: list[tuple[float, int]] = []
        self._rows: Int32 | None = None
        self._shown: Mask | None = None

    def put(self, row: int, item_id: str, record: LiveItem, now: float) -> None:
        """Let a row be what a record says."""
        self.records[row] = record
        if record.expires_at is not None and record.is_shown(now):
            heapq.heappush(self._expiring, (record.expires_at, row))
        if record.kind == "gone" and (self._base(row) is not None or not record.fields):
            self._restore(row)
        else:
            self.items[row] = item = record.over(item_id, self._base(row))
            self._change(row, item)
        self._withdraw(row, is_withdrawn=not record.is_shown(now))

    def drop(self, row: int) -> None:
        """Let a row be what the bundle says; a row that it does not have is withdrawn."""
        if self.records.pop(row, None) is None:
            return
        self._restore(row)
        self._withdraw(row, is_withdrawn=self._base(row) is None)

    def expire(self, now: float) -> None:
        """Withdraw what has expired by a Unix time."""
        while self._expiring and self._expiring[0][0] <= now:
            _, row = heapq.heappop(self._expiring)
            record = self.records.get(row)
            if record is not None and not record.is_shown(now):
                self._withdraw(row, is_withdrawn=True)

    def restrict(self, mask: Mask | None, n_items: int | None = None) -> tuple[Mask | None, Int32]:
        """Return which items of a mask may be shown, and what else is to be masked. mask: None for all items.

        n_items: how many there were when the mask was made, None: as many as now. Few withdrawn rows are no reason for
        a mask where there was none.
        """
        if not self.withdrawn:
            return mask, _NO_ROWS
        if mask is None and len(self.withdrawn) <= FEW_WITHDRAWN:
            if self._rows is None:
                self._rows = np.fromiter(sorted(self.withdrawn), dtype=np.int32)
            return None, self._rows[: np.searchsorted(self._rows, self.n_items if n_items is None else n_items)]
        if self._shown is None:
            self._shown = np.ones(self.n_items, dtype=np.bool_)
            self._shown[list(self.withdrawn)] = False
            self._shown.flags.writeable = False
        shown = self._shown[:n_items]
        return (shown if mask is None else mask & shown), _NO_ROWS

    def grow(self, n_items: int) -> None:
        """Note that the catalogue has more items."""
        self.n_items, self._shown = n_items, None

    def _restore(self, row: int) -> None:
        """Let a row have the values that the bundle says; one that it does not have keeps its own."""
        base = self._base(row)
        if base is not None and self.items.pop(row, None) is not None:
            self._change(row, base)

    def _change(self, row: int, item: Item) -> None:
        self._attributes.change(row, item)
        self._titles.note(row, item.title)

    def _withdraw(self, row: int, *, is_withdrawn: bool) -> None:
        if is_withdrawn == (row in self.withdrawn):
            return
        self.withdrawn ^= {row}
        self._rows = self._shown = None
