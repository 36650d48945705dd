"""Background tasks end, also those in which something swallows a cancellation."""

import asyncio
from contextlib import suppress

from service.task import end_task


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    swallowed = []

    async def work() -> None:
        while True:
            try:
                await asyncio.sleep(60)
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
            await asyncio.sleep(60)
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
