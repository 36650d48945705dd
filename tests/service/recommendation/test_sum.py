"""What is answered where the score is a sum: against the formula, however the items are searched."""

import asyncio
import math
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import Bundle
from service.errors import GoldenError
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.golden import compare_golden
from service.model.model import load_model
from service.model.student import Student
from service.recommendation.budget import Budget
from service.recommendation.job import Found, Job, Query, Ranking, Taste
from service.recommendation.ranker import Ranker
from service.recommendation.rule import Rules
from service.search.choice import open_search
from service.search.measured_code import LEAST_RECALL
from tests.service.toy import (
    AS_OF,
    HALF_LIFE_S,
    MAX_HISTORY,
    N_ITEMS,
    exact_scores,
    quantised,
    slow_sum,
    toy_parts,
    write_toy,
    write_toy_sum,
)


class Nobody:
    is_gone = False


def query(**fields) -> Query:
    now = time.monotonic()
    asked = {"user_id": "u", "k": 5, "history": None, "exclude": (), "exclude_seen": False, "candidates": None}
    return Query(**asked | fields, caller=Nobody(), budget=Budget(now, now + 60, now + 60))


def rank(ranker: Ranker, taste: Taste, asked: Query, excluded: list[int], candidates: list[int] | None) -> Ranking:
    with closing(asyncio.new_event_loop()) as loop:
        job = Job(asked, loop.create_future(), taste, candidates, excluded, [], mask=asked.mask)
        (ranking,) = ranker.rank([Found(job, taste)])
    return ranking


@pytest.fixture(scope="module", params=["float32", "int8"])
def ranker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Catalogue]:
    bundle = write_toy_sum(tmp_path_factory.mktemp("sum") / "bundle")
    if request.param == "int8":
        bundle = replace(bundle, table=replace(quantised(bundle.table), parts=bundle.table.parts))
    catalogue = Catalogue(bundle)
    return Ranker(Student(bundle), catalogue, Metrics("0"), max_history=MAX_HISTORY), catalogue


ROWS = st.integers(0, N_ITEMS - 1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ROWS, max_size=12),
    st.integers(1, N_ITEMS),
    st.sets(ROWS, max_size=20),
    st.none() | st.sets(ROWS, max_size=20),
    st.sampled_from([math.nan, 3600.0, 86_400.0, 1e8, -60.0]),  # a pause of the test moves none of them
    st.booleans(),
    st.sampled_from([1.0, 0.0, 0.5, 3.0, 10.0]),
)
def test_answer_is_that_of_the_formula(ranker, history, k, excluded, candidates, gap_s, hides_seen, trend) -> None:
    ranker, catalogue = ranker
    counts = np.random.default_rng(len(history)).uniform(0, 9, N_ITEMS).astype(np.float32)
    catalogue.set_counts(counts, time.time())
    listed = None if candidates is None else sorted(candidates)
    taste = Taste(np.array(history, dtype=np.int32), last_at=time.time() - gap_s)
    asked = query(k=k, exclude_seen=hides_seen, is_debug=True, rules=None if trend == 1 else Rules(trend=trend))

    answer = rank(ranker, taste, asked, sorted(excluded), listed).answer

    table = catalogue.table.made
    seconds = None if math.isnan(gap_s) else max(0.0, gap_s)
    scores = slow_sum(table, exact_scores(table, history), history, seconds, counts, trend)
    hidden = excluded | (set(history) if hides_seen else set())
    allowed = [row for row in (range(N_ITEMS) if listed is None else listed) if row not in hidden]
    expected = sorted(allowed, key=lambda row: -scores[row])[:k]
    assert len(set(answer.ranked[0])) == len(answer.ranked[0])
    assert not hidden & set(answer.ranked[0])
    assert np.allclose(answer.ranked[1], scores[expected], atol=2e-3)
    assert np.allclose(answer.ranked[1], scores[list(answer.ranked[0])], atol=2e-3)
    assert answer.level == ("full" if history else "fallback")
    for score, parts in zip(answer.ranked[1], answer.parts, strict=True):
        assert parts["taste"] + parts["neighbours"] + parts["trend"] == pytest.approx(float(str(score)), abs=1e-12)


def test_parts_of_a_score_are_what_they_are_called(ranker) -> None:
    ranker, catalogue = ranker
    parts, table = catalogue.parts, catalogue.table.made
    counts = np.random.default_rng(5).uniform(0, 9, N_ITEMS).astype(np.float32)
    catalogue.set_counts(counts, time.time())
    history = [4, 9, 4]

    answer = rank(ranker, Taste(np.array(history, np.int32)), query(is_debug=True), [], None).answer

    taste, trend = (float(each[0]) for each in parts.rule.weigh(np.array([math.nan])))
    rows, said = parts.speak(history)
    spoken = dict(zip(rows.tolist(), said.tolist(), strict=True))
    for row, each in zip(answer.ranked[0], answer.parts, strict=True):
        assert each["taste"] == pytest.approx(taste * exact_scores(table, history)[row], abs=1e-3)
        assert each["neighbours"] == pytest.approx(spoken.get(row, 0.0), abs=1e-5)
        assert each["trend"] == pytest.approx(trend * math.log(counts[row] + 0.05), abs=1e-5)


def test_stranger_gets_the_trend_and_is_told_so(ranker) -> None:
    ranker, catalogue = ranker
    counts = np.zeros(N_ITEMS, dtype=np.float32)
    counts[[7, 3]] = 5, 9
    catalogue.set_counts(counts, time.time())

    answer = rank(ranker, Taste(), query(k=3), [], None).answer

    assert list(answer.ranked[0]) == [3, 7, 0]
    assert (answer.level, answer.reasons) == ("fallback", ["cold_user"])


def test_old_counts_are_told(ranker) -> None:
    ranker, catalogue = ranker
    catalogue.set_counts(np.ones(N_ITEMS, dtype=np.float32), time.time() - 7 * 3600)

    answer = rank(ranker, Taste(np.array([1], np.int32)), query(), [], None).answer

    assert (answer.level, answer.reasons) == ("full", ["stale_trend"])


def test_score_that_is_no_sum_is_one_part(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle")
    ranker = Ranker(Student(bundle), Catalogue(bundle), Metrics("0"), max_history=MAX_HISTORY)

    cold, warm = (
        rank(ranker, taste, query(is_debug=True), [], None).answer for taste in (Taste(), Taste(np.array([1])))
    )

    nothing = {"taste": 0.0, "neighbours": 0.0, "trend": 0.0}
    assert cold.parts == [nothing | {"popularity": float(score)} for score in cold.ranked[1]]
    assert warm.parts == [nothing | {"taste": float(str(score))} for score in warm.ranked[1]]


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_golden_answers_are_held_with_their_time_and_counts(tmp_path: Path, kind) -> None:
    bundle = write_toy_sum(tmp_path / "bundle", n_items=300)

    model = load_model(bundle.path, kind=kind, codes=tmp_path / "codes", warn=print)

    (best, _), *_ = bundle.golden[0].items
    for changed in ({"gap_s": 1e9}, {"now": AS_OF + 30 * HALF_LIFE_S}, {"counts": {best: 5000.0}}):
        wrong = replace(bundle, golden=[replace(bundle.golden[0], **changed)])
        with pytest.raises(GoldenError):
            compare_golden(wrong, model.student, model.catalogue)


def test_bundle_of_neighbours_alone_is_served(tmp_path: Path) -> None:
    parts = toy_parts()
    rule = replace(parts.rule, has_taste=False, trend=None)
    bundle = write_toy_sum(tmp_path / "bundle", parts=replace(parts, rule=rule, counts=None))

    model = load_model(bundle.path, kind="exact", codes=tmp_path / "codes", warn=print)

    assert model.catalogue.parts.rule.parts == ["neighbours"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_sum(tmp_path_factory.mktemp("large") / "bundle", n_items=5000)


@pytest.mark.parametrize("trend", [1.0, 0.0, 10.0])
def test_approximate_search_finds_the_best_of_the_sum(large: Bundle, tmp_path: Path, trend: float) -> None:
    student = Student(large)
    search = open_search(large, student.encode, kind="approximate", directory=tmp_path, warn=print)
    approximate, exact = Catalogue(large, search), Catalogue(large)
    rng = np.random.default_rng(2)
    counts = rng.pareto(1.2, len(large.items)).astype(np.float32)
    for catalogue in (approximate, exact):
        catalogue.set_counts(counts, time.time())
    histories = [rng.integers(0, 5000, size=length).tolist() for length in rng.integers(1, 9, size=60)]
    gaps = rng.choice([60.0, 1e5, 1e7], size=60)
    masked = [rng.integers(0, 5000, size=3).tolist() for _ in histories]

    found, true = (
        catalogue.best(
            catalogue.score(*_split(catalogue.weigh(student.encode(histories), histories, -gaps, 0.0), 100, trend)),
            100,
            masked,
        )
        for catalogue in (approximate, exact)
    )

    shares = [len(set(one[0]) & set(other[0])) / 100 for one, other in zip(found, true, strict=True)]
    assert search.recall >= LEAST_RECALL
    assert np.mean(shares) >= 0.98
    for one, other in zip(found, true, strict=True):
        both = dict(zip(other[0], other[1].tolist(), strict=True))
        assert all(score == pytest.approx(both[row], abs=1e-3) for row, score in zip(*one, strict=True) if row in both)


def _split(weighed, k: int, trend: float):
    users, addends = weighed
    for addend in addends:
        addend.bend(trend)
    return users, k, 3, addends
