"""Who trains, who chooses, who judges: tables worked by hand, and the laws that every rule keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.split import TEST, TRAIN, VAL, SplitRule, assign_parts, target_events
from training.errors import InputError

NAMES = {TRAIN: "t", VAL: "v", TEST: "T"}
# Users 0..3 with 4, 3, 2 and 1 events, at these times:
USER = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3], dtype=np.int32)
TIME = np.array([10, 20, 30, 40, 5, 15, 95, 60, 80, 90], dtype=np.int64)


def split(test: str, val: str, time_share: float = 0.2) -> str:
    part = assign_parts(USER, TIME, SplitRule(test, val, time_share))
    return "".join(NAMES[number] for number in part.tolist())


@pytest.mark.parametrize(
    ("test", "val", "expected"),
    [
        ("last", "last", "ttvTtvTttt"),  # users of two events and fewer only train
        ("none", "last", "tttvttvtvt"),
        ("time", "last", "tttvtvTtvT"),  # 90 and 95 judge; before them each user's last chooses
        ("time", "time", "ttttttTvvT"),  # then 60 and 80 choose
        ("none", "time", "ttttttvttv"),
        ("last", "time", "tttTttTtvv"),  # of what is left, the newest two: 80 and 90
    ],
)
def test_assign_parts_follows_the_table_worked_by_hand(test: str, val: str, expected: str) -> None:
    assert split(test, val) == expected


def test_assign_parts_never_cuts_through_one_instant() -> None:
    user, time = np.array([0, 0, 0, 1, 1], dtype=np.int32), np.array([1, 9, 9, 1, 9])

    part = assign_parts(user, time, SplitRule("time", "last", 0.2))

    assert part.tolist() == [TRAIN, TEST, TEST, TRAIN, TEST]


@given(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=8),
    seed=st.integers(0, 999),
    test=st.sampled_from(["last", "time", "none"]),
    val=st.sampled_from(["last", "time"]),
    time_share=st.floats(0.01, 0.49),
)
def test_assign_parts_puts_train_before_val_before_test_for_every_user(
    sizes: list[int], seed: int, test: str, val: str, time_share: float
) -> None:
    user = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    time = np.random.default_rng(seed).integers(0, 20, len(user))
    time = time[np.lexsort((time, user))]

    part = assign_parts(user, time, SplitRule(test, val, time_share))

    assert all((np.diff(part[user == u].astype(int)) >= 0).all() for u in range(len(sizes)))
    if test == "time":
        assert time[part != TEST].max(initial=-1) < time[part == TEST].min()
    if test == "none":
        assert TEST not in part


def test_target_events_are_the_first_of_the_part_for_users_with_a_history() -> None:
    user = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3], dtype=np.int32)
    part = np.array([TRAIN, TEST, TEST, TEST, TEST, TRAIN, VAL, VAL, TEST], dtype=np.uint8)

    assert target_events(user, part, TEST).tolist() == [1, 8]
    assert target_events(user, part, VAL).tolist() == [6]


def test_the_folds_hold_out_every_user_once_and_train_on_none_of_their_events() -> None:
    user = np.repeat(np.arange(30, dtype=np.int32), 4)
    time = np.arange(120, dtype=np.int64)
    asked: list[int] = []
    for fold in (1, 2, 3):
        part = assign_parts(user, time, SplitRule("users", folds=3, fold=fold))
        held = np.unique(user[part == TEST])
        assert TRAIN not in part[np.isin(user, held)]
        assert part[user == held[0]].tolist() == [VAL, VAL, VAL, TEST]
        others = part[~np.isin(user, held)].reshape(-1, 4)
        assert (others == [TRAIN, TRAIN, TRAIN, VAL]).all()
        assert not np.isin(user[target_events(user, part, VAL)], held).any()
        asked += user[target_events(user, part, TEST)].tolist()

    assert sorted(asked) == list(range(30))


@pytest.mark.parametrize(
    ("test", "val", "time_share", "message"),
    [
        ("first", "last", 0.1, "split.test must be one of last, time, users, none, not 'first'"),
        ("last", "none", 0.1, "split.val must be one of last, time, not 'none'"),
        ("time", "time", 0.0, "split.time_share must lie between 0 and 0.5, not 0.0"),
        ("time", "time", 0.5, "split.time_share"),
        ("time", "time", float("nan"), "split.time_share"),
    ],
)
def test_a_rule_that_does_not_exist_is_refused(test: str, val: str, time_share: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SplitRule(test, val, time_share)


def test_folds_are_settings_only_where_users_are_held_out() -> None:
    assert SplitRule("time", folds=3).settings() == {"test": "time", "val": "last", "time_share": 0.1}
    assert SplitRule("users", folds=3).settings() == {
        "test": "users",
        "val": "last",
        "time_share": 0.1,
        "folds": 3,
        "fold": 1,
    }
