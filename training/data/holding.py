"""What the split leaves to learn from, and what is held out instead where it leaves too little.

A user with three events, of whom the last two are held out, has one left to train on, and one event is no target: a
model learns to say what comes after something. Where `last` leaves too few targets, only a share of the users is held
out: a tenth of them for validation and a tenth for the test, each by the last event. All others are trained on whole.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.split import TEST, TRAIN, VAL, SplitRule, assign_parts, fold_of, target_events
from training.errors import InputError

FOLDS = 10  # of the users, of which one is for validation and one for the test
FEW_USERS, FEW_FOLDS = 1000, 4  # of so few users, more are asked
FEW = 0.1  # targets an event; below it most events would teach nothing


@dataclass(frozen=True, eq=False)
class Held:
    """The part of each event, and what was done."""

    part: NDArray[np.uint8]  # [n_events]
    settings: dict[str, Any]  # of the rule; with "held_users" where only a share of them is held out
    targets: dict[str, int]  # training targets, and users of val and test
    said: str  # what is said of a fallback; empty without one


def hold_out(label: str, user: NDArray[np.int32], timestamp_ms: NDArray[np.int64], rule: SplitRule, least: int) -> Held:
    """Assign the parts; where the rule leaves too little and can be eased, ease it. Raises InputError where it cannot.

    user, timestamp_ms [n_events]: by user, oldest first. least: training targets that are needed; 0: any number,
    and the rule stays as it is.
    """
    part = assign_parts(user, timestamp_ms, rule)
    said, settings = "", rule.settings()
    targets = count_targets(user, part)
    if least and _is_short(targets, len(user), least) and rule.test == rule.val == "last":
        eased = _hold_share(user)
        counts = count_targets(user, eased)
        is_silent = not (targets["val"] and targets["test"])
        if counts["val"] and counts["test"] and (is_silent or counts["train"] > targets["train"]):
            said = (
                f"histories are short: holding out two events of each user would leave {targets['train']:,} events to "
                f"learn from and {targets['test']:,} users to ask. Instead, the last event of one in {_folds(user)} "
                "users is held out for the test, and that of as many others for validation"
            )
            part, targets = eased, counts
            settings = settings | {"held_users": 2 / _folds(user)}
    _check(label, user, rule, targets, least)
    return Held(part, settings, targets, said)


def count_targets(user: NDArray[np.int32], part: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many events can be learned (all TRAIN events of a user but the first) and how many users are asked."""
    trained = user[part == TRAIN]
    n_users = int((trained[1:] != trained[:-1]).sum()) + 1 if len(trained) else 0
    asked = {name: len(target_events(user, part, number)) for name, number in (("val", VAL), ("test", TEST))}
    return {"train": len(trained) - n_users, **asked}


def _is_short(targets: dict[str, int], n_events: int, least: int) -> bool:
    return targets["train"] < max(least, FEW * n_events) or not targets["val"] or not targets["test"]


def _hold_share(user: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return the parts where the last events of a tenth of the users are VAL and of another tenth TEST."""
    part = np.full(len(user), TRAIN, dtype=np.uint8)
    length = np.bincount(user)[user]
    is_last = np.append(user[1:] != user[:-1], True) & (length >= 2)
    folds = _folds(user)
    fold = fold_of(user, folds)
    part[is_last & (fold == 1)] = TEST
    part[is_last & (fold == 2)] = VAL
    return part


def _folds(user: NDArray[np.int32]) -> int:
    n_users = int(user.max()) + 1
    return FOLDS if n_users >= FEW_USERS else min(FEW_FOLDS, max(3, n_users))


def _check(label: str, user: NDArray[np.int32], rule: SplitRule, targets: dict[str, int], least: int) -> None:
    """Raise InputError where nothing, or too little, could be learned or asked."""
    n_users = int(user[-1]) + 1
    mean = len(user) / n_users
    wanted = ("val",) if rule.test == "none" else ("val", "test")
    short = [name for name in wanted if not targets[name]]
    if targets["train"] >= least and not short:
        return
    what = (
        f"only {targets['train']} events are left to learn from, fewer than prepare.min_targets={least}"
        if targets["train"] < least
        else f"split.{short[0]} leaves no user with an event to train on and a later one to hold out"
    )
    longer = np.bincount(user) >= 2
    raise InputError(
        f"{label}: {what}, so nothing could be learned or measured. The {n_users:,} users have {mean:.1f} events each, "
        f"and {int(longer.sum()):,} of them two or more. {_way_out(rule, targets, least, int(longer.sum()))}"
    )


def _way_out(rule: SplitRule, targets: dict[str, int], least: int, n_longer: int) -> str:
    if not n_longer:
        return (
            "A user with one event tells nothing of what follows what: check --columns user_id=COLUMN (an order or a "
            "session number is no user), or give a longer time"
        )
    if (rule.test, rule.val) != ("last", "last"):
        return "Hold out less: --set split.test=last --set split.val=last"
    if 0 < targets["train"] < least and targets["val"] and targets["test"]:
        return f"Give more events, or go on with so few: --set prepare.min_targets={targets['train']}"
    return "Give more events a user, or check --columns user_id=COLUMN"
