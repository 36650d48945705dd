"""A list that waits while live items come is the one that it would have been without them."""

import asyncio
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.catalogue.live_item import LiveItem
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.live import FEW_WITHDRAWN
from service.model.student import Student
from service.recommendation.job import Answer, Found, Job, Query, make_job
from service.recommendation.ranker import Ranker
from service.recommendation.rule import Rules
from tests.service.recommendation.test_exploration import NOW, caps_of, make_query
from tests.service.toy import MAX_HISTORY, described_items, write_toy_sum

N = 800


@pytest.fixture(params=["few withdrawn", "many withdrawn"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Ranker, Catalogue]:
    bundle = write_toy_sum(tmp_path / "bundle", n_items=N, items=described_items(N))
    student, catalogue = Student(bundle), Catalogue(bundle)
    student.gather_from(catalogue.table)
    n_withdrawn = 3 if request.param == "few withdrawn" else FEW_WITHDRAWN + 1
    catalogue.take_live({f"i{row}": LiveItem(NOW, "gone", {}) for row in range(n_withdrawn)}, NOW)
    catalogue.take_live({"n0": LiveItem(NOW, "put", {"like": ["i799"]})}, NOW)
    return Ranker(student, catalogue, Metrics("0"), max_history=MAX_HISTORY, clock=lambda: NOW), catalogue


def grow(catalogue: Catalogue) -> None:
    """Let items come that are like the newest, one of which is withdrawn at once."""
    catalogue.take_live({f"n{n}": LiveItem(NOW, "put", {"like": ["i799"]}) for n in range(1, 300)}, NOW)
    catalogue.take_live({"n7": LiveItem(NOW, "gone", {})}, NOW)


def answer(ranker: Ranker, catalogue: Catalogue, query: Query, before_ranked: Callable[[Job], None]) -> Answer:
    with closing(asyncio.new_event_loop()) as loop:
        job = make_job(query, catalogue, loop.create_future())
        assert job.taste is not None
        before_ranked(job)
        (ranking,) = ranker.rank([Found(job, job.taste)])
    return ranking.answer


def asked(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Fields of queries, with masks and rules of the catalogue as it is."""
    rows = np.arange(len(catalogue))
    boosts = [(rows % 3 == 0, math.log(4.0))]
    return [
        {"is_debug": True},
        {"mask": rows % 2 == 1},
        {"mask": rows % 2 == 1, "candidates": range(500, 801)},
        {"rules": Rules(boosts=boosts)},
        {"rules": Rules(boosts=boosts), "mask": rows % 2 == 1, "is_debug": True},
        {"rules": Rules(caps=caps_of(catalogue, 2), diversity=0.3, boosts=boosts)},
        {"rules": Rules(pins={1: "n0", 2: "i600"}), "mask": rows % 5 == 0},
    ]


@pytest.mark.parametrize("case", range(7))
@pytest.mark.parametrize("history", [(790, 795), ()], ids=["known", "cold"])
@pytest.mark.parametrize("when", ["before the job", "before the ranking"])
def test_items_that_come_while_a_list_waits_change_nothing_of_it(parts, when: str, history: tuple, case: int) -> None:
    ranker, catalogue = parts
    query = make_query(catalogue, history, n_items=len(catalogue), **asked(catalogue)[case])
    expected = answer(ranker, catalogue, query, lambda job: None)

    if when == "before the job":
        grow(catalogue)
    found = answer(ranker, catalogue, query, lambda job: None if when == "before the job" else grow(catalogue))

    assert [*found.ranked[0]] == [*expected.ranked[0]]
    np.testing.assert_allclose(found.ranked[1], expected.ranked[1], rtol=1e-5, atol=1e-5)
    assert (found.level, found.funnel) == (expected.level, expected.funnel)


def test_candidate_or_pin_that_came_while_a_list_waited_is_not_shown(parts) -> None:
    ranker, catalogue = parts
    query = make_query(catalogue, [790], k=3, n_items=len(catalogue), rules=Rules(pins={1: "n5"}))
    query = replace(query, candidates=["n5", "n6", "i790", "i791", "i792"])
    grow(catalogue)

    found = answer(ranker, catalogue, query, lambda job: None)

    assert {catalogue.item_ids[row] for row in found.ranked[0]} == {"i791", "i792"}
    assert [*found.dropped_pins] == ["n5"]
