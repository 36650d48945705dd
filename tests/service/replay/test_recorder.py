"""What becomes of an answer that is to be kept, while the trend moves and where something is wrong with it."""

import asyncio
import time
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from service.model.catalogue import Catalogue
from service.model.student import Student
from service.recommendation.budget import Budget
from service.recommendation.job import Answer, Found, Query, Ranking, make_job
from service.release.generation import Generation
from service.replay.recorder import Recorder
from service.replay.shelf import ReplayShelf
from service.request.recommend import parse_recommend
from service.search.choice import open_search
from tests.service.toy import toy_parts, write_toy_sum


class Nobody:
    is_gone = False


class Known:
    serial = 0
    places: ClassVar[list[tuple[str, int]]] = []


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    bundle = write_toy_sum(tmp_path / "bundle", parts=toy_parts(as_of=time.time()))
    search = open_search(bundle, Student(bundle).encode, kind="exact", directory=tmp_path, warn=lambda text: None)
    nobody: Any = None
    return Generation(bundle.manifest, Catalogue(bundle, search), nobody, nobody, 1)


def move_trend(generation: Generation, n: float) -> None:
    generation.catalogue.set_counts(np.full(len(generation.catalogue), n, dtype=np.float32), time.time())


async def answered(query: Query, generation: Generation) -> None:
    job = make_job(query, generation.catalogue, asyncio.get_running_loop().create_future())
    assert job.taste is not None
    assert query.trail is not None
    query.trail.ranking = Ranking(Found(job, job.taste), Answer(), None, time.time())


@pytest.mark.parametrize("what", ["nothing", "the trend", "the request"])
async def test_answer_is_kept_or_counted_whatever_happens_meanwhile(
    generation: Generation, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[str] = []
    recorder = Recorder(cast("ReplayShelf", None), Known(), 1.0, counted.append)
    move_trend(generation, 1)
    asked = parse_recommend(b'{"history": ["i1"]}')
    query = Query(None, 3, ["i1"], [], True, None, Nobody(), Budget(0, 60, 60), recommendation_id="0" * 32, asked=asked)
    recorder.mark(query, generation)
    if what == "the trend":
        move_trend(generation, 2)
    if what == "the request":
        query.asked = object()
    await answered(query, generation)

    recorder.take("/recommend", query, generation, b'{"items":[],"took_ms":1.0}')

    assert counted == {"nothing": [], "the trend": ["moved"], "the request": ["failed"]}[what]
    assert ("a bug in keeping" in caplog.text) == (what == "the request")
