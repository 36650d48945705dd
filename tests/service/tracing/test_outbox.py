"""The outbox: bounded, counted, and out of the way of who puts something into it."""

import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from service.tracing import outbox as outbox_module
from service.tracing.outbox import MOST_AT_ONCE, MOST_WAITING, Outbox
from service.tracing.span import RequestSpan
from tests.service.running import wait_for

NOT_YET_S = 3600.0


class Sending:
    """What the outbox has sent. is_open: cleared, a sending does not end."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.counts: Counter[str] = Counter()
        self.result = True
        self.is_open = threading.Event()
        self.has_begun = threading.Event()

    def send(self, spans: Sequence[RequestSpan]) -> bool:
        self.has_begun.set()
        self.is_open.wait()
        self.sizes.append(len(spans))
        return self.result

    def note(self, result: str, n_spans: int) -> None:
        self.counts[result] += n_spans


def request(n_parts: int = 3) -> RequestSpan:
    span = RequestSpan("POST /recommend", 1.0, 2.0, trace_id=1)
    for _ in range(n_parts):
        span.add("score", 1.0, 2.0)
    return span


async def test_all_that_is_put_is_sent_a_few_at_once_at_the_latest_at_the_end() -> None:
    sending = Sending()
    sending.is_open.set()
    outbox = Outbox(sending.send, sending.note, NOT_YET_S)

    for _ in range(50):
        outbox.put(request())
    await outbox.close()

    assert sum(sending.sizes) == 50
    assert max(sending.sizes) <= MOST_AT_ONCE
    assert sending.counts == {"sent": 50 * 4}


async def test_what_is_put_is_sent_without_an_end() -> None:
    sending = Sending()
    sending.is_open.set()
    outbox = Outbox(sending.send, sending.note, 0.01)

    outbox.put(request())

    assert wait_for(lambda: sending.counts["sent"] == 4)
    await outbox.close()


async def test_enough_to_send_waits_for_no_more() -> None:
    sending = Sending()
    sending.is_open.set()
    outbox = Outbox(sending.send, sending.note, NOT_YET_S)

    for _ in range(2 * MOST_AT_ONCE):
        outbox.put(request())

    assert wait_for(lambda: sending.counts["sent"] >= MOST_AT_ONCE * 4)
    await outbox.close()
    assert sending.counts == {"sent": 2 * MOST_AT_ONCE * 4}


async def test_what_does_not_arrive_is_counted_as_failed() -> None:
    sending = Sending()
    sending.result = False
    sending.is_open.set()
    outbox = Outbox(sending.send, sending.note, NOT_YET_S)

    outbox.put(request())
    await outbox.close()

    assert sending.counts == {"failed": 4}


async def test_more_than_may_wait_is_dropped_and_the_end_does_not_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "FLUSH_S", 0.05)
    sending = Sending()
    outbox = Outbox(sending.send, sending.note, NOT_YET_S)
    n_requests = MOST_WAITING

    for _ in range(n_requests):
        outbox.put(request())
    assert sending.has_begun.wait(5)
    before = sending.counts["dropped"]
    await outbox.close()

    assert before == (n_requests - MOST_WAITING // 4) * 4
    assert sending.counts == {"dropped": n_requests * 4}  # the sending that hangs is given up too
    sending.is_open.set()


async def test_a_request_of_more_spans_than_may_wait_is_dropped_alone() -> None:
    sending = Sending()
    sending.is_open.set()
    outbox = Outbox(sending.send, sending.note, NOT_YET_S)

    outbox.put(request(MOST_WAITING))
    outbox.put(request())
    await outbox.close()

    assert sending.counts == {"dropped": MOST_WAITING + 1, "sent": 4}


async def test_an_outbox_that_was_never_used_ends() -> None:
    sending = Sending()

    await Outbox(sending.send, sending.note, NOT_YET_S).close()

    assert not sending.counts
