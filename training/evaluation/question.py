"""What is asked of a model: one question for each held-out event, with the history before it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.event import Events, select_events
from training.data.prepared import Prepared
from training.data.split import TEST, VAL

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Baskets:
    """What was held out in one instant: rows, and the place in the question of the user whose each is."""

    rows: NDArray[np.int32]
    owner: Int64


@dataclass(frozen=True)
class Question:
    """Users with a history, and the row that each took next (-1: not in the catalogue)."""

    known: Events
    users: Int64
    target: Int64
    exclude_seen: bool
    n_items: int
    asked_ms: Int64 | None = None  # [U] time of the held-out event
    baskets: Baskets | None = None

    def seen(self, users: Int64) -> list[NDArray[np.int32]]:
        """The rows of each user's whole history."""
        return [self.known.item[self.known.offset[u] : self.known.offset[u + 1]] for u in users]

    def repeats(self) -> NDArray[np.bool_]:
        """Which targets stand in their user's history [U]."""
        return np.array([row in seen for row, seen in zip(self.target, self.seen(self.users), strict=True)], dtype=bool)


def ask(prepared: Prepared, part: int, *, exclude_seen: bool | None = None, limit: int | None = None) -> Question:
    """Return the question of a part (1 validation, 2 test): each user's first event of it, given all events before.

    exclude_seen: None takes the data's own rule. limit: at most so many users, drawn with a fixed seed.
    """
    n_users = len(prepared.users)
    known = select_events(prepared.user, prepared.item, prepared.part < part, n_users)
    first = np.full(n_users, -1, dtype=np.int64)
    place = np.flatnonzero(prepared.part == part)[::-1]  # reversed, so that the first event is written last
    first[prepared.user[place]] = place
    users = np.flatnonzero((first >= 0) & (known.lengths() > 0))
    if limit is not None and len(users) > limit:
        users = np.sort(np.random.default_rng(0).choice(users, limit, replace=False))
    first = first[users]
    return Question(
        known,
        users,
        prepared.item[first].astype(np.int64),
        not prepared.report["repeat_consumption"] if exclude_seen is None else exclude_seen,
        len(prepared.items),
        prepared.timestamp_ms[first],
        _baskets(prepared, part, users, first),
    )


def _baskets(prepared: Prepared, part: int, users: Int64, first: Int64) -> Baskets:
    """Return the distinct held-out items that share user and instant with each first held-out event."""
    place = np.full(len(prepared.users), -1, dtype=np.int64)
    place[users] = np.arange(len(users))
    asked_ms = np.zeros(len(prepared.users), dtype=np.int64)
    asked_ms[users] = prepared.timestamp_ms[first]
    owner = place[prepared.user]
    inside = (owner >= 0) & (prepared.part == part) & (prepared.timestamp_ms == asked_ms[prepared.user])
    pairs = np.unique(np.stack([owner[inside], prepared.item[inside]]), axis=1)
    return Baskets(pairs[1].astype(np.int32), pairs[0])


def judged_part(prepared: Prepared) -> int:
    """Return the part that reports are about: test, or validation where nothing was held out for testing."""
    return TEST if bool((prepared.part == TEST).any()) else VAL
