"""The shelf of kept answers, on a real store: what is kept, what goes first, and what an erasure leaves."""

import secrets
import uuid

import pytest

from service.replay.shelf import ERASED, KEPT, LONELY, Bound, Entry, ReplayShelf
from service.store.client import Store

LONG = Bound(3600, 1 << 20)


def shelf_of(store: Store, namespace: str, bound: Bound = LONG) -> ReplayShelf:
    return ReplayShelf(store, namespace, bound)


def entry(user_id: str | None = "anna", around: str = "", size: int = 10) -> Entry:
    return Entry(secrets.token_hex(16), user_id, around, bytes(size))


@pytest.fixture
def namespace() -> str:
    return f"replay-{uuid.uuid4().hex}"


async def n_keys(store: Store, namespace: str) -> list[int]:
    """How many records there are, how many are ordered, how many are owned, and their bytes."""
    keys = [f"{namespace}:{{{namespace}:replay}}:{name}" for name in ("records", "order", "owners", "bytes")]
    commands = [("HLEN", keys[0]), ("ZCARD", keys[1]), ("ZCARD", keys[2]), ("GET", keys[3])]
    return [int(each or 0) for each in await store.call("user", commands, 5)]


async def test_record_is_read_as_it_was_written(store: Store, namespace: str) -> None:
    shelf, around = shelf_of(store, namespace), entry(None, size=7)
    answer, anonymous = entry("anna", around.id), entry(None, around.id)

    assert await shelf.write([around, answer, anonymous], 5) == [KEPT, KEPT, KEPT]

    assert await shelf.read(answer.id, 5) == answer.packed
    assert await shelf.read(around.id, 5) == around.packed
    assert await shelf.read("0" * 32, 5) is None
    assert await n_keys(store, namespace) == [3, 3, 1, 27]


async def test_answer_whose_surroundings_are_gone_is_not_kept(store: Store, namespace: str) -> None:
    shelf = shelf_of(store, namespace)

    assert await shelf.write([entry("anna", "f" * 32), entry("anna")], 5) == [LONELY, KEPT]


async def test_oldest_go_first_where_there_are_too_many_bytes_and_surroundings_stay_with_their_newest_answer(
    store: Store, namespace: str
) -> None:
    shelf, around = shelf_of(store, namespace, Bound(3600, 1000)), entry(None, size=100)
    answers = [entry(f"u{n}", around.id, size=200) for n in range(9)]
    await shelf.write([around], 5)
    for answer in answers:
        await shelf.write([answer], 5)

    kept = [await shelf.read(answer.id, 5) is not None for answer in answers]

    assert kept[-3:] == [True] * 3 and kept[:4] == [False] * 4
    n_records, n_ordered, n_owned, n_bytes = await n_keys(store, namespace)
    assert n_records == n_ordered == n_owned + 1 and n_bytes <= 1000


async def test_what_is_too_old_goes_with_the_next_write(store: Store, namespace: str) -> None:
    old = entry()
    await shelf_of(store, namespace).write([old], 5)
    order = f"{namespace}:{{{namespace}:replay}}:order"
    member, _ = await store.call_one("user", ("ZRANGEBYSCORE", order, "-inf", "+inf", "WITHSCORES"), 5)
    await store.call_one("user", ("ZADD", order, 1000, member), 5)

    await shelf_of(store, namespace).write([entry("bert")], 5)

    assert await shelf_of(store, namespace).read(old.id, 5) is None
    assert await n_keys(store, namespace) == [1, 1, 1, 10]


async def test_erasure_takes_the_user_s_answers_alone_and_refuses_those_under_way(store: Store, namespace: str) -> None:
    shelf = shelf_of(store, namespace)
    of_anna, of_bert = [entry("anna") for _ in range(3)], entry("bert")
    await shelf.write([*of_anna, of_bert], 5)

    assert await shelf.erase_user("anna", 5) == 3
    assert await shelf.erase_user("anna", 5) == 0

    assert [await shelf.read(each.id, 5) for each in of_anna] == [None] * 3
    assert await shelf.read(of_bert.id, 5) is not None
    assert await shelf.write([entry("anna"), entry("bert")], 5) == [ERASED, KEPT]
    assert await n_keys(store, namespace) == [2, 2, 2, 20]


@pytest.mark.parametrize("name", ["records", "order", "owners", "bytes", "erased"])
async def test_key_of_another_type_is_replaced(store: Store, namespace: str, name: str) -> None:
    key = f"{namespace}:{{{namespace}:replay}}:{name}"
    await store.call_one("user", ("SADD", key, "x"), 5)
    shelf, answer = shelf_of(store, namespace), entry()

    await shelf.erase_user("bert", 5)

    assert await shelf.write([answer], 5) == [KEPT]
    assert await shelf.read(answer.id, 5) == answer.packed
