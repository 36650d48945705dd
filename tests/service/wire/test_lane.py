"""The slow lane: a bounded time of each turn of the loop, in order, and no turn is waited for."""

import asyncio
import time

from service.wire.lane import TURN_S, Lane
from tests.service.wire.test_connection import Standing, connect, is_answering, post


def work(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def test_what_fits_is_done_at_once_and_the_rest_in_its_order() -> None:
    lane, done = Lane(), []

    for number in range(20):
        lane.run(lambda number=number: (work(TURN_S / 3), done.append(number)))
    at_once = len(done)
    while len(done) < 20:
        before = len(done)
        await asyncio.sleep(0)
        assert len(done) - before <= 4

    assert 1 <= at_once <= 4
    assert done == list(range(20))


async def test_what_comes_later_waits_behind_what_waits() -> None:
    lane, done = Lane(), []

    lane.run_later(lambda: done.append("first"))
    lane.run(lambda: done.append("second"))
    lane.run_later(lambda: done.append("third"))
    assert done == []
    while len(done) < 3:
        await asyncio.sleep(0)

    assert done == ["first", "second", "third"]


async def test_a_request_that_is_handed_over_counts_as_the_work_that_it_will_be() -> None:
    lane, done = Lane(), []

    lane.run(lambda: lane.charge(1 << 20))
    lane.run(lambda: done.append(1))

    for _ in range(3):
        assert done == []
        await asyncio.sleep(0)
    while not done:
        await asyncio.sleep(0)


def test_bodies_of_many_small_chunks_hold_up_nobody() -> None:
    body = b"1\r\n \r\n" * 30_000
    head = post("/echo", body=b"").split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    with Standing() as standing, connect(standing) as first, connect(standing) as second:
        standing.door.is_full = False
        for connection in (first, second):
            connection.sendall(head + body)
        assert is_answering(standing)
        for connection in (first, second):
            connection.sendall(b"1\r\nx\r\n0\r\n\r\n")
        replies = []
        for connection in (first, second):
            reply = b""
            while not reply.endswith(b" x"):
                reply += connection.recv(1 << 20)
            replies.append(reply)

    assert all(reply.count(b" ") > 30_000 for reply in replies)
