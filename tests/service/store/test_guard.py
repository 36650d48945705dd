"""What the server may send: every part that asks it gets its own error, and never more bytes than it asked for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from service.errors import RefusedError, StoreError
from service.release.published import PublishedVersions
from service.release.record import Replica
from service.store.breaker import Breaker
from service.store.client import Store
from service.store.guard import MOST_BYTES, ReplyGuard, UndecodableError
from service.user.embedding import EmbeddingCache
from service.user.entry_index import EntryIndex
from service.user.erasure import Erasures
from service.user.event import StoredEvent
from service.user.history import History, Retention
from service.user.key import UserKeys
from service.user.record import Record, Sight
from service.user.stream import EventStream
from tests.service.hostile import REPLIES, Hostile

KEYS = UserKeys("retort")
EVENTS = [StoredEvent("u1", "i1", 1000), StoredEvent("u1", "i2", 2000), StoredEvent("u2", "i1", 1000)]


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


async def read_stream(store: Store) -> None:
    async for _ in open_stream(store).pages_after(b"0-0", 2.0):
        pass


async def keep(store: Store) -> None:
    import numpy as np

    record = Record(np.array([1], np.int32), np.zeros(8, np.float32))
    await embeddings(store).keep([("u1", Sight("miss"), record)], 2.0)


async def follow(store: Store) -> None:
    """Follow erasures for a moment: nothing that the store says may end that."""
    try:
        await asyncio.wait_for(erasures(store).follow(lambda share: None), 0.2)
    except TimeoutError:
        return
    raise AssertionError("following has ended")


def open_stream(store: Store) -> EventStream:
    return EventStream(store, KEYS, EntryIndex(store, KEYS, 3600))


def erasures(store: Store) -> Erasures:
    return Erasures(store, KEYS, name="here:1", lease_s=1.0)


def history(store: Store) -> History:
    return History(store, KEYS, Retention())


def embeddings(store: Store) -> EmbeddingCache:
    return EmbeddingCache(store, KEYS, history(store), ttl_s=60, dim=8, version="0" * 16)


def published(store: Store) -> PublishedVersions:
    return PublishedVersions(store, "retort")


ASKED: dict[str, Callable[[Store], Awaitable[object]]] = {
    "look": lambda store: embeddings(store).look(["u1", "u2"], 2.0, is_whole=True),
    "keep": keep,
    "read": lambda store: history(store).read(["u1", "u2"], 2.0),
    "append": lambda store: history(store).append(EVENTS, 2.0),
    "load": lambda store: history(store).load([EVENTS[:2], EVENTS[2:]], 2.0),
    "describe": lambda store: history(store).describe("u1", 2.0),
    "erase": lambda store: history(store).erase("u1", 2.0),
    "stream": read_stream,
    "erase_user": lambda store: open_stream(store).erase_user("u1", 2.0, within_s=0.5),
    "announce": lambda store: erasures(store).announce("u1", 2.0),
    "wait_until_heard": lambda store: erasures(store).wait_until_heard(b"1-1", 2.0, within_s=0.1),
    "follow": follow,
    "live": lambda store: published(store).live(),
    "listed": lambda store: published(store).listed(),
    "replicas": lambda store: published(store).replicas(),
    "activate": lambda store: published(store).activate("0" * 16),
    "rollback": lambda store: published(store).rollback(),
    "manifest": lambda store: published(store).table("0" * 16),
    "prune": lambda store: published(store).prune(),
    "report": lambda store: published(store).report(Replica("here:1", "0" * 16, 1, "ok", "", 0.0)),
}
"""Everything that asks the store."""


def ask(hostile: Hostile, work: Callable[[Store], Awaitable[object]]) -> tuple[object, Store]:
    async def do() -> tuple[object, Store]:
        store = Store(f"redis://127.0.0.1:{hostile.port}", max_connections=4, slow_s=5.0, breaker=Breaker())
        try:
            return await asyncio.wait_for(work(store), 5.0), store
        except (StoreError, RefusedError) as exc:
            return exc, store
        finally:
            await store.close()

    return asyncio.run(do())


@pytest.mark.parametrize("name", REPLIES)
def test_whoever_asks_gets_an_answer_or_an_error_of_the_store(hostile: Hostile, name: str) -> None:
    hostile.reply, hostile.tail_bytes = REPLIES[name], 0

    said = {asked: ask(hostile, work)[0] for asked, work in ASKED.items()}

    if not name.startswith("error") and name not in ("empty array", "integer", "not text", "entries"):
        kinds = {asked: exc.kind for asked, exc in said.items() if isinstance(exc, StoreError)}
        assert kinds["append"] == kinds["describe"] == kinds["stream"] == "decode", kinds


@pytest.mark.parametrize("asked", ["read", "append"])
def test_wrong_reply_tells_the_breaker_and_drops_the_connection(hostile: Hostile, asked: str) -> None:
    hostile.reply, hostile.tail_bytes, hostile.n_connections = b"$3\r\nabc\r\n", 0, 0

    async def ask_often() -> tuple[Store, int]:
        store = Store(f"redis://127.0.0.1:{hostile.port}", max_connections=4, slow_s=5.0, breaker=Breaker())
        n_asked = 0
        while store.breaker.is_closed:
            n_asked += 1
            try:
                await ASKED[asked](store)
            except StoreError as exc:
                assert exc.kind == "decode"
        await store.close()
        return store, n_asked

    _, n_asked = asyncio.run(ask_often())

    assert n_asked == 5
    assert hostile.n_connections >= n_asked


def test_a_reply_may_be_as_long_as_was_asked_for() -> None:
    guard = ReplyGuard()
    piece = b"x" * (64 << 10)

    for _ in range(16):
        guard.look(piece, MOST_BYTES)
    guard.note_replies(0)
    for _ in range(16):
        guard.look(piece, MOST_BYTES)
    with pytest.raises(UndecodableError, match="longer"):
        for _ in range(9):
            guard.look(piece, MOST_BYTES)


@pytest.mark.parametrize("cut", range(1, 12))
def test_length_of_a_list_is_seen_where_it_comes_in_two_pieces(cut: int) -> None:
    guard, data = ReplyGuard(), b"*1\r\n*2147483647\r\n"

    with pytest.raises(UndecodableError, match="elements"):
        for part in (data[:cut], data[cut:]):
            guard.look(part, MOST_BYTES)
