"""Events that are sent in the background: a bounded queue, sent in batches, of which none is lost without a word.

Whoever puts an event in may be on any thread; everything else happens on the loop of the client.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from service.client.answer import EventsAnswer
from service.client.error import (
    ClientError,
    DeadlineError,
    EventsLostError,
    LostEvent,
    QueueFullError,
    RefusedError,
    UnreadableError,
)

MOST_IN_BATCH = 500
_LONGEST_PAUSE_S = 5.0
_AGAIN_S = 1.5
Raw = Mapping[str, Any]
Send = Callable[[Sequence[Raw]], Awaitable[EventsAnswer]]
OnLost = Callable[[LostEvent], None]


@dataclass(slots=True)
class Counts:
    """What a client has done. calls: made by the program, and batches. retries: requests beyond those.

    stored: background events that are in the store, duplicates too. lost: those that are not, each told once.
    """

    calls: int = 0
    retries: int = 0
    stored: int = 0
    lost: int = 0


class Outbox:
    """The background events of one client."""

    def __init__(self, send: Send, counts: Counts, *, most: int, linger_s: float, on_lost: OnLost | None) -> None:
        """send: one batch. most: how many events may wait. linger_s: how long a batch waits for more of them.

        on_lost: is told each event that was not stored; without it, flush() raises.
        """
        self._send, self._counts, self._most, self._linger_s, self._on_lost = send, counts, most, linger_s, on_lost
        self._waiting: deque[Raw] = deque()
        self._lost: list[LostEvent] = []
        self._lock = threading.Lock()
        self._n_unsettled = 0
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._arrived, self._settled, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def n_waiting(self) -> int:
        """How many events are not settled yet."""
        return self._n_unsettled

    def start(self) -> None:
        """Begin to send, on the running loop."""
        if self._task is None:
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._run())
            self._arrived.set()

    def put(self, event: Raw) -> None:
        """Take an event; one without a time gets that of now, so that it can be sent again.

        Raises QueueFullError, and TypeError or ValueError for what is no JSON.
        """
        stamped = {**event, "timestamp": time.time() if event.get("timestamp") is None else event["timestamp"]}
        json.dumps(stamped, allow_nan=False)
        with self._lock:
            if self._is_closed or self._n_unsettled >= self._most:
                raise QueueFullError("the client is closed" if self._is_closed else f"{self._most} events are waiting")
            self._n_unsettled += 1
            self._waiting.append(stamped)
        self._wake()

    def _wake(self) -> None:
        """Begin to send, if that has not been done; else tell the loop that there is something more."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._arrived.set)
        else:
            with suppress(RuntimeError):  # no loop runs in this thread: flush() begins
                self.start()

    async def flush(self, timeout_s: float) -> None:
        """Wait until every event that was put in is settled: stored, or lost.

        Raises EventsLostError for those that were lost since the last flush, unless on_lost was told, and DeadlineError
        where some still wait.
        """
        self.start()
        self._hurry.set()
        self._arrived.set()
        try:
            async with asyncio.timeout(timeout_s):
                while self._n_unsettled:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            raise DeadlineError(f"{self._n_unsettled} events still wait to be sent") from None
        finally:
            self._hurry.clear()
        self._raise_lost()

    async def close(self, timeout_s: float) -> None:
        """Take nothing more, send what waits, and stop. What could not be sent in time is lost. Raises as flush."""
        with self._lock:
            self._is_closed = True
        try:
            await self.flush(timeout_s)
        except DeadlineError as exc:
            await self._stop()
            self._lose(list(self._waiting), exc)
            self._waiting.clear()
            self._raise_lost()
        finally:
            await self._stop()

    async def _stop(self) -> None:
        while self._task is not None and not self._task.done():
            self._task.cancel()  # it can get lost: asyncio.wait_for() of Python 3.11 drops some
            await asyncio.wait([self._task], timeout=_AGAIN_S)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if len(self._waiting) < MOST_IN_BATCH:
                    await self._linger(self._linger_s)
                batch = [self._waiting.popleft() for _ in range(min(MOST_IN_BATCH, len(self._waiting)))]
                await self._deliver(batch)

    async def _linger(self, seconds: float) -> None:
        """Wait for more events, unless somebody waits for those that there are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def _deliver(self, batch: Sequence[Raw]) -> None:
        try:
            answer = await self._send(batch)
        except ClientError as exc:
            self._lose(batch, exc)
            if exc.retry_after_s:
                await asyncio.sleep(min(exc.retry_after_s, _LONGEST_PAUSE_S))
            return
        except Exception as exc:  # a border: a bug must lose no event without a word
            self._lose(batch, UnreadableError(f"{type(exc).__name__}: {exc}"))
            return
        except asyncio.CancelledError:
            self._lose(batch, DeadlineError("the client was closed before it knew that they are stored"))
            raise
        for refusal in answer.rejected:
            self._lose([batch[refusal.index]], RefusedError(refusal.message, code=refusal.reason))
        n_stored = len(batch) - len(answer.rejected)
        self._counts.stored += n_stored
        self._settle(n_stored)

    def _lose(self, events: Sequence[Raw], error: ClientError) -> None:
        """Tell that events were not stored: at once, or at the next flush."""
        self._counts.lost += len(events)
        for event in events:
            lost = LostEvent(event, error)
            try:
                if self._on_lost is None:
                    self._lost.append(lost)
                else:
                    self._on_lost(lost)
            except Exception:  # a border: what cannot be told now is told by flush
                self._lost.append(lost)
        self._settle(len(events))

    def _settle(self, n_events: int) -> None:
        with self._lock:
            self._n_unsettled -= n_events
        self._settled.set()

    def _raise_lost(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, []
            raise EventsLostError(lost)
