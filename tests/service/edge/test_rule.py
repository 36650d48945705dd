"""Boosts, max_per, pins, pages, diversity and fields in the edge folder: the items and the scores of the service."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import ItemTable, write_bundle
from service.library import Retort
from tests.service.asked import assert_same, questions
from tests.service.edge.folder import ask, values
from tests.service.edge.random_filter import random_filter
from tests.service.running import Running
from tests.service.toy import DIM, MAX_HISTORY, N_ITEMS, described_items, golden_of, mean_encoder, quantised


def random_rules(rng: random.Random, ids: Sequence[str]) -> dict[str, Any]:
    """Return what may be asked of a list beside the best items, several of them at once."""
    rules: dict[str, Any] = {
        "filter": random_filter(rng),
        "boost": [
            {"if": random_filter(rng) if rng.random() < 0.9 else {}, "by": rng.choice([0.01, 0.5, 1.5, 100])}
            for _ in range(rng.choice([1, 2, 4]))
        ],
        "max_per": [
            {"attribute": name, "n": rng.choice([1, 2, 5, 20])}
            for name in rng.sample(["brand", "tag"], rng.choice([1, 2]))
        ],
        "pin": [
            {"item_id": item_id, "position": position}
            for item_id, position in zip(rng.sample([*ids, "unknown"], 3), rng.sample(range(1, 15), 3), strict=True)
        ],
        "offset": rng.choice([0, 1, 7, 50, 100]),
        "diversity": rng.choice([0, 0.1, 0.5, 1]),
        "fields": rng.sample(["title", "brand", "tag", "price", "in_stock"], rng.choice([0, 1, 5])),
    }
    return {name: value for name, value in rules.items() if rng.random() < 0.4}


def test_random_rules_give_the_items_of_the_service(described: Path, described_folder: Path, service: Running) -> None:
    rng = random.Random(17)
    ids = Retort.load(described).item_ids
    asked = [each | random_rules(rng, ids) for each in questions(6, 400, ids, has_trend=True)]

    _, *answers = values(ask(described_folder, [("recommend", [each]) for each in asked]))

    for each, answer in zip(asked, answers, strict=True):
        expected = {name: value for name, value in service.recommend(**each).items() if name != "funnel"}
        assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in expected["items"]]
        assert_same(answer, expected)
        assert answer.get("dropped_pins") == expected.get("dropped_pins")
        for item, wanted in zip(answer["items"], expected["items"], strict=True):
            assert list(item) == list(wanted)
            assert {**item, "score": 0} == {**wanted, "score": 0}


def test_an_int8_table_without_a_sum_is_boosted_and_diversified_alike(described_folder: Path, tmp_path: Path) -> None:
    table = quantised(ItemTable(np.random.default_rng(3).normal(size=(N_ITEMS, DIM)).astype(np.float32)))
    golden = golden_of(table, [[], [1], [1, 2, 3, 4, 5, 6, 2]])
    manifest = {"created_at": "2026-01-01T00:00:00+00:00", "max_history": MAX_HISTORY, "repeat_consumption": True}
    bundle = write_bundle(
        tmp_path / "bundle",
        encoder=mean_encoder(),
        table=table,
        items=described_items(),
        golden=golden,
        manifest=manifest,
    )
    rng = random.Random(23)
    asked = [each | random_rules(rng, bundle.items.ids) for each in questions(7, 100, bundle.items.ids)]

    calls = [("recommend", [each]) for each in asked]
    _, *answers = values(ask(described_folder, calls, bundle=str(bundle.path)))

    with Running(bundle.path, tmp_path / "data") as service:
        expected = [service.recommend(**each) for each in asked]
    for answer, wanted in zip(answers, expected, strict=True):
        assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in wanted["items"]]
        assert_same(answer, {name: value for name, value in wanted.items() if name != "funnel"})


WRONG: list[Any] = [
    {"boost": [{"if": {"brnad": "A"}, "by": 2}]}, {"boost": [{"if": {"price": {"gt": 5, "lt": 5}}, "by": 2}]},
    {"max_per": [{"attribute": "brnad", "n": 1}]}, {"max_per": [{"attribute": "price", "n": 1}]},
    {"fields": ["title", "brnad"]}, {"fields": ["item_id"]}, {"offset": 990, "k": 11},
]  # fmt: skip


def test_what_the_items_lack_is_told_in_the_words_of_the_service(described_folder: Path, service: Running) -> None:
    _, *answers = ask(described_folder, [("recommend", [{"history": ["i1"], **each}]) for each in WRONG])

    for each, answer in zip(WRONG, answers, strict=True):
        response = service.client.post("/recommend", json={"history": ["i1"], **each})
        assert response.status_code == 422
        assert answer == {"error": {"code": "malformed", "message": response.json()["error"]["message"]}}


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"boost": None}, "boost: a list, not null"),
    ({"boost": [{"if": {}, "by": 2}] * 21}, "boost: 21 given, at most 20"),
    ({"boost": [5]}, "boost.0: give an object of options"),
    ({"boost": [{"iff": {}, "by": 2}]}, "boost.0.iff: unknown; did you mean if?"),
    ({"boost": [{"by": 2}]}, "boost.0.if: a filter is an object such as"),
    ({"boost": [{"if": {}}]}, "boost.0.by: a number above 0, at most 1000000000, not undefined"),
    ({"boost": [{"if": {}, "by": 0}]}, "boost.0.by: a number above 0"),
    ({"boost": [{"if": {f"a{n}": 1 for n in range(33)}, "by": 2}]}, "boost.0.if: at most 32 conditions"),
    ({"max_per": {}}, "max_per: a list, not {}"),
    ({"max_per": [{"n": 1}]}, "max_per.0.attribute: 1 to 128 characters"),
    ({"max_per": [{"attribute": "brand", "n": 0}]}, "max_per.0.n: a whole number from 1 to 1000, not 0"),
    ({"max_per": [{"attribute": "tag", "n": 1}] * 2}, "max_per: the attribute tag is there twice"),
    ({"pin": [{"item_id": "i1"}]}, "pin.0.position: a whole number from 1 to 1000, not undefined"),
    ({"pin": [{"item_id": "", "position": 1}]}, "pin.0.item_id: 1 to 128 characters"),
    ({"pin": [{"item_id": "i1", "position": 1}, {"item_id": "i1", "position": 2}]}, "pin: the item_id i1 is there"),
    ({"pin": [{"item_id": "i1", "position": 1}, {"item_id": "i2", "position": 1}]}, "pin: the position 1 is there"),
    ({"offset": -1}, "offset: a whole number from 0 to 1000, not -1"),
    ({"diversity": 1.5}, "diversity: a number from 0 to 1, not 1.5"),
    ({"diversity": True}, "diversity: a number from 0 to 1, not true"),
    ({"fields": "title"}, 'fields: a list, not "title"'),
    ({"fields": [5]}, "fields.0: a name, not 5"),
    ({"fields": ["title"] * 65}, "fields: 65 given, at most 64"),
]


@pytest.fixture(scope="module")
def refusals(described_folder: Path) -> list[dict[str, Any]]:
    _, *answers = ask(described_folder, [("recommend", [given]) for given, _ in MALFORMED])
    return answers


@pytest.mark.parametrize("number", range(len(MALFORMED)), ids=[message for _, message in MALFORMED])
def test_a_malformed_rule_is_named(number: int, refusals: list[dict[str, Any]], service: Running) -> None:
    given, message = MALFORMED[number]

    assert refusals[number]["error"]["code"] == "malformed"
    assert refusals[number]["error"]["message"].startswith(message)
    assert service.client.post("/recommend", json={"history": [], **given}).status_code == 422
