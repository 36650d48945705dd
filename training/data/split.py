"""Which events train, which choose (val) and which judge (test): one assignment per run.

last: a user's last event is held out; users with too few events train only. time: the newest share of all events.
users: of one fold of the users nothing is trained on, and their last event is asked for, given the others (which count
as VAL, but nobody is asked about them: a validation user has TRAIN events). Its k folds together judge every user once.
Events of one instant stay on one side of a time cut. For every user TRAIN comes before VAL and VAL before TEST, so no
model is asked about a past that it has seen the future of, whatever the two rules are.
"""

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError

TRAIN, VAL, TEST = 0, 1, 2
TEST_RULES = ("last", "time", "users", "none")
VAL_RULES = ("last", "time")

Parts = NDArray[np.uint8]


def assign_parts(
    user: NDArray[np.int32],
    timestamp_ms: NDArray[np.int64],
    *,
    test: str,
    val: str,
    time_share: float,
    folds: int = 5,
    fold: int = 1,
) -> Parts:
    """Return TRAIN, VAL or TEST for each event. Events are grouped by user, oldest first. Raises InputError."""
    _check_rules(test, val, time_share)
    part = np.full(len(user), TRAIN, dtype=np.uint8)
    if test == "users":
        return _hold_users(user, timestamp_ms, fold_of(user, folds) == fold, val=val, time_share=time_share)
    if test == "last":
        part[_last_events(user, part == TRAIN, at_least=3)] = TEST
    elif test == "time":
        part[_newest(timestamp_ms, part == TRAIN, round(len(user) * time_share))] = TEST
    if val == "last":
        enough = _has_test(user, part) if test == "last" else np.ones(len(user), dtype=bool)
        part[_last_events(user, (part == TRAIN) & enough, at_least=2)] = VAL
    else:
        part[_newest(timestamp_ms, part == TRAIN, round(len(user) * time_share))] = VAL
    return part


def fold_of(user: NDArray[np.int32], folds: int) -> NDArray[np.int64]:
    """Return the fold, from 1, of each event's user; the same for the same users."""
    order = np.random.default_rng(0).permutation(int(user.max()) + 1)
    return order[user] % folds + 1


def _hold_users(
    user: NDArray[np.int32], timestamp_ms: NDArray[np.int64], held: NDArray[np.bool_], *, val: str, time_share: float
) -> Parts:
    """Split the others by val alone; of the held users the last event is TEST and the rest VAL."""
    part = np.full(len(user), VAL, dtype=np.uint8)
    part[~held] = assign_parts(user[~held], timestamp_ms[~held], test="none", val=val, time_share=time_share)
    part[_last_events(user, held, at_least=2)] = TEST
    return part


def target_events(user: NDArray[np.int32], part: Parts, wanted: int) -> NDArray[np.int64]:
    """Return, for each user with an event of a part before, the position of the first event of the wanted part."""
    has_history = np.isin(user, user[part < wanted])
    positions = np.flatnonzero((part == wanted) & has_history)
    _, first = np.unique(user[positions], return_index=True)
    return positions[first]


def _check_rules(test: str, val: str, time_share: float) -> None:
    for name, value, rules in (("test", test, TEST_RULES), ("val", val, VAL_RULES)):
        if value not in rules:
            raise InputError(f"split.{name} must be one of {', '.join(rules)}, not {value!r}")
    if not 0 < time_share < 0.5:
        raise InputError(f"split.time_share must lie between 0 and 0.5, not {time_share}")


def _last_events(user: NDArray[np.int32], eligible: NDArray[np.bool_], *, at_least: int) -> NDArray[np.int64]:
    """Return the position of each user's last eligible event, for users with at_least of them."""
    positions = np.flatnonzero(eligible)
    _, first, count = np.unique(user[positions], return_index=True, return_counts=True)
    last = positions[first + count - 1]
    return last[count >= at_least]


def _has_test(user: NDArray[np.int32], part: Parts) -> NDArray[np.bool_]:
    return np.isin(user, user[part == TEST])


def _newest(timestamp_ms: NDArray[np.int64], eligible: NDArray[np.bool_], n_events: int) -> NDArray[np.bool_]:
    """Return which eligible events are among the newest n_events, or of the same instant as one of them."""
    times = np.sort(timestamp_ms[eligible])
    cut = times[-max(1, min(n_events, len(times)))] if len(times) else np.iinfo(np.int64).max
    return eligible & (timestamp_ms >= cut)
