"""The end of a background task: cancelled until it is over.

A library that waits for a reply may take a cancellation for the end of its own time limit (redis-py does, where both
come in the same turn of the loop). The task then goes on, and whoever waits for its end waits for ever.
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
