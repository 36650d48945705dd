"""Recorded requests on their way out: a bounded queue, and a thread that sends what is in it.

A request only appends. The thread holds Python's lock while it encodes, which is time that answers wait for: it sends
few requests at once, and rests nine times as long as it has computed. Sending alone costs more than encoding a request,
so where few are recorded it waits for others. What does not fit meanwhile is dropped and counted. See
tests/bench/README.md, "Tracing".
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from service.tracing.span import RequestSpan

MOST_WAITING = 4096
"""Spans that wait at most."""
MOST_AT_ONCE = 8
"""Requests that are sent at once at most."""
FLUSH_S = 2.0
"""How long the end of the service waits for what has not been sent."""
_REST = 9.0
Send = Callable[[Sequence[RequestSpan]], bool]
Note = Callable[[str, int], None]


class Outbox:
    """Sends recorded requests from a thread of its own."""

    def __init__(self, send: Send, note: Note, gather_s: float) -> None:
        """send: returns whether the requests have arrived; called in the thread. note: is told of sent, failed and
        dropped, how many spans; called in both threads. gather_s: how long a request waits for others at most."""
        self._send, self._note, self._gather_s = send, note, gather_s
        self._queue: queue.SimpleQueue[RequestSpan | None] = queue.SimpleQueue()
        self._n_put, self._n_done = 0, 0  # each is written by one thread only
        self._is_due, self._is_closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()

    def put(self, span: RequestSpan) -> None:
        """Queue a request that has ended, unless too much waits already. For one thread."""
        n_spans = span.size()
        if self._n_put - self._n_done + n_spans > MOST_WAITING:
            self._note("dropped", n_spans)
            return
        self._n_put += n_spans
        self._queue.put(span)
        if self._queue.qsize() >= MOST_AT_ONCE:
            self._is_due.set()

    async def close(self) -> None:
        """Send what waits, for FLUSH_S at most; what is left then is dropped."""
        self._is_closing.set()
        self._queue.put(None)
        self._is_due.set()
        await asyncio.to_thread(self._thread.join, FLUSH_S)
        if self._n_put > self._n_done:
            self._note("dropped", self._n_put - self._n_done)

    def _run(self) -> None:
        while not (self._is_closing.is_set() and self._queue.empty()):
            spans = self._gather()
            start = time.thread_time()
            if spans:
                n_spans = sum(span.size() for span in spans)
                self._note("sent" if self._send(spans) else "failed", n_spans)
                self._n_done += n_spans
            self._is_closing.wait(_REST * (time.thread_time() - start))

    def _gather(self) -> list[RequestSpan]:
        """Wait for a request, and a while for others to send with it."""
        taken = [self._queue.get()]
        if self._queue.qsize() < MOST_AT_ONCE - 1 and not self._is_closing.is_set():
            self._is_due.wait(self._gather_s)
        self._is_due.clear()
        with suppress(queue.Empty):
            while len(taken) < MOST_AT_ONCE:
                taken.append(self._queue.get_nowait())
        return [span for span in taken if span is not None]
