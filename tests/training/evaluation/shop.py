"""A shop of six items and two users, small enough to work out every rank by hand."""

import numpy as np

from service.bundle import Item
from training.data.prepared import Prepared

N_ITEMS = 6


def make_shop() -> Prepared:
    """Two users; user 0 takes item 4 as the held-out one, user 1 item 1 again, which it had before."""
    rows = [
        (0, 0, 10, 0), (0, 1, 20, 0), (0, 2, 30, 1), (0, 4, 40, 2),
        (1, 1, 10, 0), (1, 3, 15, 0), (1, 5, 30, 1), (1, 1, 45, 2),
    ]  # fmt: skip
    return _shop(rows)


def make_busy_shop() -> Prepared:
    """A shop split by time: user 0 takes items 4 and 0 in one instant and 5 later, user 1 item 1, user 2 is new."""
    rows = [
        (0, 0, 10, 0), (0, 1, 20, 0), (0, 2, 30, 1), (0, 4, 40, 2), (0, 0, 40, 2), (0, 5, 50, 2),
        (1, 1, 10, 0), (1, 3, 15, 0), (1, 5, 30, 1), (1, 1, 45, 2), (2, 1, 60, 2),
    ]  # fmt: skip
    return _shop(rows)


def _shop(rows) -> Prepared:
    """Rows of user, item, time and part; items are popular by their training events."""
    user, item, time, part = (np.array(column) for column in zip(*rows, strict=True))
    popularity = np.bincount(item[part == 0], minlength=N_ITEMS)
    return Prepared(
        users=["a", "b", "c"][: user.max() + 1],
        items=[Item(str(n), float(popularity[n]), None, {}) for n in range(N_ITEMS)],
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp_ms=time.astype(np.int64),
        part=part.astype(np.uint8),
        report={"repeat_consumption": True},
    )


def falling(rows) -> np.ndarray:
    """Item 0 is best, item 5 worst, for everybody."""
    return np.repeat(-np.arange(N_ITEMS, dtype=np.float32)[None], len(rows), axis=0)
