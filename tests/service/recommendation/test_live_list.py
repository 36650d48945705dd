"""Whole lists with live rows among the items, in approximate and exact search, against a plain slow implementation."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from service.catalogue.live_item import LiveItem
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.student import Student
from service.recommendation.ranker import Ranker
from service.recommendation.rule import Rules
from service.search.choice import open_search
from tests.service.recommendation.test_exploration import (
    ASKED,
    N_LIVE,
    NOW,
    N,
    answer_of,
    asked_of,
    live_items,
)
from tests.service.recommendation.test_rule import slow_diversity, slow_list
from tests.service.toy import MAX_HISTORY, described_items, write_toy


@pytest.fixture(scope="module", params=["approximate", "exact"])
def parts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ranker, Catalogue, Student]:
    folder = tmp_path_factory.mktemp("live-lists")
    bundle = write_toy(folder / "bundle", n_items=N, items=described_items(N))
    student = Student(bundle)
    search = open_search(bundle, student.encode, kind=request.param, directory=folder, warn=lambda text: None)
    if request.param == "approximate":
        search.measured = replace(search.measured, depths=(N, N))
        search.measured.codes.share = 1.0  # all are looked at, so that the answer is the exact one
    catalogue = Catalogue(bundle, search)
    student.gather_from(catalogue.table)
    catalogue.take_live(live_items(bundle.manifest.version), NOW)
    catalogue.take_live({f"n{N_LIVE - 1}": LiveItem(NOW, "gone", {}), "i5": LiveItem(NOW, "gone", {})}, NOW)
    return Ranker(student, catalogue, Metrics("0"), max_history=MAX_HISTORY), catalogue, student


def slow_scores(catalogue: Catalogue, student: Student, history: list[int], rules: Rules) -> np.ndarray:
    """The score of every row for a history that is not empty."""
    rows = np.arange(len(catalogue))
    (user,) = student.encode([history])
    scores = (catalogue.table.pick(rows) @ user + catalogue.table.biases_of(rows)).astype(np.float64)
    for mask, added in rules.boosts:
        scores += mask * added
    return scores


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ASKED, st.integers(0, 12), st.lists(st.integers(0, N + N_LIVE - 1), min_size=1, max_size=5))
def test_list_is_that_of_the_plain_slow_way(parts, asked: dict[str, Any], offset: int, history: list[int]) -> None:
    ranker, catalogue, student = parts
    query = asked_of(catalogue, {**asked, "history": history})
    rules = replace(query.rules or Rules(), offset=offset)
    query = replace(query, rules=rules)

    answer = answer_of(ranker, catalogue, query)

    scores = slow_scores(catalogue, student, history, rules)
    listed = asked.get("candidates", range(len(catalogue)))
    gone = {*asked["exclude"], *catalogue.live.withdrawn}
    may_show = [row for row in listed if row not in gone and (query.mask is None or query.mask[row])]
    pins = {place: item_id for place, item_id in rules.pins.items() if catalogue.find_row(item_id) in may_show}
    placed = [catalogue.find_row(item_id) for item_id in pins.values()]
    order = sorted({*may_show} - {*history, *placed}, key=lambda row: (-scores[row], row))
    if rules.diversity and order:
        assume(not rules.caps or len(order) <= 40)  # so many the slow way puts into order
        order = slow_diversity(order, scores[order].tolist(), catalogue.vectors(order), rules.diversity)
    values = [[row % 5] if row % 3 else [] for row in range(len(catalogue))]
    numbered = replace(rules, pins={place: f"i{catalogue.find_row(item_id)}" for place, item_id in pins.items()})
    whole = slow_list(order, numbered, [values] * len(rules.caps), offset + query.k)
    expected = [row for row in whole[offset:] if row is not None]
    found = [*answer.ranked[0]]
    if found != expected:  # live items of one vector have one score but for its last bit, by where a product has them
        assert len(set(found)) == len(expected)
        np.testing.assert_allclose(scores[found], scores[expected], rtol=0, atol=1e-6)
    np.testing.assert_allclose(answer.ranked[1], scores[expected], rtol=1e-4, atol=1e-4)
    assert answer.explored is None
    assert math.isfinite(float(np.sum(answer.ranked[1])))
