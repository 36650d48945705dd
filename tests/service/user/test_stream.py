"""The stream of accepted events: read page by page, and rid of a user's events."""

import asyncio

import orjson
import pytest

from service.store.client import Store
from service.store.reply import read_info
from service.user.entry_index import EntryIndex, make_mark
from service.user.event import StoredEvent
from service.user.history import History, Retention
from service.user.key import UserKeys
from service.user.stream import PAGE_ENTRIES, EventStream


def open_stream(store: Store, keys: UserKeys) -> EventStream:
    return EventStream(store, keys, EntryIndex(store, keys, Retention().history_ttl_s))


async def fill(store: Store, namespace: str, n_events: int) -> EventStream:
    """Write events of two users in turn, and return their stream."""
    keys = UserKeys(namespace)
    events = [StoredEvent(("even", "odd")[n % 2], f"i{n}", n) for n in range(n_events)]
    for first in range(0, n_events, 1000):
        await History(store, keys, Retention()).append(events[first : first + 1000], 5)
    return open_stream(store, keys)


@pytest.mark.parametrize(
    ("n_events", "sizes"), [(0, [0]), (3, [3]), (PAGE_ENTRIES, [PAGE_ENTRIES, 0]), (2500, [1000, 1000, 500])]
)
async def test_stream_is_read_whole_page_by_page(store: Store, n_events: int, sizes: list[int]) -> None:
    stream = await fill(store, f"pages-{n_events}", n_events)

    pages = [page async for page in stream.pages_after(b"0-0", 5)]

    items = [orjson.loads(event)["item_id"] for page in pages for _, event in page]
    assert [len(page) for page in pages] == sizes
    assert sorted(items) == sorted(f"i{n}" for n in range(n_events))
    assert len({entry_id for page in pages for entry_id, _ in page}) == n_events


async def test_entries_of_one_user_are_erased_from_every_page(store: Store) -> None:
    stream = await fill(store, "erased", 2500)

    found = await stream.erase_user("odd", 5, within_s=60)

    left = [
        orjson.loads(event)["user_id"]
        for page in [page async for page in stream.pages_after(b"0-0", 5)]
        for _, event in page
    ]
    assert found == (1250, True)
    assert left == ["even"] * 1250


async def n_pages_read(store: Store) -> int:
    info = read_info(await store.call_one("user", ("INFO", "commandstats"), 5))
    return int(info.get("cmdstat_xrange", "calls=0").split("=")[1].split(",")[0])


async def test_entries_of_a_user_are_found_without_reading_the_others(store: Store) -> None:
    stream = await fill(store, "found", 9000)
    await History(store, UserKeys("found"), Retention()).append([StoredEvent("rare", "i1", 1)], 5)
    before = await n_pages_read(store)

    found = await stream.erase_user("rare", 5, within_s=0)

    assert found == (1, True)
    assert await n_pages_read(store) - before <= 2, "of what is older than any list; one may be the service's own"


async def test_entries_that_no_writer_listed_are_read_once_and_then_found(store: Store) -> None:
    keys = UserKeys("unlisted")
    events = [StoredEvent(f"u{n % 3}", f"i{n}", n) for n in range(2500)]
    await store.call("user", [("XADD", keys.stream, "*", "event", event.to_json()) for event in events], 5)
    await History(store, keys, Retention()).append([StoredEvent("u1", "i1", 1)], 5)
    stream = open_stream(store, keys)

    first = await stream.erase_user("u1", 5, within_s=60)
    before = await n_pages_read(store)
    second = await stream.erase_user("u2", 5, within_s=0)

    assert (first, second) == ((834, True), (833, True))
    assert await n_pages_read(store) - before <= 2, "one, and perhaps one that the service reads meanwhile"
    assert await stream.erase_user("u1", 5, within_s=0) == (0, True)


async def test_erasure_that_runs_out_of_time_says_so_and_goes_on_later(store: Store) -> None:
    keys = UserKeys("hurried")
    stream = open_stream(store, keys)
    await store.call("user", [("XADD", keys.stream, "*", "event", StoredEvent("odd", "i1", 1).to_json())], 5)

    assert await stream.erase_user("odd", 5, within_s=0) == (0, False)
    assert await stream.erase_user("odd", 5, within_s=60) == (1, True)


@pytest.mark.parametrize("is_known_before", [True, False])
async def test_entry_that_cannot_be_read_is_erased_where_it_holds_the_id(store: Store, is_known_before: bool) -> None:
    keys = UserKeys(f"broken-{is_known_before}")
    stream = open_stream(store, keys)
    broken = [
        b'{"user_id": "z\xc3\xb6e", "item', b'{"user_id": "z\\u00f6e", "item', b'["z\xc3\xb6e"]', b"\xff\xfe", b'"zoe"',
        b'{"user_id": "other", "item', b'{"user_id": 7}', b"[" * 100_000, b"",
    ]  # fmt: skip
    await store.call("user", [("XADD", keys.stream, "*", "event", text) for text in broken], 5)
    await store.call("user", [("XADD", keys.stream, "*", "who", "zöe")], 5)
    if is_known_before:
        assert await stream.erase_user("somebody", 5, within_s=60) == (0, True)

    found = await stream.erase_user("zöe", 5, within_s=60)

    (page,) = [page async for page in stream.pages_after(b"0-0", 5)]
    assert found == (4, True)
    assert [text for _, text in page] == broken[3:]


async def test_entries_whose_list_has_expired_are_erased_all_the_same(store: Store) -> None:
    keys = UserKeys("expired")
    retention = Retention(history_ttl_s=1)
    await History(store, keys, retention).append([StoredEvent("gone", "i1", 1)], 5)
    async with asyncio.timeout(10):
        while await store.call_one("user", ("EXISTS", keys.entries("gone")), 5):
            pass

    assert await EventStream(store, keys, EntryIndex(store, keys, 1)).erase_user("gone", 5, within_s=60) == (1, True)


async def test_entry_of_a_writer_that_died_before_it_listed_it_is_erased(store: Store) -> None:
    keys = UserKeys("died")
    entry = ("XADD", keys.stream, "*", "event", StoredEvent("gone", "i1", 1).to_json())
    mark = ("RPUSH", keys.entries("gone"), make_mark())
    await store.call("user", [mark, entry, ("HINCRBY", keys.account, "counted", 1)], 5)
    stream = open_stream(store, keys)

    assert await stream.erase_user("gone", 5, within_s=60) == (1, True)
    assert await store.call_one("user", ("EXISTS", keys.entries("gone")), 5) == 0


async def test_list_is_trimmed_as_the_stream_is(store: Store) -> None:
    keys = UserKeys("trimmed")
    history = History(store, keys, Retention(stream=1))
    for first in range(0, 2000, 100):
        await history.append([StoredEvent("busy", "i1", n) for n in range(first, first + 100)], 5)

    n_entries = await store.call_one("user", ("XLEN", keys.stream), 5)

    assert await store.call_one("user", ("LLEN", keys.entries("busy")), 5) == n_entries < 300


async def test_keys_of_another_type_are_replaced(store: Store) -> None:
    keys = UserKeys("foreign")
    await store.call("user", [("SET", key, "x") for key in (keys.entries("u"), keys.account, keys.strays)], 5)
    await History(store, keys, Retention()).append([StoredEvent("u", "i1", 1)], 5)
    await store.call("user", [("SET", keys.entries("v"), "x")], 5)
    stream = open_stream(store, keys)

    assert await stream.erase_user("u", 5, within_s=0) == (1, True)
    assert await stream.erase_user("v", 5, within_s=60) == (0, True)


async def test_entries_without_an_event_are_read_as_empty(store: Store) -> None:
    await store.call("user", [("XADD", "strange:events", "*", "other", "field")], 5)

    (page,) = [page async for page in open_stream(store, UserKeys("strange")).pages_after(b"0-0", 5)]

    assert [event for _, event in page] == [b""]


async def test_entry_of_bytes_that_are_no_text_is_erased_where_it_holds_the_id(store: Store) -> None:
    keys = UserKeys("bytes")
    stream = open_stream(store, keys)
    for fields in (("event", b"\xffzq-user"), (b"\xff\xfe", b"\x00zq-user"), ("event", b"\xffother")):
        await store.call("user", [("XADD", keys.stream, "*", *fields)], 5)

    assert await stream.erase_user("zq-user", 5, within_s=60) == (2, True)
