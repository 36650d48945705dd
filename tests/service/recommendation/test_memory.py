"""What a worker remembers: bounded, the longest unserved forgotten first, nothing older than an hour."""

import numpy as np

from service.recommendation.job import Taste
from service.recommendation.memory import MAX_AGE_S, Memory
from service.user.erasure import share_of


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


def test_nobody_is_recalled_while_erasures_are_not_heard_of() -> None:
    is_heard = [True]
    memory = Memory(2, lambda: is_heard[0])
    memory.note("a", taste(1))

    before = memory.recall("a")
    is_heard[0] = False
    deaf = memory.recall("a")
    is_heard[0] = True

    assert (before is None, deaf is None, memory.recall("a") is None) == (False, True, False)


def test_a_share_of_all_users_is_forgotten_whoever_left_before() -> None:
    memory = Memory(60)
    users = [f"u{n}" for n in range(100)]
    for user in users:
        memory.note(user, taste(1))
    memory.forget("u99")
    memory.forget_share(share_of("u98"))

    assert [user for user in users if memory.recall(user)] == [
        user for user in users[40:99] if share_of(user) != share_of("u98")
    ]
    memory.forget_share(None)
    assert not any(map(memory.recall, users))
