"""Keys and values of the store: no two users share a key, and order and identity of events are as in training."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import tie_hash
from service.profile import StoredEvent, encode_user, fingerprint, pack_embedding, read_member, unpack_embedding
from tests.service.running import Running

ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)
VERSION = "0123456789abcdef"


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
def test_any_bytes_as_an_embedding_never_become_a_wrong_vector(value: bytes) -> None:
    result, user = unpack_embedding(value, VERSION, [1, 2], 8)

    assert (user is None) == (result != "hit")


@pytest.mark.parametrize(
    ("version", "rows", "dim", "expected"),
    [
        (VERSION, [1, 2], 8, "hit"),
        ("f" * 16, [1, 2], 8, "stale"),
        (VERSION, [2, 1], 8, "stale"),
        (VERSION, [1, 2], 4, "invalid"),
        (VERSION, [1, 2], 16, "invalid"),
    ],
)
def test_embedding_serves_only_its_own_model_history_and_width(
    version: str, rows: list[int], dim: int, expected: str
) -> None:
    user = np.arange(8, dtype=np.float32)

    result, found = unpack_embedding(pack_embedding(VERSION, [1, 2], user), version, rows, dim)

    assert result == expected
    assert found is None or found.tolist() == user.tolist()


def test_fingerprint_tells_order_and_length_apart() -> None:
    assert len({fingerprint(rows) for rows in ([], [0], [0, 0], [1, 2], [2, 1])}) == 5


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
