"""The load generator tells the truth about latency and about itself."""

import asyncio
import threading

from service.bench.client import Target
from service.bench.load import Load, LoadResult
from tests.service.bench.server import answering, serving


async def offer(target: Target, rate: float, seconds: float, n_connections: int = 100) -> LoadResult:
    async with Load(target, [target.post("/x", b"{}")], n_connections=n_connections, timeout_s=20) as load:
        return await load.run(rate, seconds)


async def test_requests_that_were_due_during_a_stall_are_late() -> None:
    async with answering(stall_s=0.5) as target:
        result = await offer(target, rate=200, seconds=0.5, n_connections=1)

    assert result.levels["full"] == len(result.latencies_s) > 30
    assert sum(latency > 0.1 for latency in result.latencies_s) > 0.6 * len(result.latencies_s)


async def test_arrivals_do_not_wait_for_answers() -> None:
    async with answering(stall_s=0.6) as target:
        result = await offer(target, rate=100, seconds=0.5)

    assert 20 < len(result.lags_s) < 100
    assert sum(latency > 0.1 for latency in result.latencies_s) == len(result.latencies_s)


async def test_connection_that_the_server_closed_while_it_was_idle_is_not_used_again() -> None:
    is_closed = asyncio.Event()

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.write_eof()
        await reader.read()  # until the caller has closed its side too
        is_closed.set()
        writer.close()

    async with (
        serving(answer_once) as target,
        Load(target, [target.post("/x", b"{}")], n_connections=1, timeout_s=5) as load,
    ):
        first = await load.ask_in_turn(1)
        async with asyncio.timeout(10):
            await is_closed.wait()
        second = await load.ask_in_turn(1)

    assert not first.errors + second.errors


async def test_refusals_are_errors_and_miss_the_budget() -> None:
    async with answering(status=503) as target:
        result = await offer(target, rate=100, seconds=0.2)

    assert result.errors == {"503": len(result.latencies_s)}
    assert result.within(1e9) == 0
    assert result.summary(1.0)["p99"] is None


async def test_service_that_is_gone_is_an_error_of_every_request() -> None:
    async with answering() as target:
        pass

    result = await offer(target, rate=100, seconds=0.2)

    assert result.errors == {"connection": len(result.latencies_s)}


async def test_generator_that_is_late_itself_knows_it() -> None:
    async with answering() as target:
        asyncio.get_running_loop().call_later(0.05, threading.Event().wait, 0.3)
        result = await offer(target, rate=100, seconds=0.4)

    assert result.lag_p99_s() > 0.1
