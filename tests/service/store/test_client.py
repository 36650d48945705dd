"""The client, against a real server: one shape of reply by every way, and errors raised or kept as values."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from service.errors import BreakerOpenError, StoreError, StoreTimeoutError
from service.store.breaker import Breaker
from service.store.client import Store
from service.store.embedded import socket_path
from tests.service.running import Running

TEXT, SCORES = "client:text", "client:scores"


def open_store(service: Running, on_error: Callable[[str], None] = lambda kind: None) -> Store:
    """A client of a running service's embedded server. Close it."""
    url = f"unix://{socket_path(service.data_dir)}"
    return Store(url, max_connections=4, slow_s=5.0, breaker=Breaker(), on_error=lambda error: on_error(error.kind))


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
async def store(shared_service: Running, errors: list[str]) -> AsyncIterator[Store]:
    opened = open_store(shared_service, errors.append)
    await opened.call("user", [("SET", TEXT, "x"), ("DEL", SCORES), ("ZADD", SCORES, "1.5", "a", "2", "b")], 5)
    yield opened
    await opened.close()


async def test_replies_have_one_shape_over_the_lean_connection_and_through_redis_py(store: Store) -> None:
    commands = [
        ("ZRANGE", SCORES, 0, -1, "WITHSCORES"), ("ZMSCORE", SCORES, "a", "no"),
        ("XADD", "client:stream", "1-1", "f", "v"), ("XRANGE", "client:stream", "-", "+"), ("DEL", "client:stream"),
        ("HSET", "client:hash", "f", "v"), ("HGETALL", "client:hash"), ("DEL", "client:hash"),
        ("EXISTS", TEXT), ("SET", TEXT, "x"), ("EXPIRE", TEXT, 60),
    ]  # fmt: skip

    quick, slow = await store.call("read", commands, 5), await store.call("user", commands, 5)

    assert quick == slow
    assert quick == [
        [b"a", b"1.5", b"b", b"2"], [b"1.5", None],
        b"1-1", [[b"1-1", [b"f", b"v"]]], 1,
        1, [b"f", b"v"], 1,
        1, b"OK", 1,
    ]  # fmt: skip


@pytest.mark.parametrize("op", ["read", "user"])
async def test_call_raises_the_first_error_among_the_replies_and_counts_it_once(
    store: Store, errors: list[str], op: str
) -> None:
    with pytest.raises(StoreError) as caught:
        await store.call(op, [("GET", TEXT), ("ZCARD", TEXT), ("ZCARD", TEXT), ("NO-SUCH-COMMAND",)], 5)

    assert (caught.value.kind, errors) == ("wrongtype", ["wrongtype"])
    assert await store.call_one(op, ("GET", TEXT), 5) == b"x"


@pytest.mark.parametrize("op", ["read", "user"])
async def test_each_group_has_its_own_errors_in_the_place_of_replies_counted_once(
    store: Store, errors: list[str], op: str
) -> None:
    good, bad, none = await store.call_each(op, [[("GET", TEXT)], [("ZCARD", TEXT), ("LLEN", TEXT)], []], 5)

    assert (good, none) == ([b"x"], [])
    assert [error.kind for error in bad] == ["wrongtype", "wrongtype"]
    assert errors == ["wrongtype"]


async def test_script_that_the_server_does_not_know_is_sent_once_more_whole(store: Store, errors: list[str]) -> None:
    await store.call("user", [("SCRIPT", "FLUSH")], 5)
    script, arguments = "return {KEYS[1], ARGV[1]}", [(1, "client:a", "1"), (1, "client:b", "2")]

    first = await store.call_script("append", script, arguments, 5)
    again = await store.call_script("append", script, arguments, 5)

    assert first == again == [[b"client:a", b"1"], [b"client:b", b"2"]]
    assert errors == []


async def test_script_that_fails_raises(store: Store, errors: list[str]) -> None:
    with pytest.raises(StoreError, match="wrongtype"):
        await store.call_script("append", "return redis.call('ZCARD', KEYS[1])", [(1, SCORES), (1, TEXT)], 5)

    assert errors == ["wrongtype"]


@pytest.mark.parametrize("op", ["read", "user"])
async def test_call_that_takes_too_long_is_a_timeout_and_an_open_breaker_refuses_at_once(store: Store, op: str) -> None:
    with pytest.raises(StoreTimeoutError):
        await store.call(op, [("BLPOP", "client:nothing", "0.3")], 0.05)
    store.breaker.open()

    with pytest.raises(BreakerOpenError):
        await store.call_each(op, [[("GET", TEXT)]], 5)


async def test_call_that_is_cancelled_ends_in_whatever_turn_of_the_loop_that_comes(store: Store) -> None:
    await store.ask_aside(("GET", TEXT), 5)
    for n_turns in range(60):
        call = asyncio.create_task(store.ask_aside(("GET", TEXT), 5))
        for _ in range(n_turns):
            await asyncio.sleep(0)

        is_asked = call.cancel()
        await asyncio.wait([call], timeout=5)

        assert call.done() and call.cancelled() == is_asked, n_turns
