"""`filter` and `fields` of POST /recommend, against a running service and a plain evaluation of the whole catalogue."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.bundle import Bundle
from tests.service.running import Running
from tests.service.toy import described_items, exact_scores, write_toy, write_toy_sum

ITEMS = described_items()
FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({"brand": "A"}, lambda item: "A" in item.attributes["brand"]),
    ({"tag": None}, lambda item: not item.attributes["tag"]),
    ({"price": {"gte": 10, "lt": 30}}, lambda item: 10 <= item.numbers.get("price", 0) < 30),
    ({"in_stock": True, "not": {"brand": ["B"]}},
     lambda item: item.booleans.get("in_stock") is True and "B" not in item.attributes["brand"]),
    ({"any": [{"price": 1.5}, {"price": 2.5}]}, lambda item: item.numbers.get("price") in (1.5, 2.5)),
    ({"brand": "nobody"}, lambda item: False),
]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy(tmp_path_factory.mktemp("filter") / "bundle", items=ITEMS)


@pytest.fixture(scope="module")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(bundle.path, tmp_path_factory.mktemp("filter-data")) as running:
        yield running


@pytest.mark.parametrize(("raw", "holds"), FILTERS)
def test_answer_is_the_best_k_of_those_that_match(bundle: Bundle, service: Running, raw: Any, holds: Any) -> None:
    scores = exact_scores(bundle.table, [3, 4])
    expected = [row for row in (-scores).argsort(kind="stable") if holds(ITEMS[row]) and row not in (3, 4, 9)]

    answer = service.recommend(history=["i3", "i4"], k=5, filter=raw, exclude=["i9"])

    assert [item["item_id"] for item in answer["items"]] == [f"i{row}" for row in expected[:5]]
    assert answer["quality"]["reasons"] == (["not_enough_items"] if len(expected) < 5 else [])


@pytest.mark.parametrize(("raw", "holds"), FILTERS)
def test_candidates_and_popular_items_are_filtered_too(service: Running, raw: Any, holds: Any) -> None:
    matching = [item.item_id for item in ITEMS if holds(item)]

    popular = service.recommend(user_id="nobody", k=4, filter=raw, exclude=["i1"])
    chosen = service.recommend(history=["i3"], k=10, filter=raw, candidates=["i0", "i1", "i2", "i5", "i7", "i40"])
    hurried = service.recommend(user_id="nobody", k=4, filter=raw, exclude=["i1"], budget_ms=1)

    expected = [item_id for item_id in matching if item_id != "i1"][:4]
    assert [item["item_id"] for item in popular["items"]] == expected
    assert [item["item_id"] for item in hurried["items"]] == expected
    assert {item["item_id"] for item in chosen["items"]} == {"i0", "i1", "i2", "i5", "i7", "i40"} & set(matching)


def test_fields_stand_beside_id_and_score(service: Running) -> None:
    answer = service.recommend(history=["i3"], k=60, fields=["title", "price", "in_stock", "brand", "tag", "title"])

    for item in answer["items"]:
        own = ITEMS[int(item["item_id"][1:])]
        assert set(item) == {"item_id", "score", "title", "price", "in_stock", "brand", "tag"}
        assert (item["title"], item["price"]) == (own.title, own.numbers.get("price"))
        assert (item["in_stock"], item["brand"]) == (own.booleans.get("in_stock"), own.attributes["brand"])
    assert service.recommend(history=["i3"], k=1, fields=[])["items"][0].keys() == {"item_id", "score"}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"filter": {"brnd": "A"}}, "filter.brnd", 'did you mean "brand"?'),
        ({"filter": {"price": {"gt": 5, "lt": 3}}}, "filter.price", "no number is inside"),
        ({"filter": {"brand": []}}, "filter.brand", "empty list"),
        ({"filter": ["A"]}, "filter", "object"),
        ({"fields": ["titel"]}, "fields.0", 'did you mean "title"?'),
        ({"fields": ["title", "score"]}, "fields.1", "no field"),
    ],
)
def test_what_is_wrong_is_named(service: Running, body: dict[str, Any], field: str, words: str) -> None:
    response = service.client.post("/recommend", json={"history": ["i1"], **body})

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "malformed")
    assert error["details"][0]["field"] == field
    assert words in error["message"]


def test_filters_are_counted_by_whether_their_items_were_known(service: Running) -> None:
    def counted() -> tuple[float, float]:
        hits, misses = (service.metric("retort_filter_masks_total", result=result) for result in ("hit", "miss"))
        return hits, misses

    hits, misses = counted()

    service.ask(history=["i3"], filter={"price": {"lt": 77}})
    service.ask(history=["i3"], filter={"price": {"lt": 77}})
    service.ask(history=["i3"], boost=[{"if": {"price": {"lt": 77}}, "by": 2}, {"if": {"price": 78}, "by": 2}])
    service.ask(history=["i3"])

    assert counted() == (hits + 2, misses + 2)


def test_nan_in_a_filter_is_refused(service: Running) -> None:
    body = b'{"history": ["i1"], "filter": {"price": NaN}}'

    response = service.client.post("/recommend", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422


def test_sum_is_filtered_in_every_level(tmp_path: Path) -> None:
    write_toy_sum(tmp_path / "bundle", items=ITEMS)
    with Running(tmp_path / "bundle", tmp_path / "data") as running:
        whole = running.recommend(history=["i3"], k=60)["items"]
        some = running.recommend(history=["i3"], k=60, filter={"brand": "B"})["items"]
        trend = running.recommend(user_id="cold", k=60)["items"]
        some_trend = running.recommend(user_id="cold", k=60, filter={"brand": "B"})["items"]

    for everything, filtered in ((whole, some), (trend, some_trend)):
        expected = [item["item_id"] for item in everything if int(item["item_id"][1:]) % 3 == 1]
        assert [item["item_id"] for item in filtered] == expected
