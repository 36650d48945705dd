"""A running service that explores: answers say which item it is, and what becomes of it can be told apart later."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from service.client import Client, Event
from tests.service.running import Running, run_command, wait_for
from tests.service.toy import described_items, write_toy

SHARE, N_NEW = 0.4, 12


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("explored")
    bundle = write_toy(folder / "bundle", items=described_items()).path
    with Running(bundle, folder / "data", explore=str(SHARE)) as running:
        items = [{"item_id": f"n{n}", "title": f"new {n}", "attributes": {"brand": "N"}} for n in range(N_NEW)]
        assert running.client.post("/items", json={"items": items}).json()["accepted"] == N_NEW
        yield running


def marked(items: list[dict[str, Any]]) -> list[int]:
    """The places of the items that are marked, from 0."""
    return [place for place, item in enumerate(items) if "explored" in item]


def batch(service: Running, request: dict[str, Any], n: int) -> list[dict[str, Any]]:
    return [answer for _ in range(n // 100) for answer in service.batch(*[request] * 100)]


def test_what_is_shown_is_told_with_the_share_of_new_items(service: Running) -> None:
    def told() -> tuple[float, float]:
        made, live = (service.metric("retort_shown_items_total", kind=kind) for kind in ("made", "live"))
        return made, live

    wait_for(lambda: sum(told()) == 10 * service.metric("retort_recommendations_total"))  # lists of tests before
    made, live = told()

    answers = batch(service, {"history": ["i1", "i2"], "k": 10}, 1000)

    n_new = sum(item["item_id"].startswith("n") for answer in answers for item in answer["items"])
    wait_for(lambda: sum(told()) == made + live + 10_000)
    assert told() == (made + 10_000 - n_new, live + n_new)
    assert service.metric("retort_new_items") == N_NEW
    assert 10 / (60 + N_NEW) < service.metric("retort_shown_coverage") <= 1
    assert 0.2 < service.metric("retort_shown_gini") < 1


def test_share_of_the_answers_is_marked_and_counted(service: Running) -> None:
    before = service.metric("retort_explored_places_total")
    plain = next(
        answer for answer in batch(service, {"history": ["i1", "i2"], "k": 10}, 100) if not marked(answer["items"])
    )
    more = service.metric("retort_explored_places_total")

    answers = batch(service, {"history": ["i1", "i2"], "k": 10}, 1000)

    explored = [answer for answer in answers if marked(answer["items"])]
    assert abs(len(explored) - 1000 * SHARE) <= 4.5 * math.sqrt(1000 * SHARE * (1 - SHARE))
    assert service.metric("retort_explored_places_total") == more + len(explored) > before
    assert {place for answer in explored for place in marked(answer["items"])} == set(range(5, 10))
    for answer in answers:
        changed = [
            n for n, (one, other) in enumerate(zip(answer["items"], plain["items"], strict=True)) if one != other
        ]
        assert changed == marked(answer["items"])
        assert all(answer["items"][place]["item_id"].startswith("n") for place in changed)
    document = service.client.get("/openapi.json").json()
    jsonschema.validate(explored[0], {**document, "$ref": "#/components/schemas/RecommendResponse"})


def test_explored_item_obeys_filter_and_max_per_and_further_pages_are_plain(service: Running) -> None:
    history = ["i1", "i2"]
    rest = batch(service, {"history": history, "k": 10, "filter": {"not": {"brand": "N"}}}, 100)
    capped = batch(service, {"history": history, "k": 10, "max_per": [{"attribute": "brand", "n": 4}]}, 100)
    paged = batch(service, {"history": history, "k": 10, "offset": 10}, 100)

    assert not any(marked(answer["items"]) for answer in [*rest, *paged])
    assert any(marked(answer["items"]) for answer in capped)
    for answer in capped:
        assert sum(item["item_id"].startswith("n") for item in answer["items"]) <= 4


def test_explained_answer_explains_the_explored_item_too(service: Running) -> None:
    asked = {"history": ["i1", "i2", "i3"], "k": 6, "explain": True, "debug": True}
    answers = [answer for answer in batch(service, asked, 100) if marked(answer["items"])]

    for answer in answers[:10]:
        (place,) = marked(answer["items"])
        item = answer["items"][place]
        assert sum(item["parts"].values()) == pytest.approx(item["score"], abs=1e-6)
        assert all(0 <= cause["share"] <= 1 for cause in item["because"])
        assert len(answer["debug"]["funnel"]) == 6
    plain = {item for answer in answers for each in answer["items"] for cause in each["because"]
             for item in [json.dumps(cause["without"]["items"])]}  # fmt: skip
    assert len(plain) <= 3  # one list for each item of the history, whatever was explored


def test_slots_of_a_page_share_no_item(service: Running) -> None:
    slots = [{"name": f"s{n}", "k": 6} for n in range(4)] + [{"name": "like", "k": 4, "similar_to": "i3"}]
    n_marked = 0
    for _ in range(20):
        page = service.client.post("/page", json={"history": ["i1", "i2"], "slots": slots}).json()
        shown = [item["item_id"] for slot in page["slots"] for item in slot["items"]]
        assert len(shown) == len(set(shown)) == 28
        for slot in page["slots"]:
            assert all(place >= len(slot["items"]) // 2 for place in marked(slot["items"]))
            n_marked += len(marked(slot["items"]))

    assert abs(n_marked - 100 * SHARE) <= 4.5 * math.sqrt(100 * SHARE * (1 - SHARE))


def test_event_of_an_explored_item_says_so_to_training(service: Running, tmp_path: Path) -> None:
    with Client(service.url) as client:
        answer = client.recommend(user_id="anna")
        while not any(item.is_explored for item in answer.items):
            answer = client.recommend(user_id="anna")
        for position, item in enumerate(answer.items, start=1):
            client.track(
                Event("anna", item.item_id, "impression", position=position, explored=item.is_explored or None,
                      recommendation_id=answer.recommendation_id)
            )  # fmt: skip
    out = tmp_path / "events.csv"

    assert run_command("export", str(out), "--data-dir", str(service.data_dir)).returncode == 0

    header, *rows = out.read_text().splitlines()
    assert header.split(",")[-1] == "explored"
    assert [row.split(",")[1] for row in rows if row.endswith(",True")] == [
        item.item_id for item in answer.items if item.is_explored
    ]


def test_nothing_is_explored_unless_it_is_asked_for(shared_service: Running) -> None:
    shared_service.client.put("/items/new", json={"title": "new"})

    answers = batch(shared_service, {"history": ["i1"], "k": 10}, 100)

    assert not any(marked(answer["items"]) for answer in answers)
    shared_service.client.delete("/items/new")
