"""The lean connection, against a real server: replies by place, late ones thrown away, lost connections made anew."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from service.store.connection import ConnectionFullError, StoreConnection
from service.store.embedded import socket_path
from service.wire.server import loop_factory
from tests.service.running import Running


@pytest.fixture
async def connection(shared_service: Running) -> AsyncIterator[StoreConnection]:
    path = str(socket_path(shared_service.data_dir))
    opened = StoreConnection(
        lambda protocol: asyncio.get_running_loop().create_unix_connection(protocol, path),
        [],
        ValueError,
        max_pending=50,
    )
    yield opened
    await opened.close()


async def test_calls_in_flight_together_get_their_own_replies(connection: StoreConnection) -> None:
    calls = [connection.ask([("ECHO", f"a{n}"), ("ECHO", f"b{n}")], 5) for n in range(50)]

    answers = await asyncio.gather(*calls)

    assert answers == [[f"a{n}".encode(), f"b{n}".encode()] for n in range(50)]


async def test_late_reply_of_a_call_that_gave_up_reaches_no_other_call(connection: StoreConnection) -> None:
    await connection.ask([("PING",)], 5)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        await connection.ask([("BLPOP", "nothing-here", "1"), ("ECHO", "late")], 0.05)
    gave_up_s = time.monotonic() - start

    answers = await asyncio.gather(*[connection.ask([("ECHO", str(n))], 5) for n in range(20)])

    assert gave_up_s < 0.8
    assert answers == [[str(n).encode()] for n in range(20)]


def test_reply_that_came_while_the_loop_was_busy_is_not_late(shared_service: Running) -> None:
    path = str(socket_path(shared_service.data_dir))

    async def ask() -> list[bytes]:
        loop = asyncio.get_running_loop()
        connection = StoreConnection(lambda protocol: loop.create_unix_connection(protocol, path), [], ValueError)
        await connection.ask([("PING",)], 5)
        ours, theirs = socket.socketpair()
        loop.add_reader(ours, lambda: (ours.recv(1), time.sleep(0.2)))  # what reading many requests at once does
        theirs.send(b"x")
        try:
            return await connection.ask([("BLPOP", "nothing-here", "0.02"), ("ECHO", "x")], 0.05)
        finally:
            loop.remove_reader(ours)
            await connection.close()
            ours.close()
            theirs.close()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert runner.run(ask())[-1] == b"x"


async def test_connection_closed_by_the_server_is_invisible(connection: StoreConnection) -> None:
    for _ in range(10):
        (number,) = await connection.ask([("CLIENT", "ID")], 5)
        await connection.ask([("CLIENT", "KILL", "ID", number, "SKIPME", "no")], 5)

        assert await connection.ask([("PING",)], 5) == [b"PONG"]


async def test_error_reply_is_a_value_among_the_others(connection: StoreConnection) -> None:
    first, second = await connection.ask([("NO-SUCH-COMMAND",), ("ECHO", "x")], 5)

    assert isinstance(first, ValueError)
    assert second == b"x"


async def test_greeting_that_is_refused_fails_the_call(shared_service: Running) -> None:
    path = str(socket_path(shared_service.data_dir))
    connection = StoreConnection(
        lambda protocol: asyncio.get_running_loop().create_unix_connection(protocol, path),
        [("AUTH", "nobody", "wrong")],
        ValueError,
    )

    with pytest.raises(ValueError, match="WRONGPASS"):
        await connection.ask([("PING",)], 5)


async def test_nobody_listening_is_an_error_at_once(tmp_path) -> None:
    path = str(tmp_path / "none.sock")
    connection = StoreConnection(
        lambda protocol: asyncio.get_running_loop().create_unix_connection(protocol, path), [], ValueError
    )

    with pytest.raises(OSError, match=r"No such file|none\.sock"):
        await connection.ask([("PING",)], 5)


async def test_server_that_accepts_and_never_answers_collects_no_connections(tmp_path) -> None:
    path, ended = str(tmp_path / "mute.sock"), asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        ended.set()
        writer.close()

    server = await asyncio.start_unix_server(stay_silent, path)
    connection = StoreConnection(
        lambda protocol: asyncio.get_running_loop().create_unix_connection(protocol, path),
        [("AUTH", "default", "word")],
        ValueError,
    )

    with pytest.raises(TimeoutError):
        await connection.ask([("PING",)], 0.05)

    async with asyncio.timeout(10):
        await ended.wait()
    server.close()


async def test_calls_beyond_the_cap_fail_at_once_and_the_others_go_on(shared_service: Running) -> None:
    path = str(socket_path(shared_service.data_dir))
    connection = StoreConnection(
        lambda protocol: asyncio.get_running_loop().create_unix_connection(protocol, path),
        [],
        ValueError,
        max_pending=2,
    )
    await connection.ask([("PING",)], 5)

    answers = await asyncio.gather(
        *[connection.ask([("BLPOP", "nothing-here", "0.1"), ("ECHO", str(n))], 5) for n in range(5)],
        return_exceptions=True,
    )

    assert [answer[-1] for answer in answers[:2]] == [b"0", b"1"]
    assert [type(answer) for answer in answers[2:]] == [ConnectionFullError] * 3
    await connection.close()
