"""Which events train, which choose (val) and which judge (test): one assignment per run.

last: a user's last event is held out; users with too few events train only. time: the newest share of all events.
Events of one instant stay on one side of a time cut. For every user TRAIN comes before VAL and VAL before TEST, so no
model is asked about a past that it has seen the future of, whatever the two rules are.
"""

import numpy as np
from numpy.typing import NDArray

from training.errors import InputError

TRAIN, VAL, TEST = 0, 1, 2
TEST_RULES = ("last", "time", "none")
VAL_RULES = ("last", "time")

Parts = NDArray[np.uint8]


def assign_parts(
    user: NDArray[np.int32], timestamp_ms: NDArray[np.int64], *, test: str, val: str, time_share: float
) -> Parts:
    """Return TRAIN, VAL or TEST for each event. Events are grouped by user, oldest first. Raises InputError."""
    _check_rules(test, val, time_share)
    part = np.full(len(user), TRAIN, dtype=np.uint8)
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


def target_events(user: NDArray[np.int32], part: Parts, wanted: int) -> NDArray[np.int64]:
    """Return, for each user with a TRAIN event, the position of the first event of the wanted part."""
    trained = np.isin(user, user[part == TRAIN])
    positions = np.flatnonzero((part == wanted) & trained)
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
