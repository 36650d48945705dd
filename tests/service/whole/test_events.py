"""Events by their type in a running service: attribution, swaps, import and export, and answers without the store."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.service.running import SWAP_S, Running, run_command, wait_for
from tests.service.toy import write_toy, write_toy_sum

ANSWER = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"recommendation_id": ANSWER, "position": 1}, "whole"),
        ({"recommendation_id": ANSWER, "position": 1000.0}, "whole"),
        ({"recommendation_id": ANSWER}, "no_position"),
        ({"position": 3}, "no_recommendation"),
        ({"recommendation_id": "mine", "position": 1}, "unknown_form"),
        ({"recommendation_id": ANSWER.upper()}, "unknown_form"),
        ({"recommendation_id": ANSWER, "position": 0}, "position_out_of_range"),
        ({"recommendation_id": ANSWER, "position": -4}, "position_out_of_range"),
        ({"recommendation_id": ANSWER, "position": 1001}, "position_out_of_range"),
    ],
)
def test_attribution_is_accepted_counted_and_exported_as_it_was_sent(
    shared_service: Running, fields: dict[str, Any], result: str
) -> None:
    event = {"user_id": f"attributed-{fields}", "item_id": "i1", "timestamp": 5, "type": "click", **fields}
    before = shared_service.metric("retort_event_attributions_total", result=result)

    answers = [shared_service.send(event) for _ in range(2)]

    assert [(answer["accepted"], answer["duplicates"]) for answer in answers] == [(1, 0), (0, 1)]
    assert shared_service.metric("retort_event_attributions_total", result=result) == before + 1
    with shared_service.store() as store:
        (_, entry), *_ = store.xrevrange("retort:events", count=1)
    stored = json.loads(entry[b"event"])
    assert {name: stored[name] for name in fields} == fields


@pytest.mark.parametrize("position", ["1", 1.5, True, 10**10, -(10**10), [1]])
def test_position_that_is_no_place_is_rejected_by_name(shared_service: Running, position: Any) -> None:
    good = {"user_id": "places", "item_id": "i1", "timestamp": 1}

    answer = shared_service.send(good, {**good, "timestamp": 2, "position": position})

    assert answer["accepted"] + answer["duplicates"] == 1
    (refusal,) = answer["rejected"]
    assert (refusal["index"], refusal["reason"]) == (1, "invalid")
    assert refusal["message"].startswith("position: ")


def test_effects_of_new_events_are_counted(shared_service: Running) -> None:
    def counts() -> list[float]:
        effects = ("history", "stream", "hide", "undo")
        return [shared_service.metric("retort_event_effects_total", effect=effect) for effect in effects]

    before, user = counts(), "effects-counted"
    types = ["view", "view", "impression", "hide", "dislike", "remove", None]
    events = [{"user_id": user, "item_id": "i1", "type": type_, "timestamp": n} for n, type_ in enumerate(types)]
    for _ in range(2):
        shared_service.send(*events)

    assert [now - then for now, then in zip(counts(), before, strict=True)] == [3, 1, 2, 1]


def test_hidden_items_stay_hidden_while_the_store_is_away(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        service.send(
            {"user_id": "known", "item_id": "i3", "timestamp": 1},
            {"user_id": "known", "item_id": "i9", "timestamp": 2, "type": "hide"},
            {"user_id": "only-hides", "item_id": "i0", "timestamp": 2, "type": "hide"},
        )
        for user in ("known", "only-hides"):
            service.recommend(user_id=user)
        os.kill(service.store_pid(), signal.SIGSTOP)
        answers = {user: service.recommend(user_id=user, k=60) for user in ("known", "only-hides", "nobody")}
        refused = service.client.post("/events", json={"events": [{"user_id": "u", "item_id": "i1", "type": "hide"}]})
        os.kill(service.store_pid(), signal.SIGCONT)

    shown = {user: {item["item_id"] for item in answer["items"]} for user, answer in answers.items()}
    assert answers["known"]["quality"]["level"] == "degraded"
    assert "i9" not in shown["known"]
    assert answers["only-hides"]["quality"]["level"] == "fallback"
    assert "i0" not in shown["only-hides"] and "i9" in shown["only-hides"]
    assert len(shown["nobody"]) == 60
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")


def test_types_of_a_bundle_apply_to_what_is_written_after_it_is_live(toy_bundle: Path, tmp_path: Path) -> None:
    other = write_toy(tmp_path / "other", history_types={"buy": 1, "skip": "hide"})
    events = [("i1", "click"), ("i2", "skip"), ("i3", "buy"), ("i4", "hide"), ("i5", None)]

    def send(service: Running, user: str) -> dict[str, Any]:
        for at, (item, type_) in enumerate(events):
            service.send({"user_id": user, "item_id": item, "type": type_, "timestamp": at})
        return service.client.get(f"/users/{user}").json()

    def shown(kept: dict[str, Any]) -> tuple[list[str], list[str], int]:
        history, hidden = ([event["item_id"] for event in kept[name]] for name in ("history", "hidden"))
        return history, hidden, kept["stream_only"]

    with Running(toy_bundle, tmp_path / "data") as service:
        before = send(service, "before")
        types_before = service.client.get("/model").json()["history_types"]
        done = run_command("publish", str(other.path), "--data-dir", str(tmp_path / "data"), "--wait", str(SWAP_S))
        assert done.returncode == 0, done.stderr
        types_after = service.client.get("/model").json()["history_types"]
        after = send(service, "after")
        still = service.client.get("/users/before").json()

    assert shown(before) == (["i1", "i2", "i3", "i5"], ["i4"], 0)
    assert shown(after) == (["i3"], ["i2", "i4"], 2)
    assert shown(still) == shown(before)
    built_in = {"impression": 0, "dislike": "hide", "hide": "hide", "remove": "undo"}
    assert types_before == {**built_in, "*": 1}
    assert types_after == {**built_in, "*": 0, "buy": 1, "skip": "hide"}


@pytest.mark.parametrize("name", ["events.jsonl.gz", "events.csv"])
def test_export_and_import_keep_types(toy_bundle: Path, tmp_path: Path, name: str) -> None:
    steps = [("i1", "view", 1), ("i2", "hide", 2), ("i1", "remove", 3), ("i3", "impression", 4), ("i4", None, 5),
             ("i2", "view", 2)]  # fmt: skip
    events = [
        {"user_id": "moves", "item_id": item, "type": type_, "timestamp": at, "position": at}
        for item, type_, at in steps
    ]
    with Running(toy_bundle, tmp_path / "one") as service:
        service.send(*events)
        expected = service.client.get("/users/moves").json()
        exported = run_command("export", str(tmp_path / name), "--data-dir", str(tmp_path / "one"))
    imported = run_command("import", str(tmp_path / name), "--data-dir", str(tmp_path / "two"))
    again = run_command("import", str(tmp_path / name), "--data-dir", str(tmp_path / "two"))
    with Running(toy_bundle, tmp_path / "two") as service:
        found = service.client.get("/users/moves").json()

    assert (exported.returncode, imported.returncode) == (0, 0), exported.stderr + imported.stderr
    assert "exported 6 events" in exported.stderr
    assert "imported 5 events; 0 were already there or too old to be kept; 1 enter no history" in imported.stderr
    assert "imported 0 events; 5 were already there" in again.stderr
    for fields in ("history", "hidden", "removed", "removals"):
        assert found[fields] == expected[fields], fields
    assert (expected["stream_only"], found["stream_only"]) == (1, 0)


def test_import_goes_by_the_types_of_the_bundle_that_would_be_served(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", history_types={"buy": 1, "skip": "hide"})
    lines = [("i1", "click"), ("i2", "skip"), ("i3", "buy"), ("i4", None)]
    (tmp_path / "h.jsonl").write_text(
        "".join(json.dumps({"user_id": "u", "item_id": i, "event": e, "timestamp": 1}) + "\n" for i, e in lines)
    )

    done = run_command("import", str(tmp_path / "h.jsonl"), bundle=str(bundle.path), data_dir=str(tmp_path / "data"))
    with Running(bundle.path, tmp_path / "data") as service:
        kept = service.client.get("/users/u").json()

    assert "imported 3 events" in done.stderr and "1 enter no history" in done.stderr
    assert sorted(event["item_id"] for event in kept["history"]) == ["i3", "i4"]
    assert [event["item_id"] for event in kept["hidden"]] == ["i2"]


@pytest.mark.parametrize("event", [7, "x" * 65, "a\u0000b"])
def test_import_refuses_a_type_that_is_none_by_line(tmp_path: Path, event: Any) -> None:
    (tmp_path / "h.jsonl").write_text(json.dumps({"user_id": "u", "item_id": "i", "timestamp": 1, "event": event}))

    done = run_command("import", str(tmp_path / "h.jsonl"), "--data-dir", str(tmp_path / "data"))

    assert done.returncode == 2
    assert "h.jsonl:1: " in done.stderr


def test_only_what_enters_histories_counts_in_the_trend(tmp_path: Path) -> None:
    bundle = write_toy_sum(tmp_path / "bundle")
    users = [f"u{n}" for n in range(30)]

    def best(service: Running) -> list[str]:
        return [item["item_id"] for item in service.recommend(user_id="nobody", k=60)["items"]]

    with Running(bundle.path, tmp_path / "data") as service:
        calm = best(service)
        last, other = calm[-1], calm[-2]
        for type_ in ("impression", "hide", "remove"):
            service.send(*[{"user_id": user, "item_id": last, "type": type_} for user in users])
        service.send(*[{"user_id": user, "item_id": other, "type": "view"} for user in users])
        wait_for(lambda: best(service)[-1] != calm[-1] or best(service).index(other) < 50)
        after = best(service)

    assert after.index(other) < 50
    assert after.index(last) == 59
