"""Many lists at once: POST /recommend/batch and POST /page, held against POST /recommend one at a time."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.running import KEY, Running, stopped, wait_for
from tests.service.toy import described_items, write_toy

RULES: list[dict[str, Any]] = [
    {}, {}, {}, {"filter": {"brand": "A"}}, {"filter": {"tag": ["new"]}}, {"exclude": ["i3", "gone"]},
    {"boost": [{"if": {"tag": "red"}, "by": 4.0}]}, {"max_per": [{"attribute": "brand", "n": 2}]}, {"diversity": 0.5},
    {"pin": [{"item_id": "i9", "position": 1}]}, {"candidates": [f"i{row}" for row in range(25)]},
    {"scenario": "calm"}, {"similar_to": "i4"}, {"similar_to": ["i5", "gone"], "scenario": "calm"},
    {"fields": ["title"]}, {"exclude_seen": False},
]  # fmt: skip
CALM: dict[str, Any] = {"k": 4, "diversity": 0.4, "filter": {"brand": ["B", "C"]}}
HISTORIES = [["i1", "i2"], ["i7"], [], ["gone"], ["i3", "i4", "i5", "i6", "i7"]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("many")
    items = [replace(item, numbers={}, booleans={}) for item in described_items()]
    with Running(write_toy(folder / "bundle", items=items).path, folder / "data") as running:
        put = running.client.put("/scenarios/calm", json=CALM)
        assert put.status_code == 200, put.text
        running.send(*[{"user_id": "u", "item_id": f"i{row}", "timestamp": 1000 + row} for row in range(5)])
        yield running


def post(service: Running, path: str, body: Any) -> dict[str, Any]:
    response = service.client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def alone(service: Running, body: dict[str, Any]) -> dict[str, Any]:
    """Ask for one list, by POST /similar where it is to go with items."""
    if (near := body.get("similar_to")) is None:
        return service.client.post("/recommend", json=body).json()
    calm = CALM if body.get("scenario") else {}
    asked = {name: value for name, value in body.items() if name not in ("similar_to", "scenario")}
    item_ids = [near] if isinstance(near, str) else near
    return service.client.post("/similar", json={**calm, **asked, "item_ids": item_ids}).json()


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what is of the moment."""
    return {name: value for name, value in answer.items() if name not in ("recommendation_id", "took_ms")}


LISTS = [rule for rule in RULES if "similar_to" not in rule]


def test_batch_answers_each_request_as_if_it_were_alone(service: Running) -> None:
    rng = random.Random(1)
    requests: list[Any] = [
        {"history": rng.choice(HISTORIES), "k": rng.choice([1, 5, 60]), **rng.choice(LISTS)} for _ in range(60)
    ]
    requests += [
        {"user_id": "u"}, {"user_id": "nobody", "k": 2}, {"k": 5}, {"history": [], "k": 0},
        {"history": [], "colour": 1},
        {"history": [], "scenario": "clam"}, {"history": [], "filter": {"brnd": 1}}, {"history": ["i1"], "k": 2.0},
        {"history": ["i1"], "offset": 3, "debug": False},
    ]  # fmt: skip

    answers = post(service, "/recommend/batch", {"requests": requests})["answers"]

    assert len(answers) == len(requests)
    for asked, answer in zip(requests, answers, strict=True):
        assert lasting(answer) == lasting(alone(service, asked))
    assert sum("error" in answer for answer in answers) == 5
    assert len({answer["recommendation_id"] for answer in answers if "error" not in answer}) == len(requests) - 5


def test_batch_explains_so_many_items_and_says_which_requests_are_too_many(service: Running) -> None:
    explained, plain = {"history": ["i1", "i2"], "k": 40, "explain": True}, {"history": ["i1"], "k": 40}

    answers = post(service, "/recommend/batch", {"requests": [explained, plain] * 30})["answers"]

    assert ["error" in answer for answer in answers] == [False] * 50 + [True, False] * 5
    assert answers[50]["error"]["details"][0]["field"] == "explain"
    assert "1000 items are explained at most, and 0 are left" in answers[50]["error"]["message"]


def test_similar_knows_no_scenario_and_says_so(service: Running) -> None:
    refused = service.client.post("/similar", json={"item_id": "i3", "scenario": "calm"})

    assert refused.status_code == 422
    assert refused.json()["error"]["details"][0]["field"] == "scenario"


@pytest.mark.parametrize(
    "body", [{}, [], {"requests": []}, {"requests": [{"history": []}] * 101}, {"requests": {}, "k": 1}, {"requests": 5}]
)
def test_batch_of_another_form_is_refused(service: Running, body: Any) -> None:
    response = service.client.post("/recommend/batch", json=body)

    assert response.status_code == 422
    assert "1 to 100 requests" in response.json()["error"]["message"]


def test_batch_may_hold_anything_and_answers_it_in_its_place(service: Running) -> None:
    listed = [None, 5, "x", [], {}, {"user_id": "u", "k": 1}, {"history": ["i1"] * 201}, {"user_id": "\n"}]

    answers = post(service, "/recommend/batch", {"requests": listed})["answers"]

    assert ["error" in answer for answer in answers] == [True] * 5 + [False, True, True]


def test_batch_of_heavy_requests_keeps_nobody_out(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", items=described_items())
    heavy = {"history": [f"i{row}" for row in range(9)], "k": 10, "explain": True, "diversity": 0.5}
    settings = {"max_in_flight": "8", "api_keys": f"{KEY},{KEY}-of-another", "budget_ms": "1000"}
    with Running(bundle.path, tmp_path / "data", **settings) as service, ThreadPoolExecutor(1) as pool:
        service.client.headers["X-API-Key"] = KEY
        others = httpx.Client(base_url=service.url, headers={"X-API-Key": f"{KEY}-of-another"}, trust_env=False)
        batch = pool.submit(post, service, "/recommend/batch", {"requests": [heavy] * 100})
        statuses = {others.post("/recommend", json={"history": ["i1"], "k": 3}).status_code for _ in range(5)}
        while not batch.done():
            statuses.add(others.post("/recommend", json={"history": ["i1"], "k": 3}).status_code)
        others.close()

        assert statuses == {200}
        assert ["items" in answer for answer in batch.result()["answers"]] == [True] * 100


def test_batch_is_counted_by_its_number_and_looks_into_the_store_as_often_as_its_batches(service: Running) -> None:
    def counts() -> tuple[float, float]:
        answers = service.metric("retort_recommendations_total")
        return answers, service.metric("retort_store_operation_duration_seconds_count", op="read")

    before = counts()
    post(service, "/recommend/batch", {"requests": [{"user_id": f"new-{number}"} for number in range(30)]})
    after = counts()

    assert after[0] - before[0] == 30
    assert after[1] - before[1] <= 3


def test_batch_costs_as_many_requests_as_it_has(tmp_path: Path, toy_bundle: Path) -> None:
    with Running(toy_bundle, tmp_path, rate_per_s="10", api_keys=KEY) as service:
        headers, body = {"X-API-Key": KEY}, {"requests": [{"history": ["i1"]}] * 100}
        first = service.client.post("/recommend/batch", json=body, headers=headers)
        second = service.client.post("/recommend", json={"history": ["i1"]}, headers=headers)

    assert (first.status_code, second.status_code) == (200, 429)


def expected_page(service: Running, who: dict[str, Any], slots: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fill a page the plain way: each slot is a request that excludes what the slots before it show."""
    shown: list[str] = []
    filled = []
    for slot in slots:
        asked = {name: value for name, value in slot.items() if name != "name"}
        answer = alone(service, {**who, **asked, "exclude": [*asked.get("exclude", []), *shown]})
        assert "items" in answer, answer
        shown += [item["item_id"] for item in answer["items"]]
        filled.append(answer)
    return filled


@pytest.mark.parametrize("seed", range(12))
def test_page_is_filled_as_the_plain_way_would(service: Running, seed: int) -> None:
    rng = random.Random(seed)
    who = {"user_id": "u"} if seed % 4 == 0 else {"history": rng.choice(HISTORIES)}
    slots = [
        {"name": f"slot {place}", "k": rng.choice([1, 3, 5, 20]), **rng.choice(RULES)}
        for place in range(rng.choice([1, 2, 5, 9]))
    ]
    if seed % 3 == 0:
        slots[-1].pop("k")

    page = post(service, "/page", {**who, "slots": slots})
    expected = expected_page(service, who, slots)

    assert [slot["name"] for slot in page["slots"]] == [slot["name"] for slot in slots]
    for slot, answer in zip(page["slots"], expected, strict=True):
        names = ("items", "quality", "dropped_pins", "funnel")
        assert {name: slot[name] for name in names if name in slot} == {
            name: answer[name] for name in names if name in answer
        }
    shown = [item["item_id"] for slot in page["slots"] for item in slot["items"]]
    assert len(set(shown)) == len(shown)
    assert page["user_id"] == who.get("user_id")
    assert page["ignored_ids"] == list(dict.fromkeys(each for answer in expected for each in answer["ignored_ids"]))


def test_page_that_need_not_be_distinct_gives_each_list_as_if_alone(service: Running) -> None:
    slots = [{"name": str(place), "k": 6, **rule} for place, rule in enumerate(RULES)]

    page = post(service, "/page", {"history": ["i1", "i2"], "distinct": False, "slots": slots})

    for slot, asked in zip(page["slots"], slots, strict=True):
        request = {name: value for name, value in asked.items() if name != "name"}
        assert slot["items"] == alone(service, {"history": ["i1", "i2"], **request})["items"]


def test_page_looks_into_the_store_once_and_encodes_once(service: Running) -> None:
    def counts() -> list[float]:
        text = service.client.get("/metrics").text
        names = ("retort_batch_size_sum", "retort_recommendations_total")
        totals = [sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)) for name in names]
        return [*totals, service.metric("retort_store_operation_duration_seconds_count", op="read")]

    service.send({"user_id": "fresh", "item_id": "i3", "timestamp": 5})
    slots = [{"name": str(place), "k": 3, **rule} for place, rule in enumerate(LISTS)]
    before = counts()
    post(service, "/page", {"user_id": "fresh", "budget_ms": 1000, "slots": slots})
    after = counts()

    encoded, answered, read = (new - old for new, old in zip(after, before, strict=True))
    assert (encoded, answered) == (1, len(slots))
    assert read <= 2, "the record, and the history where there is none"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"slots": []}, "slots"), ({"slots": [{"name": "a"}] * 21}, "slots"), ({}, "slots"),
        ({"slots": [{"name": "a"}, {"name": "a"}]}, "slots"), ({"slots": [{"k": 5}]}, "slots.0.name"),
        ({"slots": [{"name": "a", "budget_ms": 5}]}, "slots.0.budget_ms"),
        ({"slots": [{"name": "a", "user_id": "u"}]}, "slots.0.user_id"),
        ({"slots": [{"name": "a"}, {"name": "b", "filter": {"brnd": 1}}]}, "slots.1.filter.brnd"),
        ({"slots": [{"name": "a", "scenario": "clam"}]}, "slots.0.scenario"),
        ({"slots": [{"name": "a", "k": 0}]}, "slots.0.k"),
        ({"slots": [{"name": "a"}, {"name": "b", "similar_to": "gone"}]}, "slots.1.similar_to"),
        ({"slots": [{"name": "a"}], "budget_ms": 0}, "budget_ms"), ({"slots": [{"name": "a"}], "k": 3}, "k"),
    ],
)  # fmt: skip
def test_page_that_is_wrong_is_refused_by_field(service: Running, body: dict, field: str) -> None:
    response = service.client.post("/page", json={"history": ["i1"], **body})

    assert response.status_code == 422
    assert response.json()["error"]["details"][0]["field"] == field
    assert service.client.post("/page", json={"slots": [{"name": "a"}]}).status_code == 422


def test_page_without_a_store_or_time_says_so_in_each_slot(service: Running) -> None:
    slots = [{"name": str(place), "k": 4} for place in range(5)]
    body = {"user_id": "u", "slots": slots}
    post(service, "/page", body)
    with stopped(service.store_pid()):
        late = post(service, "/page", {**body, "budget_ms": 200})
        gone = wait_for(lambda: _without_store(service, body))
    wait_for(lambda: service.recommend(user_id="u")["quality"]["level"] == "full")
    hurried = post(service, "/page", {**body, "budget_ms": 1})

    assert {slot["quality"]["level"] for slot in late["slots"]} == {"degraded"}
    assert {tuple(slot["quality"]["reasons"]) for slot in late["slots"]} == {("stale_profile", "store_timeout")}
    assert all(len(slot["items"]) == 4 for slot in late["slots"])
    assert all(slot["quality"]["reasons"] for slot in gone["slots"])
    assert {slot["quality"]["level"] for slot in hurried["slots"]} == {"fallback"}
    assert {tuple(slot["quality"]["reasons"]) for slot in hurried["slots"]} == {("deadline",)}
    shown = [item["item_id"] for slot in hurried["slots"] for item in slot["items"]]
    assert len(set(shown)) == len(shown) == 20


def _without_store(service: Running, body: dict[str, Any]) -> dict[str, Any] | None:
    """Ask for somebody whom the worker does not remember."""
    page = post(service, "/page", {**body, "user_id": "stranger"})
    return page if page["slots"][0]["quality"]["reasons"] == ["breaker_open"] else None


def test_bodies_are_bounded(service: Running) -> None:
    json = {"Content-Type": "application/json"}
    for path, most in (("/recommend/batch", 4 << 20), ("/page", 1 << 20)):
        large = service.client.post(path, content=b" " * (most + 1), headers=json)
        no_json = httpx.post(service.url + path, content=b"{}", trust_env=False)
        broken = service.client.post(path, content=b"{", headers=json)
        read = service.client.get(path)

        assert [each.status_code for each in (large, no_json, broken, read)] == [413, 415, 422, 405]
