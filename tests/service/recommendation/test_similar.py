"""What goes with an item: against the formula over the whole catalogue, however it is searched and for whom."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import Bundle, SimilarRule, usual_rule
from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.student import Student
from service.recommendation.budget import Budget
from service.recommendation.job import Found, Query, Ranking, Taste, make_job
from service.recommendation.ranker import Ranker
from service.recommendation.rule import Rules
from service.recommendation.similar import PERSONAL
from service.search.choice import open_search
from tests.service.toy import MAX_HISTORY, N_ITEMS, exact_scores, slow_similar, slow_sum, write_toy, write_toy_sum

RULE = SimilarRule(0.6, 1.5, 0.8, 0.4)


class Nobody:
    is_gone = False


def ask(anchors: Sequence[int], **fields: Any) -> Query:
    now = time.monotonic()
    asked = {"user_id": None, "k": 5, "history": None, "exclude": (), "exclude_seen": False, "candidates": None}
    asked |= {"similar_to": [f"i{row}" for row in anchors]}
    return Query(**asked | fields, caller=Nobody(), budget=Budget(now, now + 60, now + 60))


def rank(ranker: Ranker, catalogue: Catalogue, *queries: Query) -> list[Ranking]:
    with closing(asyncio.new_event_loop()) as loop:
        jobs = [make_job(query, catalogue, loop.create_future()) for query in queries]
        return ranker.rank([Found(job, job.taste or Taste()) for job in jobs])


def open_ranker(bundle: Bundle, search: Any = None) -> tuple[Ranker, Catalogue]:
    catalogue = Catalogue(bundle, search)
    return Ranker(Student(bundle), catalogue, Metrics("0"), max_history=MAX_HISTORY), catalogue


def with_rule(bundle: Bundle, rule: SimilarRule = RULE) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, similar=rule.to_json()))


@pytest.fixture(scope="module", params=["sum", "taste"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    write = write_toy_sum if request.param == "sum" else write_toy
    return with_rule(write(tmp_path_factory.mktemp("similar") / "bundle"))


ROWS = st.integers(0, N_ITEMS - 1)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ROWS, min_size=1, max_size=6, unique=True),
    st.lists(ROWS, max_size=9),
    st.integers(1, N_ITEMS),
    st.sets(ROWS, max_size=20),
    st.none() | st.sets(ROWS, min_size=3),
    st.booleans(),
    st.none() | st.tuples(st.sets(ROWS), st.floats(-3, 3, width=32)),
)
def test_answer_is_that_of_the_formula(small, anchors, history, k, excluded, allowed, hides_seen, boost) -> None:
    ranker, catalogue = open_ranker(small)
    counts = np.random.default_rng(len(history)).uniform(0, 9, N_ITEMS).astype(np.float32)
    if catalogue.has_trend:
        catalogue.set_counts(counts, time.time())
    asked = ask(anchors, k=k, exclude_seen=hides_seen, is_debug=True, exclude=[f"i{row}" for row in excluded])
    asked.history = [f"i{row}" for row in history]
    asked.mask = None if allowed is None else np.isin(np.arange(N_ITEMS), list(allowed))
    if boost is not None:
        asked.rules = Rules(boosts=[(np.isin(np.arange(N_ITEMS), list(boost[0])), boost[1])])

    (ranking,) = rank(ranker, catalogue, asked)

    scores = slow_similar(small, RULE, anchors, counts)
    if history:
        own = exact_scores(small.table, history)
        scores += PERSONAL * (own if small.table.parts is None else slow_sum(small.table, own, history, None, counts))
    if boost is not None:
        scores[list(boost[0])] += boost[1]
    hidden = excluded | set(anchors) | (set(history) if hides_seen else set())
    left = [row for row in (range(N_ITEMS) if allowed is None else sorted(allowed)) if row not in hidden]
    expected = sorted(left, key=lambda row: -scores[row])[:k]
    answer = ranking.answer
    assert len(set(answer.ranked[0])) == len(answer.ranked[0]) == len(expected)
    assert not hidden & set(answer.ranked[0])
    assert np.allclose(answer.ranked[1], scores[expected], atol=2e-3)
    assert np.allclose(answer.ranked[1], scores[list(answer.ranked[0])], atol=2e-3)
    assert answer.level == "full"
    assert ("cold_user" in answer.reasons) == (not history)
    for score, parts in zip(answer.ranked[1], answer.parts, strict=bool(answer.parts)):
        assert math.fsum(parts.values()) == pytest.approx(float(str(score)), abs=1e-12)


def test_others_of_its_batch_are_answered_as_alone(small: Bundle) -> None:
    ranker, catalogue = open_ranker(small)
    queries = [
        ask([3]),
        ask([], similar_to=(), history=["i4", "i9"]),
        ask([5, 6], history=["i1"]),
        ask([7], rules=Rules(diversity=0.5)),
        ask([], similar_to=(), history=["i4"], rules=Rules(offset=2)),
    ]

    together = rank(ranker, catalogue, *queries)

    for query, ranking in zip(queries, together, strict=True):
        (alone,) = rank(ranker, catalogue, query)
        assert list(ranking.answer.ranked[0]) == list(alone.answer.ranked[0])
        assert np.allclose(ranking.answer.ranked[1], alone.answer.ranked[1], atol=1e-5)


def test_bundle_that_says_nothing_of_it_has_a_rule_all_the_same(tmp_path: Path) -> None:
    for bundle in (write_toy(tmp_path / "taste"), write_toy_sum(tmp_path / "sum")):
        ranker, catalogue = open_ranker(bundle)
        counts = np.ones(N_ITEMS, dtype=np.float32)
        if catalogue.has_trend:
            catalogue.set_counts(counts, time.time())

        (ranking,) = rank(ranker, catalogue, ask([3, 8]))

        rows, scores = ranking.answer.ranked
        expected = slow_similar(bundle, usual_rule(bundle.table.parts), [3, 8], counts)
        assert np.allclose(scores, expected[list(rows)], atol=1e-3)
        assert scores[0] == pytest.approx(max(np.delete(expected, [3, 8])), abs=1e-3)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_rule(write_toy_sum(tmp_path_factory.mktemp("large") / "bundle", n_items=20_000))


@pytest.mark.parametrize("share", [None, 0.5, 0.05, 0.005])
def test_approximate_search_finds_what_exact_search_does(large: Bundle, tmp_path: Path, share: float | None) -> None:
    student, rng = Student(large), np.random.default_rng(2)
    search = open_search(large, student.encode, kind="approximate", directory=tmp_path, warn=print)
    counts = rng.pareto(1.2, len(large.items)).astype(np.float32)
    queries = [ask(rng.integers(0, 20_000, rng.integers(1, 5)).tolist(), k=100, exclude_seen=True) for _ in range(20)]
    for query in queries[10:]:
        query.history = [f"i{row}" for row in rng.integers(0, 20_000, 5)]
    for query in queries[::2]:
        query.rules = Rules(boosts=[(rng.random(20_000) < 0.01, 1.0)])
    if share is not None:
        for query in queries:
            query.mask = rng.random(20_000) < share

    both = []
    for each in (search, None):
        ranker, catalogue = open_ranker(large, each)
        catalogue.set_counts(counts, time.time())
        both.append(rank(ranker, catalogue, *queries))

    found, true = ([set(ranking.answer.ranked[0]) for ranking in rankings] for rankings in both)
    shares = [len(one & other) / len(other) for one, other in zip(found, true, strict=True)]
    assert np.mean(shares) >= 0.99
