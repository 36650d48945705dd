"""Background tasks go on after an error, and end, also those in which something swallows a cancellation."""

import asyncio
import logging
from contextlib import suppress

import pytest

from service import task as task_module
from service.logs import counted_bugs
from service.task import end_task, keep_going


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    swallowed = []

    async def work() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if len(swallowed) == 2:
                    raise
                swallowed.append(1)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await end_task(task)

    assert task.cancelled() and len(swallowed) == 2


async def test_a_task_may_take_its_time_at_the_end_and_may_have_failed() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended.append(1)

    async def fail() -> None:
        raise OSError

    slow, failed = asyncio.create_task(work()), asyncio.create_task(fail())
    await asyncio.sleep(0)
    for task in (slow, failed):
        with suppress(OSError):
            await end_task(task)

    assert ended == [1]


async def test_what_goes_on_is_begun_again_after_an_error_which_is_logged_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(task_module, "_PAUSE_S", 0.0)
    begun, bugs = asyncio.Semaphore(0), []

    async def work() -> None:
        begun.release()
        if len(bugs) < 3:
            raise OSError("the disk is full")
        await asyncio.Event().wait()

    with counted_bugs(lambda: bugs.append(1)):
        task = asyncio.create_task(keep_going("versions", work))
        async with asyncio.timeout(60):
            for _ in range(4):
                await begun.acquire()
        await end_task(task)

    assert task.cancelled() and len(bugs) == 3
    assert caplog.text.count("a bug in what goes on behind the answers, versions; it begins again") == 3
    assert "the disk is full" in caplog.text


async def test_what_ends_by_itself_is_not_begun_again_and_what_is_no_error_is_not_counted() -> None:
    begun, bugs = [], []

    async def work() -> None:
        begun.append(1)
        logging.getLogger("service").warning("foreseen")

    with counted_bugs(lambda: bugs.append(1)):
        await keep_going("versions", work)
    logging.getLogger("service").error("of somebody else, later")

    assert (len(begun), len(bugs)) == (1, 0)
