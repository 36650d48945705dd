"""Boosts and limits of a list, asked of a running service whose items have attributes."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle import ItemTable, write_bundle
from tests.service.running import Running
from tests.service.toy import DIM, MAX_HISTORY, N_ITEMS, golden_of, mean_encoder, toy_items

BRANDS = ["A", "B", "C"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("rules")
    table = ItemTable(np.random.default_rng(0).normal(size=(N_ITEMS, DIM)).astype(np.float32))
    items = [
        replace(item, attributes={"brand": [BRANDS[row % 3]], "tag": ["new"] * (row % 10 == 0)})
        for row, item in enumerate(toy_items())
    ]
    write_bundle(
        folder / "bundle",
        encoder=mean_encoder(),
        table=table,
        items=items,
        golden=golden_of(table, [[], [1]]),
        manifest={
            "created_at": "2026-01-01T00:00:00+00:00", "max_history": MAX_HISTORY, "repeat_consumption": False,
        },
    )  # fmt: skip
    with Running(folder / "bundle", folder / "data") as running:
        yield running


def row_of(item: dict) -> int:
    return int(item["item_id"][1:])


@pytest.mark.parametrize("asked", [{"history": ["i1", "i2"]}, {"history": []}])
def test_boost_is_in_the_score_and_its_parts_add_up(service: Running, asked: dict) -> None:
    boost = [{"if": {"tag": ["new"]}, "by": 5.0}, {"if": {"brand": "B"}, "by": 0.5}]

    plain = service.recommend(**asked, k=60)["items"]
    answer = service.recommend(**asked, k=60, boost=boost, debug=True)

    expected = {
        item["item_id"]: item["score"]
        + (row_of(item) % 10 == 0) * math.log(5)
        + (row_of(item) % 3 == 1) * math.log(0.5)
        for item in plain
    }
    assert [item["item_id"] for item in answer["items"]] == sorted(expected, key=lambda item: -expected[item])
    for item, parts in zip(answer["items"], answer["debug"]["parts"], strict=True):
        assert item["score"] == pytest.approx(expected[item["item_id"]], abs=1e-4)
        assert math.fsum(parts.values()) == pytest.approx(item["score"], abs=1e-12)


def test_no_more_than_n_of_a_value_are_shown_over_all_pages(service: Running) -> None:
    asked = {"history": ["i1", "i2"], "max_per": [{"attribute": "brand", "n": 4}]}

    first, second = (service.recommend(**asked, k=8, offset=offset) for offset in (0, 8))

    rows = [row_of(item) for answer in (first, second) for item in answer["items"]]
    assert sorted(row % 3 for row in rows) == [0] * 4 + [1] * 4 + [2] * 4
    assert second["quality"]["reasons"] == ["not_enough_items"]
    assert second["funnel"] == {"catalogue": 60, "filter": 60, "seen": 58, "rules": 12, "returned": 4}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_per": [{"attribute": "brnd", "n": 2}]}, 'max_per.0.attribute: "brnd" is unknown; did you mean "brand"?'),
        ({"boost": [{"if": {"tags": "new"}, "by": 2}]}, "boost.0.if.tags"),
        ({"boost": [{"if": {}, "by": 0}]}, "boost.0.by"),
        ({"max_per": [{"attribute": "brand", "n": 2}] * 2}, "max_per: the attribute brand is there twice"),
    ],
)
def test_rule_that_cannot_match_is_refused_by_name(service: Running, body: dict, message: str) -> None:
    response = service.client.post("/recommend", json={"history": [], **body})

    assert response.status_code == 422
    assert message in response.json()["error"]["message"]
