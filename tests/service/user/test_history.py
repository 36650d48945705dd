"""Histories: order and identity of events are as in training, and only the newest are kept."""

import itertools

import pytest

from service.bundle import tie_hash
from service.user.event import StoredEvent
from service.user.history import History, Retention
from service.user.key import UserKeys
from tests.service.running import Running
from tests.service.store.test_client import open_store


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


def test_replay_of_what_a_full_history_has_dropped_is_told_and_not_accepted_twice(shared_service: Running) -> None:
    events = [{"user_id": "full-replay", "item_id": f"i{n % 60}", "timestamp": n} for n in range(1, 521)]
    with shared_service.store() as store:
        first = shared_service.send(*events)
        n_entries = store.xlen("retort:events")
        second = shared_service.send(*events)

        assert store.xlen("retort:events") == n_entries
    assert (first["accepted"], first["duplicates"], first["rejected"]) == (520, 0, [])
    assert (second["accepted"], second["duplicates"]) == (0, 500)
    assert [(refusal["index"], refusal["reason"]) for refusal in second["rejected"]] == [
        (index, "too_old") for index in range(20)
    ]


def test_event_as_old_as_the_oldest_kept_is_new_or_known_and_never_too_old(shared_service: Running) -> None:
    user = "at-the-edge"
    shared_service.send(*[{"user_id": user, "item_id": f"i{n % 60}", "timestamp": n} for n in range(1, 501)])

    oldest = shared_service.send({"user_id": user, "item_id": "i1", "timestamp": 1})
    newer = shared_service.send({"user_id": user, "item_id": "i2", "timestamp": 1.5})
    older = shared_service.send({"user_id": user, "item_id": "i1", "timestamp": 1})

    assert (oldest["accepted"], oldest["duplicates"]) == (0, 1)
    assert (newer["accepted"], newer["rejected"]) == (1, [])
    assert [refusal["reason"] for refusal in older["rejected"]] == ["too_old"]


async def test_loading_more_than_is_kept_again_loads_nothing(shared_service: Running) -> None:
    store = open_store(shared_service)
    history = History(store, UserKeys("loaded"), Retention(events=5))
    group = [StoredEvent("u", "i1", n) for n in range(9)]

    assert [await history.load([group], 5) for _ in range(2)] == [9, 0]
    await store.close()
