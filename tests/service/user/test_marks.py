"""Events that hide, undo, or only go to the stream: what they do, that they do it once, and that they do it at once."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import tie_hash
from tests.service.running import Running, wait_for

ITEMS = [f"i{n}" for n in range(60)]
EFFECTS = {"impression": "stream", "dislike": "hide", "hide": "hide", "remove": "undo"}
NUMBER = count()


def kept_of(service: Running, user: str) -> dict[str, Any]:
    return service.client.get(f"/users/{user}").json()


def shown_to(service: Running, user: str, **fields: Any) -> set[str]:
    return {item["item_id"] for item in service.recommend(user_id=user, k=60, **fields)["items"]}


def plainly(user: str, events: Sequence[Mapping[str, Any]]) -> tuple[list[str], set[str], int]:
    """The rules, read slowly: the items of the history, the hidden ones, and how many events were new."""
    first: dict[tuple[str, str, Any], Mapping[str, Any]] = {}
    for event in events:
        effect = EFFECTS.get(event.get("type", ""), "history")
        shelf = effect if effect in ("hide", "undo", "stream") else "history"
        first.setdefault((shelf, event["item_id"], event.get("event_id", event["timestamp"])), event)
    order = {"history": 0, "hide": 1, "undo": 2}
    alive = {(event["timestamp"], order[shelf], item) for (shelf, item, _), event in first.items() if shelf in order}
    for at, what, item in sorted(alive):
        if what == 2:
            before = [each for each in alive if each[2] == item and each[0] <= at and each[1] != 2]
            if before:
                alive.remove(max(before))
    entered = sorted((at, tie_hash(user, item), item) for at, what, item in alive if what == 0)
    return [item for _, _, item in entered], {item for _, what, item in alive if what == 1}, len(first)


EVENT = st.fixed_dictionaries(
    {"item_id": st.sampled_from(["i1", "i2", "i3"]), "timestamp": st.integers(1, 8)},
    optional={
        "type": st.sampled_from(["view", "impression", "dislike", "hide", "remove"]),
        "event_id": st.sampled_from(["e1", "e2", "e3"]),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENT, min_size=1, max_size=14), cut=st.integers(0, 14))
def test_any_events_give_the_history_and_the_hidden_items_of_the_rules(
    shared_service: Running, events: list[dict[str, Any]], cut: int
) -> None:
    user = f"rules-{next(NUMBER)}"
    mine = [{"user_id": user, **event} for event in events]
    item_ids, hidden, n_new = plainly(user, events)

    parts = [part for part in (mine[:cut], mine[cut:]) if part]
    answers = [shared_service.send(*part) for part in parts]
    again = shared_service.send(*mine)
    kept = kept_of(shared_service, user)

    assert sum(answer["accepted"] for answer in answers) == n_new
    assert (again["accepted"], again["duplicates"]) == (0, len(mine))
    entered = list(dict.fromkeys((event["timestamp"], event["item_id"]) for event in kept["history"]))
    assert [item_id for _, item_id in entered] == item_ids
    assert {event["item_id"] for event in kept["hidden"]} == hidden
    for _ in range(2):  # from the history, and perhaps from the record that was made of it
        assert shown_to(shared_service, user, exclude_seen=False) == set(ITEMS) - hidden
        assert shown_to(shared_service, user, exclude_seen=True) == set(ITEMS) - hidden - set(item_ids)


@pytest.mark.parametrize("type_", ["dislike", "hide"])
def test_hidden_item_is_never_shown_again_whatever_the_request_says(shared_service: Running, type_: str) -> None:
    user = f"hides-{type_}"
    shared_service.send({"user_id": user, "item_id": "i3", "timestamp": 5})
    before = shown_to(shared_service, user)

    shared_service.send({"user_id": user, "item_id": "i9", "timestamp": 6, "type": type_})

    assert "i9" in before
    wait_for(lambda: shared_service.metric("retort_embedding_cache_total", result="hit"))
    for fields in ({}, {"exclude_seen": False}, {"candidates": ["i9", "i8"]}, {"budget_ms": 1000}):
        assert "i9" not in shown_to(shared_service, user, **fields)
    assert shown_to(shared_service, user, candidates=["i9", "i8"]) == {"i8"}


def test_user_who_only_hides_gets_popular_items_without_them_in_one_round_trip(shared_service: Running) -> None:
    user = "only-hides"
    shared_service.send({"user_id": user, "item_id": "i0", "type": "dislike"})
    first = shared_service.recommend(user_id=user, k=3)
    with shared_service.store() as store:
        wait_for(lambda: len(store.get(f"retort:{{{user}}}:e") or b"") > 40)
    n_hits = shared_service.metric("retort_embedding_cache_total", result="hit")

    second = shared_service.ask(user_id=user, k=3)

    for answer in (first, second):
        assert [item["item_id"] for item in answer["items"]] == ["i1", "i2", "i3"]
        assert answer["quality"] == {"level": "fallback", "reasons": ["cold_user"]}
    assert shared_service.metric("retort_embedding_cache_total", result="hit") == n_hits + 1


def test_history_that_was_all_taken_back_is_that_of_a_new_user(shared_service: Running) -> None:
    user = "takes-back"
    shared_service.send({"user_id": user, "item_id": "i3", "timestamp": 5})
    known = shared_service.recommend(user_id=user)
    shared_service.send({"user_id": user, "item_id": "i3", "timestamp": 6, "type": "remove"})

    after = [shared_service.recommend(user_id=user, k=60) for _ in range(2)]

    assert known["quality"]["level"] == "full"
    assert [answer["quality"]["reasons"] for answer in after] == [["cold_user"]] * 2
    assert len(after[0]["items"]) == 60


def test_item_removed_from_hiding_is_shown_again(shared_service: Running) -> None:
    user = "forgives"
    shared_service.send({"user_id": user, "item_id": "i9", "timestamp": 1, "type": "hide"})
    hidden = shown_to(shared_service, user)
    shared_service.send({"user_id": user, "item_id": "i9", "timestamp": 2, "type": "remove"})

    assert "i9" not in hidden
    assert "i9" in shown_to(shared_service, user)


def test_event_that_was_removed_does_not_come_back_and_a_removal_sent_again_removes_no_other(
    shared_service: Running,
) -> None:
    user = "sends-again"
    views = [{"user_id": user, "item_id": "i3", "timestamp": at, "event_id": f"v{at}", "type": "view"} for at in (1, 2)]
    removal = {"user_id": user, "item_id": "i3", "timestamp": 3, "event_id": "r", "type": "remove"}
    shared_service.send(*views, removal)

    again = shared_service.send(views[1], removal, removal)
    kept = kept_of(shared_service, user)

    assert (again["accepted"], again["duplicates"]) == (0, 3)
    assert [event["key"] for event in kept["history"]] == ["v1"]
    assert [event["key"] for event in kept["removed"]] == ["v2"]
    assert [event["key"] for event in kept["removals"]] == ["r"]


def test_view_hide_and_removal_stamped_on_arrival_together_are_three_events(shared_service: Running) -> None:
    user = "at-once"

    answer = shared_service.send(
        *[{"user_id": user, "item_id": "i3", "type": type_} for type_ in ("view", "hide", "remove", "impression")]
    )
    kept = kept_of(shared_service, user)

    assert answer["accepted"] == 4
    assert [event["type"] for event in kept["history"]] == ["view"]
    assert (kept["hidden"], [event["type"] for event in kept["removed"]]) == ([], ["hide"])


def test_event_that_arrives_after_its_removal_is_undone_all_the_same(shared_service: Running) -> None:
    user = "out-of-order"
    removal = {"user_id": user, "item_id": "i3", "timestamp": 9, "type": "remove"}
    shared_service.send(removal)

    late = shared_service.send({"user_id": user, "item_id": "i3", "timestamp": 8})
    later = shared_service.send({"user_id": user, "item_id": "i3", "timestamp": 10})

    assert (late["accepted"], later["accepted"]) == (1, 1)
    assert [event["timestamp"] for event in kept_of(shared_service, user)["history"]] == [10.0]


def test_impression_goes_to_the_stream_once_and_nowhere_else(shared_service: Running) -> None:
    user = "looks"
    seen = {"user_id": user, "item_id": "i3", "timestamp": 5, "type": "impression"}
    with shared_service.store() as store:
        n_before = store.xlen("retort:events")
        answers = [shared_service.send(seen) for _ in range(2)]
        n_entries = store.xlen("retort:events") - n_before
        life_s = store.ttl(f"retort:{{{user}}}:n")
    kept = kept_of(shared_service, user)

    assert [answer["accepted"] for answer in answers] == [1, 0]
    assert answers[1]["duplicates"] == 1
    assert n_entries == 1
    assert 86_000 < life_s <= 86_400
    assert (kept["count"], kept["history"], kept["stream_only"]) == (0, [], 1)
    assert shared_service.recommend(user_id=user)["quality"]["reasons"] == ["cold_user"]


def test_hidden_item_stays_hidden_behind_a_full_history(shared_service: Running) -> None:
    user = "hides-and-buys"
    shared_service.send({"user_id": user, "item_id": "i55", "timestamp": 1, "type": "hide"})
    shared_service.send(*[{"user_id": user, "item_id": f"i{n % 50}", "timestamp": 10 + n} for n in range(600)])

    kept = kept_of(shared_service, user)

    assert (kept["count"], len(kept["hidden"])) == (500, 1)
    assert "i55" not in shown_to(shared_service, user)


def test_types_are_forgotten_with_their_events(shared_service: Running) -> None:
    user = "typed-and-full"
    events = [{"user_id": user, "item_id": f"i{n % 50}", "timestamp": 10 + n, "type": "view"} for n in range(600)]
    shared_service.send(*events)

    with shared_service.store() as store:
        assert store.hlen(f"retort:{{{user}}}:t") == store.zcard(f"retort:{{{user}}}:h") == 500


def test_erasure_takes_every_key_of_a_user(shared_service: Running) -> None:
    user = "erased-whole"
    types = ("view", "hide", "remove", "impression")
    shared_service.send(*[{"user_id": user, "item_id": "i3", "timestamp": 5, "type": type_} for type_ in types])
    shared_service.recommend(user_id=user)
    with shared_service.store() as store:
        wait_for(lambda: store.exists(f"retort:{{{user}}}:e"))
        before = sorted(key.rpartition(b":")[2] for key in store.keys(f"retort:{{{user}}}:*"))

        answer = shared_service.client.delete(f"/users/{user}").json()

        assert before == [b"e", b"h", b"n", b"s", b"t", b"x"]
        assert store.keys(f"retort:{{{user}}}:*") == []
    assert answer["keys_erased"] == 5
    assert answer["event_stream"] == {"erased": 4, "complete": True}


def test_keys_of_another_type_are_replaced_and_stop_no_answer(shared_service: Running) -> None:
    user = "wrong-types"
    shared_service.send({"user_id": user, "item_id": "i3", "timestamp": 5})
    with shared_service.store() as store:
        for kind in "xnt":
            store.set(f"retort:{{{user}}}:{kind}", "other")
    level = shared_service.recommend(user_id=user)["quality"]["level"]

    shared_service.send({"user_id": user, "item_id": "i9", "timestamp": 6, "type": "hide"})

    assert level == "full"
    assert [event["type"] for event in kept_of(shared_service, user)["hidden"]] == ["hide"]
    assert "i9" not in shown_to(shared_service, user)


def test_marks_of_another_user_are_never_answered_from(shared_service: Running) -> None:
    shared_service.send({"user_id": "hider", "item_id": "i0", "type": "hide"})
    shared_service.recommend(user_id="hider")
    with shared_service.store() as store:
        wait_for(lambda: len(store.get("retort:{hider}:e") or b"") > 40)
        for kind in ("x", "e"):
            store.copy(f"retort:{{hider}}:{kind}", f"retort:{{other-hider}}:{kind}")
    n_before = shared_service.metric("retort_store_errors_total", kind="decode")

    assert "i0" in shown_to(shared_service, "other-hider")
    assert shared_service.metric("retort_store_errors_total", kind="decode") > n_before


def test_data_of_before_the_marks_are_read_as_they_were(shared_service: Running) -> None:
    user = "of-old"
    with shared_service.store() as store:
        member = tie_hash(user, "i7") + b"i7\x001000"
        store.zadd(f"retort:{{{user}}}:h", {member: 1.0})

    again = shared_service.send({"user_id": user, "item_id": "i7", "timestamp": 1, "type": "view"})

    assert again["duplicates"] == 1
    assert kept_of(shared_service, user)["history"] == [
        {"item_id": "i7", "timestamp": 1.0, "key": "1000", "type": None}
    ]
