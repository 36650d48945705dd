"""Background tasks: what must go on goes on after an error, and a task that is ended is cancelled until it is over.

A task that an error has ended is noticed by nobody: a service would answer for weeks and hear of no new version. So
what goes on behind the answers is begun again, and the log has the error.

A cancellation can get lost: asyncio.wait_for() of Python 3.11 drops one that comes in the turn of the loop in which
what it waits for is done, and libraries use it. The task then goes on, and whoever waits for its end waits for ever.
What a limit of asyncio.timeout() cancels goes on as well.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

_AGAIN_S = 1.5
"""Longer than what a task does at its end."""
_PAUSE_S = 5.0
_LOGGER = logging.getLogger(__name__)
Work = Callable[[], Coroutine[Any, Any, None]]


async def keep_going(name: str, work: Work) -> None:
    """Run what goes on until it is cancelled; where an error that nobody foresaw ends it, it is begun again."""
    while True:
        try:
            await work()
        except Exception as exc:  # a border: the answers go on without it
            _LOGGER.error("a bug in what goes on behind the answers, %s; it begins again", name, exc_info=exc)
        else:
            return
        await asyncio.sleep(_PAUSE_S)


async def end_task(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait until it is over; what it raises is dropped."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_S)
    if not task.cancelled():
        task.exception()
