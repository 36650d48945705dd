"""When an explanation is not begun: the budget, and what explanations took before."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from service.metrics import Metrics
from service.model.catalogue import Catalogue
from service.model.student import BUCKETS, Student
from service.recommendation.budget import Budget
from service.recommendation.explanation import Explainer
from service.recommendation.job import Answer, Found, Query, Ranking, make_job
from service.recommendation.ranker import Ranker
from service.recommendation.recommender import Recommender
from tests.service.recommendation.test_similar import Nobody
from tests.service.toy import MAX_HISTORY, write_toy


async def explain(folder: Path, *, left_s: float, least_s: float = 0.0) -> tuple[Ranking, Metrics]:
    """Explain an answer when so much of its budget is left, by one that knows what an explanation takes at least."""
    bundle = write_toy(folder / "bundle")
    student, catalogue, metrics = Student(bundle), Catalogue(bundle), Metrics("0")
    ranker = Ranker(student, catalogue, metrics, max_history=MAX_HISTORY)
    now = time.monotonic()
    asked = {"user_id": None, "k": 5, "history": ["i1", "i2"], "exclude": (), "exclude_seen": True, "candidates": None}
    query = Query(**asked, caller=Nobody(), budget=Budget(now, now + 60, now + 60), is_explained=True)
    job = make_job(query, catalogue, asyncio.get_running_loop().create_future())
    (ranking,) = ranker.rank([Found(job, job.taste)])
    explainer = Explainer(ranker, student, metrics)
    explainer.warm(dict.fromkeys(BUCKETS, least_s))
    query.budget.deadline = time.monotonic() + left_s
    await explainer.explain(ranking)
    return ranking, metrics


@pytest.mark.parametrize(
    ("left_s", "least_s", "left_out"), [(60, 0.0, None), (-1, 0.0, "deadline"), (5, 6.0, "deadline")]
)
async def test_explanation_is_begun_where_it_fits(tmp_path: Path, left_s: float, least_s: float, left_out: str) -> None:
    ranking, metrics = await explain(tmp_path, left_s=left_s, least_s=least_s)

    explanation = ranking.answer.explanation
    assert explanation.left_out == left_out
    assert len(explanation.because) == (0 if left_out else 5)
    assert set(explanation.without) == (set() if left_out else {1, 2})
    assert metrics.deadline_exceeded["explain"]._value.get() == (left_out is not None)
    assert np.isfinite(ranking.answer.ranked[1]).all()


async def test_explanations_hold_up_no_other_answers(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle")
    student, catalogue, metrics = Student(bundle), Catalogue(bundle), Metrics("0")
    ranker = Ranker(student, catalogue, metrics, max_history=MAX_HISTORY)
    explainer = Explainer(ranker, student, metrics)
    recommender = Recommender(catalogue, None, ranker, explainer, metrics)  # no history is looked up here

    def recommend(*, is_explained: bool) -> "asyncio.Future[Answer]":
        now = time.monotonic()
        asked = {"user_id": None, "k": 60, "exclude": (), "exclude_seen": True, "candidates": None}
        budget = Budget(now, now + 60, now + 60)
        history = [f"i{n}" for n in range(20)]
        return recommender.recommend(
            Query(**asked, history=history, caller=Nobody(), budget=budget, is_explained=is_explained)
        )

    explained = []
    for _ in range(4):  # as many batches as run at once
        explained += [recommend(is_explained=True) for _ in range(10)]
        while recommender.depth:
            await asyncio.sleep(0)
    before = sum(future.done() for future in explained)
    await recommend(is_explained=False)

    assert sum(future.done() for future in explained) - before <= 2
    for future in explained:
        assert len((await future).explanation.because) == 40
