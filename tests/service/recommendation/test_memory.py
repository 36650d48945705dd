"""What a worker remembers: bounded, the longest unserved forgotten first, nothing older than an hour."""

import numpy as np

from service.recommendation.job import Taste
from service.recommendation.memory import MAX_AGE_S, Memory


def taste(row: int) -> Taste:
    return Taste(np.array([row], dtype=np.int32))


def test_the_user_served_longest_ago_is_forgotten_first() -> None:
    memory = Memory(2)
    for user in ("a", "b", "a", "c"):
        memory.note(user, taste(1))

    assert [memory.recall(user) is not None for user in "abc"] == [True, False, True]


def test_what_is_older_than_an_hour_is_not_recalled() -> None:
    now = [0.0]
    memory = Memory(2, clock=lambda: now[0])
    memory.note("a", taste(1))
    now[0] = MAX_AGE_S - 1
    before = memory.recall("a")
    now[0] = MAX_AGE_S + 1

    assert before is not None
    assert memory.recall("a") is None


def test_nobody_is_remembered_where_there_is_no_room() -> None:
    memory = Memory(0)
    memory.note("a", taste(1))

    assert memory.recall("a") is None


def test_an_erased_user_is_forgotten() -> None:
    memory = Memory(2)
    memory.note("a", taste(1))
    memory.forget("a")

    assert memory.recall("a") is None
