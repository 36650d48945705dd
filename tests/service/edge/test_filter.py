"""Filters in the edge folder: the items, the scores and the errors of the service."""

import random
from pathlib import Path
from typing import Any

import pytest

from service.library import Retort
from tests.service.asked import assert_same, questions
from tests.service.edge.folder import ask, build, values
from tests.service.edge.random_filter import random_filter
from tests.service.running import Running
from tests.service.toy import write_toy_sum


def test_random_filters_give_the_items_of_the_service(
    described: Path, described_folder: Path, service: Running
) -> None:
    rng = random.Random(11)
    ids = Retort.load(described).item_ids
    asked = [each | {"filter": random_filter(rng)} for each in questions(5, 400, ids)]

    _, *answers = values(ask(described_folder, [("recommend", [each]) for each in asked]))

    n_short = 0
    for each, answer in zip(asked, answers, strict=True):
        expected = service.recommend(**each)
        assert_same(answer, {name: value for name, value in expected.items() if name != "funnel"})
        assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in expected["items"]]
        n_short += len(answer["items"]) < each["k"]
    assert 50 < n_short < 390  # both kinds were seen


def test_an_equal_filter_is_answered_equally_and_an_empty_one_holds_for_all(described_folder: Path) -> None:
    many = [{"price": {"gte": number}} for number in range(40)]  # more than are kept
    asked: list[Any] = [{"brand": "A"}, *many, {"brand": ["A"]}, {"brand": "A"}, {}, None]

    _, *answers = values(
        ask(described_folder, [("recommend", [{"history": ["i1"], "filter": each}]) for each in asked])
    )

    items = [answer["items"] for answer in answers]
    assert items[0] == items[-4] == items[-3]
    assert items[-2] == items[-1] != items[0]


def nested(depth: int) -> dict[str, Any]:
    return {"brand": "A"} if depth == 1 else {"not": nested(depth - 1)}


WRONG: list[Any] = [
    {"brnad": "A"}, {"BRAND": "A"}, {"zzz": "A"}, {"__proto__": "A"}, {"constructor": ["A"]}, {"é" * 200: 1},
    {"or": [{"brand": "A"}]}, {"$and": []}, {"item_id": "i1"}, {"brand": {"in": ["A"]}},
    {"brand": 5}, {"brand": True}, {"brand": ["A", 5]}, {"brand": []}, {"brand": {}}, {"brand": {"gte": 1}},
    {"brand": [["A"]]}, {"price": "cheap"}, {"price": False}, {"price": [[1]]}, {"price": {}}, {"price": {"gt": "1"}},
    {"price": {"gt": None}}, {"price": {"gt": True}}, {"price": {"gtt": 1}}, {"price": {"toString": 1}},
    {"price": {"gt": 5, "lt": 5}}, {"price": {"gte": 5, "lt": 5}}, {"price": {"gte": 6, "lte": 5}},
    {"price": {"eq": 5, "lt": 5}}, {"price": [{"gte": 1}, {"eq": 1, "gt": 3}]}, {"in_stock": "yes"}, {"in_stock": 1},
    {"in_stock": {"eq": 1}}, {"not": {}}, {"not": []}, {"not": {"brnad": "A"}}, {"any": []}, {"any": {}},
    {"any": [{}]}, {"any": ["A"]}, {"any": [{"brand": "A"}, {"tag": "new", "not": {"pric": 1}}]}, nested(9),
    {"brand": ["A"] * 1000}, {"tag": "new", "any": [{"brand": ["A"] * 500}, {"brand": ["A"] * 500}]},
]  # fmt: skip


def test_a_wrong_filter_is_refused_with_the_words_of_the_service(described_folder: Path, service: Running) -> None:
    _, *answers = ask(described_folder, [("recommend", [{"history": ["i1"], "filter": each}]) for each in WRONG])

    for each, answer in zip(WRONG, answers, strict=True):
        response = service.client.post("/recommend", json={"history": ["i1"], "filter": each})
        assert response.status_code == 422
        assert answer == {"error": {"code": "malformed", "message": response.json()["error"]["message"]}}


@pytest.mark.parametrize("given", ["A", ["A"], 5, True, False, 0, ""])
def test_what_is_no_filter_is_refused(given: Any, described_folder: Path) -> None:
    _, answer = ask(described_folder, [("recommend", [{"filter": given}])])

    assert answer["error"]["code"] == "malformed"
    assert answer["error"]["message"].startswith('filter: a filter is an object such as {"attribute": ["value"]}, not')


def test_items_without_attributes_say_so(tmp_path: Path) -> None:
    out = build(write_toy_sum(tmp_path / "bundle").path, tmp_path / "out")

    _, answer = ask(out, [("recommend", [{"filter": {"brand": "A"}}])])

    assert answer["error"]["message"] == 'filter.brand: the items have no attribute "brand"; the items have none'
