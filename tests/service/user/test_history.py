"""Keys and values of the store: no two users share a key, and order and identity of events are as in training."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import tie_hash
from service.user.event import StoredEvent, read_member
from service.user.history import encode_user
from service.user.record import Record, make_mark, pack_record, unpack_record
from tests.service.running import Running, wait_for

ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)
VERSION = "0123456789abcdef"
MARK = b"markmark"


@given(st.lists(ids, min_size=2, max_size=20, unique=True))
def test_no_two_users_share_an_encoding(users: list[str]) -> None:
    assert len({encode_user(user) for user in users}) == len(users)


@given(ids)
def test_encoded_user_is_a_safe_cluster_hash_tag(user: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.%-]+", encode_user(user))


@given(ids, st.one_of(st.none(), ids), st.integers(0, 10**14))
def test_member_reads_back(item_id: str, event_id: str | None, timestamp_ms: int) -> None:
    event = StoredEvent("u", item_id, timestamp_ms, event_id)

    assert read_member("u", event.member) == (item_id, event_id if event_id is not None else str(timestamp_ms))


@given(st.binary(max_size=2000))
def test_any_bytes_as_a_member_are_read_or_refused(member: bytes) -> None:
    found = read_member("u", member)

    assert found is None or tie_hash("u", found[0]) == member[:4]


@given(st.binary(max_size=200))
def test_any_bytes_as_a_record_never_become_a_wrong_vector(value: bytes) -> None:
    result, record = unpack_record(value, VERSION.encode(), MARK, 8)

    assert (record is None) == (result != "hit")


def packed() -> bytes:
    return pack_record(VERSION, MARK, Record(np.array([3, 1, 4], dtype=np.int32), np.arange(8, dtype=np.float32)))


@pytest.mark.parametrize(
    ("version", "mark", "dim", "expected"),
    [
        (VERSION, MARK, 8, "hit"),
        ("f" * 16, MARK, 8, "stale"),
        (VERSION, b"otherone", 8, "stale"),
        (VERSION, MARK, 4, "invalid"),
        (VERSION, MARK, 16, "invalid"),
    ],
)
def test_record_serves_only_its_own_model_history_and_width(version: str, mark: bytes, dim: int, expected: str) -> None:
    result, found = unpack_record(packed(), version.encode(), mark, dim)

    assert result == expected
    assert found is None or (found.rows.tolist(), found.user.tolist()) == ([3, 1, 4], list(range(8)))


def test_record_with_any_bit_changed_is_refused() -> None:
    whole = packed()
    for place in range(len(whole)):
        changed = bytes([*whole[:place], whole[place] ^ 4, *whole[place + 1 :]])

        assert unpack_record(changed, VERSION.encode(), MARK, 8)[1] is None, place


def test_mark_tells_count_newest_and_time_apart() -> None:
    assert (
        len({make_mark(*state) for state in ((1, b"a", b"1"), (2, b"a", b"1"), (1, b"b", b"1"), (1, b"a", b"2"))}) == 4
    )


def test_history_is_the_same_for_every_order_of_arrival(shared_service: Running) -> None:
    events = [("i1", 30), ("i2", 10), ("i3", 20), ("i4", 20)]
    for number, order in enumerate(itertools.permutations(events)):
        for item_id, timestamp in order:
            shared_service.send({"user_id": f"order-{number}", "item_id": item_id, "timestamp": timestamp})

    histories = [
        [event["item_id"] for event in shared_service.client.get(f"/users/order-{number}").json()["history"]]
        for number in range(24)
    ]

    for number, history in enumerate(histories):
        tied = sorted(["i3", "i4"], key=lambda item_id: tie_hash(f"order-{number}", item_id))
        assert history == ["i2", *tied, "i1"]


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({"item_id": "i1", "timestamp": 5}, {"item_id": "i1", "timestamp": 5}, True),
        ({"item_id": "i1", "timestamp": 5}, {"item_id": "i1", "timestamp": 5.0004}, True),
        ({"item_id": "i1", "timestamp": 5}, {"item_id": "i1", "timestamp": 5.001}, False),
        ({"item_id": "i1", "timestamp": 5}, {"item_id": "i2", "timestamp": 5}, False),
        ({"item_id": "i1", "timestamp": 5, "event_id": "e"}, {"item_id": "i1", "timestamp": 9, "event_id": "e"}, True),
        ({"item_id": "i1", "timestamp": 5, "event_id": "e"}, {"item_id": "i1", "timestamp": 5, "event_id": "f"}, False),
        ({"item_id": "i1", "event_id": "e"}, {"item_id": "i1", "event_id": "e"}, True),
    ],
)
def test_identical_events_are_one(shared_service: Running, first: dict, second: dict, is_same: bool) -> None:
    user = f"twice-{first}-{second}"[:128]

    answers = [shared_service.send({"user_id": user, **event}) for event in (first, second)]
    kept = shared_service.client.get(f"/users/{user}").json()

    assert answers[0]["accepted"] == 1
    assert (answers[1]["accepted"], answers[1]["duplicates"]) == ((0, 1) if is_same else (1, 0))
    assert kept["count"] == (1 if is_same else 2)


def test_history_keeps_the_newest_events_whatever_came_last(shared_service: Running) -> None:
    newer = [{"user_id": "long", "item_id": f"i{n % 60}", "timestamp": 1000 + n} for n in range(500)]
    older = [{"user_id": "long", "item_id": f"i{n % 60}", "timestamp": n} for n in range(100)]

    shared_service.send(*newer)
    shared_service.send(*older)
    kept = shared_service.client.get("/users/long").json()

    assert kept["count"] == 500
    assert kept["history"][0]["timestamp"] == 1000.0


def test_event_ids_do_not_make_one_purchase_two_for_the_model(shared_service: Running) -> None:
    purchase = {"user_id": "ids", "item_id": "i3", "timestamp": 5}
    shared_service.send({**purchase, "event_id": "a"}, purchase, {**purchase, "item_id": "i4"})

    answer = shared_service.recommend(user_id="ids", debug=True)

    assert answer["debug"]["funnel"]["history"] == 2


def test_repeats_stay_in_the_history(shared_service: Running) -> None:
    shared_service.send(*[{"user_id": "again", "item_id": "i3", "timestamp": n} for n in range(4)])

    answer = shared_service.recommend(user_id="again", debug=True)

    assert answer["debug"]["funnel"]["history"] == 4


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
