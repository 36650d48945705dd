"""How late the event loop is: what a request waits before anything looks at it."""

import asyncio
import time

from service.metrics import Metrics

_EVERY_S = 0.1


async def watch_lag(metrics: Metrics) -> None:
    """Observe how late the loop wakes up, and hand on what was counted, ten times a second until this is cancelled."""
    try:
        while True:
            start = time.monotonic()
            await asyncio.sleep(_EVERY_S)
            metrics.event_loop_lag.observe(max(0.0, time.monotonic() - start - _EVERY_S))
            metrics.refresh()
    finally:
        metrics.refresh()  # what a worker has counted outlives it
