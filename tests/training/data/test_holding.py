"""What is held out leaves something to learn from, or the run says why it cannot go on."""

import numpy as np
import pytest

from training.data.holding import count_targets, hold_out
from training.data.split import TEST, TRAIN, VAL, SplitRule
from training.errors import InputError


def users(n_users: int, n_events: int) -> tuple[np.ndarray, np.ndarray]:
    """Return user and time of so many users with as many events each."""
    return np.repeat(np.arange(n_users, dtype=np.int32), n_events), np.tile(np.arange(n_events), n_users)


def test_count_targets_counts_what_follows_another_and_who_is_asked() -> None:
    user = np.array([0, 0, 0, 0, 1, 1, 2])
    part = np.array([TRAIN, TRAIN, VAL, TEST, TRAIN, VAL, TRAIN], dtype=np.uint8)

    assert count_targets(user, part) == {"train": 1, "val": 2, "test": 1}


def test_a_rule_that_leaves_enough_stays_as_it_is() -> None:
    held = hold_out("log", *users(20, 6), SplitRule(), 20)

    assert held.targets == {"train": 60, "val": 20, "test": 20}
    assert held.said == ""
    assert held.settings == SplitRule().settings()


@pytest.mark.parametrize("n_events", [2, 3])
def test_short_histories_hold_out_a_share_of_the_users(n_events: int) -> None:
    held = hold_out("log", *users(40, n_events), SplitRule(), 20)

    assert held.targets == {"train": 40 * (n_events - 1) - 20, "val": 10, "test": 10}
    assert "one in 4 users is held out" in held.said
    assert held.settings["held_users"] == 0.5


def test_of_many_users_a_tenth_is_held_out() -> None:
    held = hold_out("log", *users(2000, 2), SplitRule(), 20)

    assert held.targets == {"train": 1600, "val": 200, "test": 200}


def test_without_a_least_number_the_rule_stays_as_it_is() -> None:
    assert hold_out("log", *users(5, 3), SplitRule(), 0).targets == {"train": 0, "val": 5, "test": 5}


@pytest.mark.parametrize(
    ("n_events", "rule", "message"),
    [
        (1, SplitRule(), "A user with one event tells nothing.*--columns user_id=COLUMN"),
        (2, SplitRule(test="none"), "--set split.test=last --set split.val=last"),
        (2, SplitRule(), "--set prepare.min_targets=20"),
    ],
)
def test_too_little_to_learn_from_is_refused_with_a_way_out(n_events: int, rule: SplitRule, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hold_out("log", *users(40, n_events), rule, 1000)


def test_the_way_out_of_too_little_works() -> None:
    assert hold_out("log", *users(40, 2), SplitRule(), 20).targets["train"] == 20
