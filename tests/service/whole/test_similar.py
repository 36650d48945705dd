"""POST /similar, asked of a running service whose items have attributes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.bundle import Bundle, usual_rule
from service.recommendation.similar import PERSONAL
from tests.service.running import Running, stopped
from tests.service.toy import N_ITEMS, described_items, exact_scores, slow_similar, write_toy


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy(tmp_path_factory.mktemp("similar") / "bundle", items=described_items())


@pytest.fixture(scope="module")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("service")
    with Running(bundle.path, folder / "data") as running:
        yield running


def ids(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def best(bundle: Bundle, anchors: list[int], left: list[int], history: list[int] | None = None) -> list[str]:
    scores = slow_similar(bundle, usual_rule(None), anchors, [])
    if history:
        scores += PERSONAL * exact_scores(bundle.table, history)
    return [f"i{row}" for row in sorted(left, key=lambda row: -scores[row])]


def test_what_goes_with_items_is_asked_by_one_id_or_several(service: Running, bundle: Bundle) -> None:
    one, listed = service.similar(item_id="i3"), service.similar(item_ids=["i3", "i3"])
    several = service.similar(item_ids=["i3", "gone", "i4"], k=60)
    both = service.similar(item_id="i3", item_ids=["i4"], k=60)

    assert one["items"] == listed["items"]
    assert ids(one) == best(bundle, [3], [row for row in range(N_ITEMS) if row != 3])[:10]
    assert ids(several) == ids(both) == best(bundle, [3, 4], [row for row in range(N_ITEMS) if row not in (3, 4)])
    assert several["ignored_ids"] == ["gone"]
    assert several["funnel"] == {"catalogue": 60, "filter": 60, "seen": 58, "rules": 58, "returned": 58}
    assert several["quality"] == {"level": "full", "reasons": ["not_enough_items"]}


def test_everything_that_is_asked_of_a_list_holds(service: Running, bundle: Bundle) -> None:
    asked = {"item_id": "i3", "exclude": ["i6", "gone"], "filter": {"brand": ["A", "B"]}, "fields": ["brand"]}
    left = [row for row in range(N_ITEMS) if row not in (3, 6) and row % 3 != 2]

    filtered = service.similar(**asked, k=20)
    boosted = service.similar(**asked, k=20, boost=[{"if": {"tag": "new"}, "by": 1e6}], debug=True)
    capped = service.similar(**asked, k=20, max_per=[{"attribute": "brand", "n": 3}])
    diverse = service.similar(**asked, k=5, diversity=0.9)

    assert ids(filtered) == best(bundle, [3], left)[:20]
    assert {tuple(item["brand"]) for item in filtered["items"]} == {("A",), ("B",)}
    scores = {item["item_id"]: item["score"] for item in filtered["items"]}
    for item, parts in zip(boosted["items"], boosted["debug"]["parts"], strict=True):
        assert math.fsum(parts.values()) == pytest.approx(item["score"], abs=1e-9)
        if item["item_id"] in scores:
            is_new = int(item["item_id"][1:]) % 5 == 0
            assert item["score"] == pytest.approx(scores[item["item_id"]] + is_new * math.log(1e6), abs=1e-4)
    assert len(capped["items"]) == 6 and capped["quality"]["reasons"] == ["not_enough_items"]
    assert ids(diverse)[0] == ids(filtered)[0] and ids(diverse) != ids(filtered)[:5]


def test_user_makes_it_personal_by_the_stored_history_or_a_given_one(service: Running, bundle: Bundle) -> None:
    history = [f"i{row}" for row in (20, 30, 31)]
    service.send(*[{"user_id": "fan", "item_id": item, "timestamp": 5 + n} for n, item in enumerate(history)])
    unseen = [row for row in range(N_ITEMS) if row not in (3, 20, 30, 31)]

    first, stored, inline = (
        service.similar(item_id="i3", k=60, **more)
        for more in ({"user_id": "fan"}, {"user_id": "fan"}, {"history": history})
    )
    plain = service.similar(item_id="i3", k=60, history=history, exclude_seen=False)

    assert ids(first) == ids(stored) == ids(inline) == best(bundle, [3], unseen, [20, 30, 31])
    assert set(ids(plain)) == {f"i{row}" for row in range(N_ITEMS) if row != 3}
    assert service.recommend(user_id="fan")["items"] == service.recommend(history=history)["items"], "no mix is cached"


def test_hidden_items_stay_hidden(service: Running) -> None:
    top, *_ = ids(service.similar(item_id="i9", user_id="picky"))
    service.send({"user_id": "picky", "item_id": top, "type": "dislike"})

    answer = service.similar(item_id="i9", user_id="picky", k=60)

    assert top not in ids(answer)


def test_stranger_gets_what_everybody_gets(service: Running) -> None:
    answer = service.similar(item_id="i3", user_id="nobody")

    assert answer["items"] == service.similar(item_id="i3")["items"]
    assert answer["quality"] == {"level": "full", "reasons": ["cold_user"]}


def test_answer_is_given_inside_the_budget_or_is_what_is_popular(service: Running) -> None:
    answer = service.similar(item_id="i0", budget_ms=1, k=3)

    assert answer["quality"]["level"] in ("full", "fallback")
    if answer["quality"]["level"] == "fallback":
        assert ids(answer) == ["i1", "i2", "i3"], "the anchor is not in it"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "give item_id, or item_ids"),
        ({"item_ids": []}, "item_ids"),
        ({"item_ids": ["i1"] * 21}, "item_ids"),
        ({"item_id": "gone"}, 'item_id: nothing is known of "gone"'),
        ({"item_ids": ["a", "b", "c", "d", "e", "f"]}, 'item_ids: nothing is known of "a", "b", "c", "d", "e", ...'),
        ({"item_id": "i1", "candidates": ["i2"]}, "candidates"),
        ({"item_id": "i1", "offset": 3}, "offset"),
        ({"item_id": "i1", "filter": {"brnd": "A"}}, 'did you mean "brand"?'),
        ({"item_id": "i1", "k": 201}, "k: "),
        ([], ""),
    ],
)
def test_what_cannot_be_is_refused_and_named(service: Running, body: Any, message: str) -> None:
    response = service.client.post("/similar", json=body)

    assert response.status_code == 422
    assert message in response.json()["error"]["message"]


def test_requests_are_counted_under_their_own_route(service: Running) -> None:
    before = service.metric("retort_http_requests_total", route="/similar", code="200")
    service.ask("/similar", item_id="i3")

    assert service.metric("retort_http_requests_total", route="/similar", code="200") == before + 1


def test_stopped_store_costs_the_user_and_not_the_answer(service: Running) -> None:
    with stopped(service.store_pid()):
        answer = service.similar(item_id="i3", user_id="unheard", budget_ms=200)

    assert answer["items"] == service.similar(item_id="i3")["items"]
    assert answer["quality"] == {"level": "degraded", "reasons": ["store_timeout"]}
