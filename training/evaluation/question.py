"""What every model is asked: which item did a user take at a time, given what a live service would have known then.

Each held-out event is a request of its own, asked at its own time. Its history is all that the user did before it, of
whatever part: within the test the state moves on, as it does in a service. So do the counts of the trend
(training/data/trend.py), which a scorer that knows them takes by `asked_ms`. Nothing later is known to anybody.

Events of one instant are a basket. A request knows those of its basket that come before it in the order of the store
(basket completion); asked at the start of the basket, it knows only what lies strictly before the instant.

Where the data shows no repeat consumption, the items of the history may not be recommended. This is also the default of
`exclude_seen` when the bundle is served, so that a report's figures and the service's answers are about the same lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.data.event import Events, Int64
from training.data.prepared import Prepared, all_events
from training.data.split import TEST, VAL
from training.data.trend import gaps_before
from training.model.batch import history_batches

AT_ONCE = 256  # requests scored together
SCORES_AT_ONCE = 1 << 22  # of them: 16 MB of memory are used again and again, where 100 MB would be mapped anew
MOST_REQUESTS = 50_000  # where users are asked several times; of more, so many are drawn
MOST_SCORES = 2_000_000_000  # of a question, half a minute on two cores: a large catalogue is asked by fewer users


@dataclass(frozen=True, eq=False)
class Baskets:
    """Every item that was held out in one instant, for each request that is the first of its instant."""

    rows: NDArray[np.int32]  # [I], item rows
    owner: Int64  # [I], whose each is: a place in Question.users


@dataclass(frozen=True, eq=False)
class Question:
    """The requests that are made: who asks, what is known of the user, and which item was taken. U requests."""

    events: Events  # of all users by number, the histories among them
    users: Int64  # [U], user numbers; a user may ask several times
    target: Int64  # [U], row of the item taken; -1 where it is not in the catalogue
    exclude_seen: bool  # whether items of the history may not be recommended
    n_items: int
    asked_ms: Int64 | None = None  # [U], time of the held-out event; None where it is not known
    gap: NDArray[np.float64] | None = None  # [U], log1p of the seconds since the user's last event strictly before
    # asked_ms, NaN where there is none; None where times are not known
    stop: Int64 | None = None  # [U], where each history ends in events.item; None: with the user's events
    opening: Int64 | None = None  # [U], where it ends at the start of the basket; None where no event ties
    popularity: NDArray[np.float32] | None = None  # training events of each item [N], for users without a history
    baskets: Baskets | None = None

    def stops(self) -> Int64:
        """Return where each history ends in events.item [U]."""
        return self.events.offset[1:][self.users] if self.stop is None else self.stop

    def lengths(self) -> Int64:
        """Return the number of known events of each request [U]."""
        return self.stops() - self.events.offset[self.users]

    def histories(self, places: Int64) -> list[NDArray[np.int32]]:
        """Return the item rows of the whole history of the requests at some places, oldest first."""
        start, stop = self.events.offset[self.users[places]], self.stops()[places]
        return [self.events.item[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]

    def batches(self, max_history: int, places: Int64 | None = None) -> Iterator[tuple[Int64, Tensor]]:
        """Yield the newest max_history items of the requests, some at once, the shortest first.

        Yields (places in users [B], rows int64 [B, T] padded on the left with -1). places: only these; None: all.
        """
        asked = np.arange(len(self.users)) if places is None else places
        size = min(AT_ONCE, max(8, SCORES_AT_ONCE // self.n_items))
        batches = history_batches(
            self.events, self.users[asked], max_history=max_history, size=size, stop=self.stops()[asked]
        )
        for batch, rows in batches:
            yield asked[batch], rows

    def is_seen(self, places: Int64) -> NDArray[np.bool_]:
        """Return which items are in the history of some requests: bool [U, N]. The target is taken as not seen."""
        seen = np.zeros((len(places), self.n_items), dtype=np.bool_)
        for row, history in enumerate(self.histories(places)):
            seen[row, history] = True
        known = self.target[places] >= 0
        seen[np.flatnonzero(known), self.target[places][known]] = False
        return seen

    def at_start(self) -> "Question":
        """Return the same requests asked at the start of their baskets, where nothing of the instant is known."""
        return self if self.opening is None else replace(self, stop=self.opening, opening=None)

    def is_repeat(self) -> NDArray[np.bool_]:
        """Return for each request whether the item taken is already in the history: bool [U]."""
        histories = self.histories(np.arange(len(self.users)))
        return np.array([row in seen for row, seen in zip(self.target, histories, strict=True)], dtype=bool)


def judged_part(prepared: Prepared) -> int:
    """Return the part that reports are about: TEST, or VAL where nothing was held out for testing."""
    return TEST if bool((prepared.part == TEST).any()) else VAL


def ask(prepared: Prepared, part: int, *, exclude_seen: bool | None = None, limit: int | None = None) -> Question:
    """Return the question of a part, VAL or TEST: each of its events, given all that the user did before it.

    exclude_seen: None takes the rule that the data suggests. limit: at most so many requests, drawn with a fixed seed;
    where users are asked several times there are at most MOST_REQUESTS, or one a user, and never more than most_asked.
    """
    events = all_events(prepared)
    of_part = _asked_events(prepared, part)
    most = most_asked(len(prepared.items))
    place = _drawn(of_part, prepared.user[of_part], most if limit is None else min(most, limit))
    users = prepared.user[place].astype(np.int64)
    instant = _first_of_instant(prepared)
    opening = instant[place]
    counts = [item.popularity for item in prepared.items]
    return Question(
        events,
        users,
        target=prepared.item[place].astype(np.int64),
        exclude_seen=not prepared.report["repeat_consumption"] if exclude_seen is None else exclude_seen,
        n_items=len(prepared.items),
        asked_ms=prepared.timestamp_ms[place],
        gap=gaps_before(prepared, users, prepared.timestamp_ms[place]),
        stop=place,
        opening=opening if (opening != place).any() else None,
        popularity=np.array(counts, dtype=np.float32),
        baskets=_baskets(prepared, of_part, place, instant),
    )


def most_asked(n_items: int) -> int:
    """Return how many requests are drawn from a part at most, so that scoring all items for each stays in reach."""
    return max(1_000, MOST_SCORES // max(1, n_items))


def _asked_events(prepared: Prepared, part: int) -> Int64:
    """Return the positions of the events that are asked for. Where users are held out, they are no validation users."""
    asked = prepared.part == part
    if part == VAL and prepared.report.get("split", {}).get("test") == "users":
        asked &= ~np.isin(prepared.user, prepared.user[prepared.part == TEST])
    return np.flatnonzero(asked)


def _drawn(place: Int64, user: NDArray[np.int32], limit: int) -> Int64:
    """Return the positions, or some of them, in their order. user: whose each is. limit: how many at most."""
    n_users = len(np.unique(user))
    most = len(place) if n_users == len(place) else max(MOST_REQUESTS, n_users)
    most = min(most, limit)
    if len(place) <= most:
        return place
    return np.sort(np.random.default_rng(0).choice(place, most, replace=False))


def _first_of_instant(prepared: Prepared) -> Int64:
    """Return for each event the position of the first event of its user and instant [n_events]."""
    is_first = np.ones(len(prepared.user), dtype=bool)
    is_first[1:] = (np.diff(prepared.user) != 0) | (np.diff(prepared.timestamp_ms) != 0)
    return np.maximum.accumulate(np.where(is_first, np.arange(len(is_first)), 0))


def _baskets(prepared: Prepared, of_part: Int64, place: Int64, instant: Int64) -> Baskets:
    """Return the distinct held-out items of each instant whose first held-out event is asked for.

    of_part: positions of all held-out events. place: of those that are asked for. instant: as _first_of_instant.
    """
    _, first = np.unique(instant[of_part], return_index=True)
    request = np.flatnonzero(np.isin(place, of_part[first]))
    owner = np.full(len(instant), -1, dtype=np.int64)
    owner[instant[place[request]]] = request
    inside = of_part[owner[instant[of_part]] >= 0]
    pairs = np.unique(np.stack([owner[instant[inside]], prepared.item[inside]]), axis=1)
    return Baskets(pairs[1].astype(np.int32), pairs[0])
