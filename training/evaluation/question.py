"""What every model is asked: for each user with a held-out event, which item came next after the history before it.

The history is everything known before the held-out event. Where the data shows no repeat consumption, the items in it
may not be recommended. This is also the default of `exclude_seen` when the bundle is served, so that a report's figures
and the service's answers are about the same lists.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.event import Events, Int64, select_events
from training.data.prepared import Prepared
from training.data.split import TEST, VAL


@dataclass(frozen=True)
class Baskets:
    """Every item that was held out in the same instant as a user's first held-out event, that event included."""

    rows: NDArray[np.int32]  # [I], item rows
    owner: Int64  # [I], whose each is: a place in Question.users


@dataclass(frozen=True)
class Question:
    """The users that are asked about, their histories, and the item that each of them took next. U users."""

    known: Events  # the histories, of all users by number
    users: Int64  # [U], user numbers
    target: Int64  # [U], row of the item taken next; -1 where it is not in the catalogue
    exclude_seen: bool  # whether items of the history may not be recommended
    n_items: int
    asked_ms: Int64 | None = None  # [U], time of the held-out event; None where it is not known
    baskets: Baskets | None = None

    def seen(self, users: Int64) -> list[NDArray[np.int32]]:
        """Return the item rows of the whole history of each of the given user numbers, oldest first."""
        return [self.known.item[self.known.offset[u] : self.known.offset[u + 1]] for u in users]

    def is_repeat(self) -> NDArray[np.bool_]:
        """Return for each user whether the item taken next is already in the history: bool [U]."""
        return np.array([row in seen for row, seen in zip(self.target, self.seen(self.users), strict=True)], dtype=bool)


def judged_part(prepared: Prepared) -> int:
    """Return the part that reports are about: TEST, or VAL where nothing was held out for testing."""
    return TEST if bool((prepared.part == TEST).any()) else VAL


def ask(prepared: Prepared, part: int, *, exclude_seen: bool | None = None, limit: int | None = None) -> Question:
    """Return the question of a part, VAL or TEST: each user's first event of it, given all events of earlier parts.

    Users without an earlier event are left out. exclude_seen: None takes the rule that the data suggests. limit: at
    most so many users, drawn with a fixed seed.
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
        target=prepared.item[first].astype(np.int64),
        exclude_seen=not prepared.report["repeat_consumption"] if exclude_seen is None else exclude_seen,
        n_items=len(prepared.items),
        asked_ms=prepared.timestamp_ms[first],
        baskets=_baskets(prepared, part, users, first),
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
