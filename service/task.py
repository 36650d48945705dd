"""The end of a background task: cancelled until it is over.

A cancellation can get lost: asyncio.wait_for() of Python 3.11 drops one that comes in the turn of the loop in which
what it waits for is done, and libraries use it. The task then goes on, and whoever waits for its end waits for ever.
What a limit of asyncio.timeout() cancels goes on as well.
"""

import asyncio
from typing import Any

_AGAIN_S = 1.5
"""Longer than what a task does at its end."""


async def end_task(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait until it is over; what it raises is dropped."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_S)
    if not task.cancelled():
        task.exception()
