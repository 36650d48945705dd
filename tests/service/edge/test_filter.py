"""Filters in the edge folder: the items, the scores and the errors of the service."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.library import Retort
from tests.service.asked import assert_same, questions
from tests.service.edge.folder import ask, build, values
from tests.service.running import Running
from tests.service.toy import described_items, toy_parts, write_toy_sum


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("described") / "bundle"
    return write_toy_sum(place, parts=toy_parts(as_of=round(time.time()) - 100.0), items=described_items()).path


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(bundle, tmp_path_factory.mktemp("edge") / "out")


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(bundle, tmp_path_factory.mktemp("data")) as running:
        yield running


TEXTS = {"brand": ["A", "B", "C", "nobody's"], "tag": ["new", "red", "é"]}


def random_filter(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Return a filter of one condition to four, also nested."""
    names = rng.sample(["brand", "tag", "price", "in_stock", *["not", "any"] * (depth < 3)], rng.choice([1, 1, 2, 4]))
    return {name: random_condition(rng, name, depth) for name in names}


def random_condition(rng: random.Random, name: str, depth: int) -> Any:
    if name == "not":
        return random_filter(rng, depth + 1)
    if name == "any":
        return [random_filter(rng, depth + 1) for _ in range(rng.choice([1, 2, 3]))]
    if rng.random() < 0.3:
        return random_member(rng, name)
    return [random_member(rng, name) for _ in range(rng.choice([1, 2, 3]))]


def random_member(rng: random.Random, name: str) -> Any:
    if rng.random() < 0.15:
        return None
    if name == "in_stock":
        return rng.random() < 0.5
    if name in TEXTS:
        return rng.choice(TEXTS[name])
    if rng.random() < 0.4:
        return rng.choice([1.5, 20.5, 7, -3])
    least, most = sorted(rng.sample(range(-5, 65), 2))
    bounds = {rng.choice(["gt", "gte"]): least + 0.5, rng.choice(["lt", "lte"]): most + 0.5}
    return rng.choice([bounds, dict([rng.choice([*bounds.items()])]), {"eq": most + 0.5}])


def test_random_filters_give_the_items_of_the_service(bundle: Path, folder: Path, service: Running) -> None:
    rng = random.Random(11)
    ids = Retort.load(bundle).item_ids
    asked = [each | {"filter": random_filter(rng)} for each in questions(5, 400, ids)]

    _, *answers = values(ask(folder, [("recommend", [each]) for each in asked]))

    n_short = 0
    for each, answer in zip(asked, answers, strict=True):
        expected = service.recommend(**each)
        assert_same(answer, {name: value for name, value in expected.items() if name != "funnel"})
        assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in expected["items"]]
        n_short += len(answer["items"]) < each["k"]
    assert 50 < n_short < 390  # both kinds were seen


def test_an_equal_filter_is_answered_equally_and_an_empty_one_holds_for_all(folder: Path) -> None:
    many = [{"price": {"gte": number}} for number in range(40)]  # more than are kept
    asked: list[Any] = [{"brand": "A"}, *many, {"brand": ["A"]}, {"brand": "A"}, {}, None]

    _, *answers = values(ask(folder, [("recommend", [{"history": ["i1"], "filter": each}]) for each in asked]))

    items = [answer["items"] for answer in answers]
    assert items[0] == items[-4] == items[-3]
    assert items[-2] == items[-1] != items[0]


def nested(depth: int) -> dict[str, Any]:
    return {"brand": "A"} if depth == 1 else {"not": nested(depth - 1)}


WRONG: list[Any] = [
    {"brnad": "A"}, {"BRAND": "A"}, {"zzz": "A"}, {"__proto__": "A"}, {"constructor": ["A"]}, {"é" * 200: 1},
    {"brand": 5}, {"brand": True}, {"brand": ["A", 5]}, {"brand": []}, {"brand": {}}, {"brand": {"gte": 1}},
    {"brand": [["A"]]}, {"price": "cheap"}, {"price": False}, {"price": [[1]]}, {"price": {}}, {"price": {"gt": "1"}},
    {"price": {"gt": None}}, {"price": {"gt": True}}, {"price": {"gtt": 1}}, {"price": {"toString": 1}},
    {"price": {"gt": 5, "lt": 5}}, {"price": {"gte": 5, "lt": 5}}, {"price": {"gte": 6, "lte": 5}},
    {"price": {"eq": 5, "lt": 5}}, {"price": [{"gte": 1}, {"eq": 1, "gt": 3}]}, {"in_stock": "yes"}, {"in_stock": 1},
    {"in_stock": {"eq": 1}}, {"not": {}}, {"not": []}, {"not": {"brnad": "A"}}, {"any": []}, {"any": {}},
    {"any": [{}]}, {"any": ["A"]}, {"any": [{"brand": "A"}, {"tag": "new", "not": {"pric": 1}}]}, nested(9),
    {"brand": ["A"] * 1000}, {"tag": "new", "any": [{"brand": ["A"] * 500}, {"brand": ["A"] * 500}]},
]  # fmt: skip


def test_a_wrong_filter_is_refused_with_the_words_of_the_service(folder: Path, service: Running) -> None:
    _, *answers = ask(folder, [("recommend", [{"history": ["i1"], "filter": each}]) for each in WRONG])

    for each, answer in zip(WRONG, answers, strict=True):
        response = service.client.post("/recommend", json={"history": ["i1"], "filter": each})
        assert response.status_code == 422
        assert answer == {"error": {"code": "malformed", "message": response.json()["error"]["message"]}}


@pytest.mark.parametrize("given", ["A", ["A"], 5, True, False, 0, ""])
def test_what_is_no_filter_is_refused(given: Any, folder: Path) -> None:
    _, answer = ask(folder, [("recommend", [{"filter": given}])])

    assert answer["error"]["code"] == "malformed"
    assert answer["error"]["message"].startswith('filter: a filter is an object such as {"attribute": ["value"]}, not')


def test_items_without_attributes_say_so(tmp_path: Path) -> None:
    out = build(write_toy_sum(tmp_path / "bundle").path, tmp_path / "out")

    _, answer = ask(out, [("recommend", [{"filter": {"brand": "A"}}])])

    assert answer["error"]["message"] == 'filter.brand: the items have no attribute "brand"; the items have none'
