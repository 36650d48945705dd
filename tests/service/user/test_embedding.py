"""Cached embeddings: believed while they fit the history as it is, and never made from another user's."""

import numpy as np

from service.errors import StoreError
from service.store.client import Store
from service.user.embedding import EmbeddingCache
from service.user.event import StoredEvent
from service.user.history import History, Retention
from service.user.key import UserKeys
from service.user.record import Record
from tests.service.running import Running, wait_for

DIM = 8
VERSION = "0123456789abcdef"
RECORD = Record(np.array([3, 1], dtype=np.int32), np.arange(DIM, dtype=np.float32))
KEYS = UserKeys("cached")


def open_history(store: Store) -> History:
    return History(store, KEYS, Retention())


def open_cache(store: Store, version: str = VERSION) -> EmbeddingCache:
    return EmbeddingCache(store, KEYS, open_history(store), ttl_s=60, dim=DIM, version=version)


async def results(cache: EmbeddingCache, *user_ids: str) -> list[str]:
    return [sight.result for sight in await cache.look(user_ids, 5) if not isinstance(sight, StoreError)]


async def test_record_is_a_hit_until_the_next_event_or_the_next_version(store: Store) -> None:
    history, cache = open_history(store), open_cache(store)
    await history.append([StoredEvent("hit", "i1", 1000)], 5)

    first = await cache.look(["hit"], 5)
    await cache.keep([("hit", first[0], RECORD)], 5)
    second = await cache.look(["hit"], 5)
    other = await results(open_cache(store, "f" * 16), "hit")
    await history.append([StoredEvent("hit", "i2", 2000)], 5)

    assert first[0].result == "stale", "the token of the event"
    assert (second[0].result, second[0].record.rows.tolist()) == ("hit", [3, 1])
    assert other == ["stale"]
    assert await results(cache, "hit", "nobody") == ["stale", "none"]


async def test_record_made_before_an_event_is_not_written_over_its_token(store: Store) -> None:
    history, cache = open_history(store), open_cache(store)
    await history.append([StoredEvent("late", "i1", 1000)], 5)
    (seen,) = await cache.look(["late"], 5)
    await history.append([StoredEvent("late", "i2", 500)], 5)

    await cache.keep([("late", seen, RECORD)], 5)

    assert await results(cache, "late") == ["stale"]


async def test_record_of_an_erased_user_is_not_written_back(store: Store) -> None:
    history, cache = open_history(store), open_cache(store)
    await history.append([StoredEvent("erased", "i1", 1000)], 5)
    (seen,) = await cache.look(["erased"], 5)

    n_keys = await history.erase("erased", 5)
    await cache.keep([("erased", seen, RECORD)], 5)

    assert n_keys == 2
    assert await results(cache, "erased") == ["none"]
    assert await history.describe("erased", 5) == {
        "count": 0, "history": [], "hidden": [], "removed": [], "removals": [], "stream_only": 0,
        "history_expires_in_s": None, "embedding": None,
    }  # fmt: skip


async def test_look_reads_whole_histories_of_those_without_a_fresh_record(store: Store) -> None:
    history, cache = open_history(store), open_cache(store)
    await history.append(
        [StoredEvent(user, item, at) for user in ("new", "old") for item, at in (("i1", 1), ("i2", 2))], 5
    )
    seen = await cache.look(["old"], 5)
    await cache.keep([("old", seen[0], RECORD)], 5)

    found = await cache.look(["new", "old", "nobody"], 5, is_whole=True)

    assert [sight.past and sight.past.item_ids for sight in found] == [["i1", "i2"], None, None]
    assert [sight.result for sight in found] == ["stale", "hit", "none"]


async def test_record_key_of_another_type_is_invalid_and_a_history_key_is_no_history(store: Store) -> None:
    history, cache = open_history(store), open_cache(store)
    await history.append([StoredEvent(user, "i1", 1000) for user in ("list", "text")], 5)
    await store.call("user", [("DEL", KEYS.record("list")), ("RPUSH", KEYS.record("list"), "x")], 5)
    await store.call("user", [("SET", KEYS.history("text"), "x")], 5)

    assert await results(cache, "list", "text") == ["invalid", "none"]
    assert [past.item_ids for past in await history.read(["list", "text"], 5)] == [["i1"], []]


def test_late_event_in_a_full_history_is_seen_at_once(shared_service: Running) -> None:
    shared_service.send(*[{"user_id": "full", "item_id": f"i{n % 50}", "timestamp": 10 * n} for n in range(1, 501)])
    before = shared_service.recommend(user_id="full", k=50)
    shared_service.send({"user_id": "full", "item_id": "i55", "timestamp": 4995})

    after = shared_service.recommend(user_id="full", k=50)

    assert "i55" in {item["item_id"] for item in before["items"]}
    assert "i55" not in {item["item_id"] for item in after["items"]}


def test_event_written_by_another_program_is_seen_at_once(shared_service: Running) -> None:
    shared_service.send({"user_id": "foreign", "item_id": "i1", "timestamp": 5})
    before = shared_service.recommend(user_id="foreign", debug=True)
    store = shared_service.store()
    store.zadd("retort:{foreign}:h", {StoredEvent("foreign", "i2", 6000).member: 6.0})
    store.close()

    after = shared_service.recommend(user_id="foreign", debug=True)

    assert (before["debug"]["funnel"]["history"], after["debug"]["funnel"]["history"]) == (1, 2)


def test_record_and_history_of_another_user_are_never_answered_from(shared_service: Running) -> None:
    shared_service.send(*[{"user_id": "theirs", "item_id": f"i{n}", "timestamp": n} for n in (3, 5, 8)])
    theirs = shared_service.recommend(user_id="theirs")
    with shared_service.store() as store:
        wait_for(lambda: store.exists("retort:{theirs}:e"))
        for kind in ("h", "e"):  # as if a reply had been taken for another's
            store.copy(f"retort:{{theirs}}:{kind}", f"retort:{{ours}}:{kind}")
    n_before = shared_service.metric("retort_store_errors_total", kind="decode")

    ours = shared_service.recommend(user_id="ours")

    assert theirs["quality"]["level"] == "full"
    assert ours["quality"] == {"level": "fallback", "reasons": ["cold_user"]}
    assert shared_service.metric("retort_store_errors_total", kind="decode") > n_before
