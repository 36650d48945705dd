"""Which events a run is trained on (TRAIN), which it makes its choices on (VAL) and which it is judged on (TEST).

- last: the last event of each user is held out. Users with too few events are only trained on. Other users' training
  events lie after it, so a model is judged with a knowledge of the future ("Time to Split", arXiv 2507.16289).
- time: the newest share of all events is held out, whoever's they are, so that nobody's future is trained on. Events of
  one instant stay on one side of the cut. Each of them is asked for at its own time, and what is known moves on.
- users: nothing is trained on the users of one fold. They are asked for their last event, given their earlier ones,
  which are marked VAL; nobody is asked about those, because a validation user has TRAIN events. The folds together
  judge every user once.

Whatever the two rules are, TRAIN comes before VAL and VAL before TEST for every user, so that no model is asked about a
past whose future it has seen.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError

TRAIN, VAL, TEST = 0, 1, 2
TEST_RULES = ("last", "time", "users", "none")
VAL_RULES = ("last", "time")

Parts = NDArray[np.uint8]


@dataclass(frozen=True)
class SplitRule:
    """How events are held out. Raises InputError for a rule that does not exist and a share out of range."""

    test: str = "last"  # one of TEST_RULES
    val: str = "last"  # one of VAL_RULES
    time_share: float = 0.1  # of the events, after the cut of each time split
    folds: int = 5  # of the users, where test is users
    fold: int = 1  # the one that is held out, from 1

    def __post_init__(self) -> None:
        for name, value, rules in (("test", self.test, TEST_RULES), ("val", self.val, VAL_RULES)):
            if value not in rules:
                raise InputError(f"split.{name} must be one of {', '.join(rules)}, not {value!r}")
        if not 0 < self.time_share < 0.5:
            raise InputError(f"split.time_share must lie between 0 and 0.5, not {self.time_share}")

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide something: folds do where users are held out, and nowhere else."""
        settings = asdict(self)
        if self.test != "users":
            del settings["folds"], settings["fold"]
        return settings


def assign_parts(user: NDArray[np.int32], timestamp_ms: NDArray[np.int64], rule: SplitRule) -> Parts:
    """Return TRAIN, VAL or TEST for each event [n_events]. Events are grouped by user, oldest first."""
    if rule.test == "users":
        return _hold_users(user, timestamp_ms, rule)
    part = np.full(len(user), TRAIN, dtype=np.uint8)
    n_newest = round(len(user) * rule.time_share)
    if rule.test == "last":
        part[_last_events(user, part == TRAIN, at_least=3)] = TEST
    elif rule.test == "time":
        part[_newest(timestamp_ms, part == TRAIN, n_newest)] = TEST
    if rule.val == "last":
        enough = _has_any(user, part == TEST) if rule.test == "last" else np.ones(len(user), dtype=bool)
        part[_last_events(user, (part == TRAIN) & enough, at_least=2)] = VAL
    else:
        part[_newest(timestamp_ms, part == TRAIN, n_newest)] = VAL
    return part


def fold_of(user: NDArray[np.int32], folds: int) -> NDArray[np.int64]:
    """Return the fold of each event's user [n_events], from 1 to folds. The same users get the same folds."""
    order = np.random.default_rng(0).permutation(int(user.max()) + 1)
    return order[user] % folds + 1


def _hold_users(user: NDArray[np.int32], timestamp_ms: NDArray[np.int64], rule: SplitRule) -> Parts:
    """Mark the last event of each user of the fold TEST and the earlier ones VAL; split all others by rule.val."""
    held = fold_of(user, rule.folds) == rule.fold
    part = np.full(len(user), VAL, dtype=np.uint8)
    part[~held] = assign_parts(user[~held], timestamp_ms[~held], replace(rule, test="none"))
    part[_last_events(user, held, at_least=2)] = TEST
    return part


def target_events(user: NDArray[np.int32], part: Parts, wanted: int) -> NDArray[np.int64]:
    """Return the position of each user's first event of the wanted part, for users with an event of an earlier part."""
    positions = np.flatnonzero((part == wanted) & _has_any(user, part < wanted))
    users = user[positions]
    return positions[np.append(True, users[1:] != users[:-1])[: len(users)]]


def _last_events(user: NDArray[np.int32], eligible: NDArray[np.bool_], *, at_least: int) -> NDArray[np.int64]:
    """Return the position of each user's last eligible event, for users with at_least of them."""
    positions = np.flatnonzero(eligible)
    users = user[positions]
    end = np.flatnonzero(np.append(users[1:] != users[:-1], True)[: len(users)])
    count = np.diff(end, prepend=-1)
    return positions[end[count >= at_least]]


def _has_any(user: NDArray[np.int32], flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which events are of a user of whom any event is flagged [n_events]."""
    flagged = np.zeros(int(user.max(initial=-1)) + 1, dtype=bool)
    flagged[user[flags]] = True
    return flagged[user]


def _newest(timestamp_ms: NDArray[np.int64], eligible: NDArray[np.bool_], n_events: int) -> NDArray[np.bool_]:
    """Return which eligible events are among the newest n_events, or of the same instant as one of them."""
    times = np.sort(timestamp_ms[eligible])
    cut = times[-max(1, min(n_events, len(times)))] if len(times) else np.iinfo(np.int64).max
    return eligible & (timestamp_ms >= cut)
