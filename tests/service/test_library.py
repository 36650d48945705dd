"""The library gives the service's answers, and does without what serves only HTTP and the store."""

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle import ItemTable, write_bundle
from service.errors import RequestError, StartError
from service.library import Retort
from tests.service.running import Running
from tests.service.toy import (
    MAX_HISTORY,
    N_ITEMS,
    golden_of,
    golden_sum,
    mean_encoder,
    quantised,
    toy_items,
    toy_parts,
    write_toy,
    write_toy_sum,
)

HEAVY = ("asyncio", "faiss", "fastapi", "prometheus_client", "pydantic", "redis", "uvicorn")


def write_int8(out: Path, *, is_sum: bool) -> Path:
    """Write a toy bundle whose table is int8."""
    table = quantised(ItemTable(np.random.default_rng(3).normal(size=(N_ITEMS, 8)).astype(np.float32)))
    if is_sum:
        table = replace(table, parts=toy_parts(as_of=round(time.time()) - 100.0))
    golden = [golden_sum(table, [1], time.time())] if is_sum else golden_of(table, [[], [1, 2]])
    manifest = {"created_at": "2026-01-01T00:00:00+00:00", "max_history": MAX_HISTORY, "repeat_consumption": False}
    parts = {"encoder": mean_encoder(8), "table": table, "items": toy_items(), "golden": golden, "manifest": manifest}
    return write_bundle(out, **parts).path


def questions(seed: int, n_questions: int):
    """Yield random requests, also with ids that nobody knows."""
    rng = random.Random(seed)
    ids = [f"i{row}" for row in range(N_ITEMS)] + ["unknown"]
    for _ in range(n_questions):
        asked = {"history": rng.choices(ids, k=rng.choice([0, 1, 3, 12])), "k": rng.choice([1, 5, 10, 200])}
        if rng.random() < 0.3:
            asked["exclude"] = rng.choices(ids, k=4)
        if rng.random() < 0.3:
            asked["candidates"] = rng.choices(ids, k=6)
        if rng.random() < 0.5:
            asked["exclude_seen"] = rng.random() < 0.5
        yield asked


def is_same(answer, other):
    """Whether two answers are the same but for what is of the moment."""
    scores = [[item["score"] for item in each["items"]] for each in (answer, other)]
    most = max(map(abs, scores[0]), default=1.0)
    assert [i["item_id"] for i in answer["items"]] == [i["item_id"] for i in other["items"]]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4 * most)
    assert answer["quality"] == other["quality"]
    assert answer["ignored_ids"] == other["ignored_ids"]
    assert answer.keys() == other.keys()
    assert answer["model_version"] == other["model_version"]


@pytest.mark.parametrize("kind", ["float32", "int8", "sum"])
def test_library_answers_as_the_service_does(kind: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    if kind == "float32":
        write_toy(bundle)
    else:
        write_int8(bundle, is_sum=kind == "sum")
    retort = Retort.load(bundle)

    with Running(bundle, tmp_path / "data") as service:
        for asked in questions(1, 60):
            is_same(retort.recommend(**asked), service.recommend(**asked))


def test_many_histories_are_answered_as_each_alone(tmp_path: Path) -> None:
    retort = Retort.load(write_toy_sum(tmp_path / "bundle").path)
    histories = [asked["history"] for asked in questions(2, 70)]

    answers = retort.recommend_many(histories, 5, exclude=["i4"])

    for history, answer in zip(histories, answers, strict=True):
        is_same(answer, retort.recommend(history, 5, exclude=["i4"]))
    assert len({answer["recommendation_id"] for answer in answers}) == len(answers) == 70
    assert retort.recommend_many([]) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"history": "i1"}, "history: a list"),
        ({"history": [1]}, "history.0: an id must be a text"),
        ({"history": ["i1", ""]}, "history.1: an id must have 1 to 128"),
        ({"exclude": 3}, "exclude: a list"),
        ({"candidates": ["a\n"]}, "candidates.0: an id must not contain control"),
        ({"k": 0}, "k: a whole number"),
        ({"k": True}, "k: a whole number"),
        ({"exclude_seen": 1}, "exclude_seen: true, false or nothing"),
    ],
)
def test_a_wrong_request_is_named(asked, message, toy_bundle: Path) -> None:
    with pytest.raises(RequestError, match=message):
        Retort.load(toy_bundle).recommend(**asked)


def test_a_bundle_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle").path
    items = bundle / "items.jsonl"
    items.write_bytes(items.read_bytes()[:-1])

    with pytest.raises(StartError, match=r"items.jsonl: .* bytes, the manifest says"):
        Retort.load(bundle)
    with pytest.raises(StartError, match="no manifest"):
        Retort.load(tmp_path)


def test_library_imports_nothing_that_only_a_server_needs(toy_bundle: Path) -> None:
    program = (
        "import sys; from service.library import Retort;"
        f"print(len(Retort.load({str(toy_bundle)!r}).recommend(['i1'])['items']), {HEAVY} & sys.modules.keys())"
    ).replace(f"{HEAVY} &", f"set({HEAVY}) &")

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["10", "set()"]
