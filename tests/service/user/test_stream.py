"""The stream of accepted events: read page by page, and rid of a user's events."""

from collections.abc import AsyncIterator

import orjson
import pytest

from service.store.client import Store
from service.user.event import StoredEvent
from service.user.history import History, Retention
from service.user.key import UserKeys
from service.user.stream import PAGE_ENTRIES, EventStream
from tests.service.running import Running
from tests.service.store.test_client import open_store


@pytest.fixture
async def store(shared_service: Running) -> AsyncIterator[Store]:
    opened = open_store(shared_service)
    yield opened
    await opened.close()


async def fill(store: Store, namespace: str, n_events: int) -> EventStream:
    """Write events of two users in turn, and return their stream."""
    keys = UserKeys(namespace)
    events = [StoredEvent(("even", "odd")[n % 2], f"i{n}", n) for n in range(n_events)]
    for first in range(0, n_events, 1000):
        await History(store, keys, Retention()).append(events[first : first + 1000], 5)
    return EventStream(store, keys)


@pytest.mark.parametrize(
    ("n_events", "sizes"), [(0, [0]), (3, [3]), (PAGE_ENTRIES, [PAGE_ENTRIES, 0]), (2500, [1000, 1000, 500])]
)
async def test_stream_is_read_whole_page_by_page(store: Store, n_events: int, sizes: list[int]) -> None:
    stream = await fill(store, f"pages-{n_events}", n_events)

    pages = [page async for page in stream.pages(5)]

    items = [orjson.loads(event)["item_id"] for page in pages for _, event in page]
    assert [len(page) for page in pages] == sizes
    assert sorted(items) == sorted(f"i{n}" for n in range(n_events))
    assert len({entry_id for page in pages for entry_id, _ in page}) == n_events


async def test_entries_of_one_user_are_erased_from_every_page(store: Store) -> None:
    stream = await fill(store, "erased", 2500)

    found = await stream.erase_user("odd", 5, within_s=60)

    left = [orjson.loads(event)["user_id"] for page in [page async for page in stream.pages(5)] for _, event in page]
    assert found == (1250, True)
    assert left == ["even"] * 1250


async def test_erasure_that_runs_out_of_time_says_so(store: Store) -> None:
    stream = await fill(store, "hurried", 3)

    assert await stream.erase_user("odd", 5, within_s=0) == (0, False)


async def test_entries_without_an_event_are_read_as_empty(store: Store) -> None:
    await store.call("user", [("XADD", "strange:events", "*", "other", "field")], 5)

    (page,) = [page async for page in EventStream(store, UserKeys("strange")).pages(5)]

    assert [event for _, event in page] == [b""]
