"""The load generator tells the truth about latency and about itself; bench finds a peak and says what is wrong."""

import asyncio
import json
import math
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.__main__ import main
from service.bench.client import Target
from service.bench.load import Load, Step
from service.bench.peak import Question, find_peak
from tests.service.running import Running, run_command, wait_for

QUESTION = Question(budget_ms=20, seconds=1, max_rate=100_000, n_connections=1000, k=10, plot=None, pause_s=0)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
FULL = b'{"quality":{"level":"full","reasons":[]}}'


class Capacity:
    """A load whose service answers at once up to so many requests a second, and beyond never."""

    def __init__(self, per_s: float, lag_s: float = 0.0) -> None:
        self._per_s, self._lag_s = per_s, lag_s

    async def run(self, rate: float, seconds: float) -> Step:
        latency = 0.001 if rate <= self._per_s else math.inf
        return Step(rate, seconds, [latency] * 100, [self._lag_s] * 100)


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Target]:
    """A server whose every connection has ended when this does: one still open would be the next test's warning."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with asyncio.timeout(30):
        while connections := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(connections)


@asynccontextmanager
async def answering(status: int = 200, stall_s: float = 0.0) -> AsyncIterator[Target]:
    """A server that stalls altogether once, at its first request, and otherwise answers at once."""
    may_answer = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
                asyncio.get_running_loop().call_later(stall_s, may_answer.set)
                await may_answer.wait()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(FULL), FULL))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with serving(serve) as target:
        yield target


async def offer(target: Target, rate: float, seconds: float, n_connections: int = 100) -> Step:
    async with Load(target, [target.post("/x", b"{}")], n_connections=n_connections, timeout_s=20) as load:
        return await load.run(rate, seconds)


async def test_requests_that_were_due_during_a_stall_are_late() -> None:
    async with answering(stall_s=0.5) as target:
        step = await offer(target, rate=200, seconds=0.5, n_connections=1)

    assert step.levels["full"] == len(step.latencies_s) > 30
    assert sum(latency > 0.1 for latency in step.latencies_s) > 0.6 * len(step.latencies_s)


async def test_arrivals_do_not_wait_for_answers() -> None:
    async with answering(stall_s=0.6) as target:
        step = await offer(target, rate=100, seconds=0.5)

    assert 20 < len(step.lags_s) < 100
    assert sum(latency > 0.1 for latency in step.latencies_s) == len(step.latencies_s)


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
        step = await offer(target, rate=100, seconds=0.2)

    assert step.errors == {"503": len(step.latencies_s)}
    assert step.within(1e9) == 0
    assert step.summary(1.0)["p99"] is None


async def test_service_that_is_gone_is_an_error_of_every_request() -> None:
    async with answering() as target:
        pass

    step = await offer(target, rate=100, seconds=0.2)

    assert step.errors == {"connection": len(step.latencies_s)}


async def test_generator_that_is_late_itself_knows_it() -> None:
    async with answering() as target:
        asyncio.get_running_loop().call_later(0.05, threading.Event().wait, 0.3)
        step = await offer(target, rate=100, seconds=0.4)

    assert step.lag_p99_s() > 0.1


@pytest.mark.parametrize("capacity", [3, 400, 6543])
async def test_peak_is_found(capacity: int) -> None:
    found = await find_peak(Capacity(capacity), QUESTION, first_rate=50)

    assert found.best is not None
    assert capacity / 1.07 < found.best.rate <= capacity
    assert found.limit == "service"


async def test_generator_is_named_where_it_is_the_limit() -> None:
    found = await find_peak(Capacity(400, lag_s=0.05), QUESTION, first_rate=50)

    assert found.limit == "generator"


async def test_no_rate_may_keep_the_budget() -> None:
    found = await find_peak(Capacity(0), QUESTION, first_rate=50)

    assert found.best is None


@pytest.mark.parametrize("whose", ["histories", "users"])
def test_bench_prints_a_table_a_plot_and_json(
    shared_service: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], whose: str
) -> None:
    plot, users = tmp_path / "plot.png", tmp_path / "users.txt"
    users.write_text('bench-1\n{"user_id": "bench-2"}\n')
    common = ["--url", shared_service.url, "--budget-ms", "1000", "--max-rate", "100", "--seconds", "1"]

    status = main(["bench", *common, "--plot", str(plot), *(["--users", str(users)] if whose == "users" else [])])

    said = capsys.readouterr().out
    report = json.loads(said.splitlines()[-1])
    level = {"histories": "full", "users": "fallback"}[whose]  # nobody knows these two users
    assert status == 0
    assert (report["max_rate_within_budget"], report["limited_by"]) == (100, "max_rate")
    assert report["steps"][-1]["levels"] == {level: report["steps"][-1]["requests"]}
    assert "p99 is within 1000 ms up to 100 requests/s" in said
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "nonsense"), "is not a URL"),
        (("--url", "http://127.0.0.1:9"), "nothing answers"),
        (("--users", "/nowhere"), "not a file of user ids"),
        (("--users", "/dev/null"), "no user id"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    shared_service: Running, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--url", shared_service.url, *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--budget-ms", "0"), ("--max-rate", "many"), ("-k", "201")])
def test_numbers_have_bounds(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])

    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


async def test_other_servers_are_not_benched() -> None:
    async with answering() as target:
        done = await asyncio.to_thread(run_command, "bench", "--url", target.url)

    assert done.returncode == 2
    assert "does not answer as a retort service" in done.stderr


def test_key_and_readiness_are_asked_for(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, api_keys="right", drain_s="60") as running:
        without = run_command("bench", "--url", running.url)
        wrong = run_command("bench", "--url", running.url, "--key", "wrong")
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: running.client.get("/readyz").status_code == 503)
        draining = run_command("bench", "--url", running.url, api_keys="right")
        running.process.kill()

    assert [done.returncode for done in (without, wrong, draining)] == [2, 2, 2]
    assert "give --key" in without.stderr
    assert "key" in wrong.stderr
    assert "is not ready" in draining.stderr
