"""The library gives the service's answers, and does without what serves only HTTP and the store."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import RequestError, StartError
from service.library import Retort
from tests.service.asked import KINDS, assert_same, questions, write_kind
from tests.service.running import Running
from tests.service.toy import write_toy, write_toy_sum

HEAVY = (
    "asyncio", "faiss", "fastapi", "numpy.random", "prometheus_client", "pydantic", "redis", "sqlite3", "statistics",
    "uvicorn",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_library_answers_as_the_service_does(kind: str, tmp_path: Path) -> None:
    bundle = write_kind(tmp_path / "bundle", kind).path
    retort = Retort.load(bundle)

    with Running(bundle, tmp_path / "data") as service:
        for asked in questions(1, 40, retort.item_ids, has_trend="sum" in kind):
            answer, expected = retort.recommend(**asked), service.recommend(**asked)
            assert_same(answer, expected)
            assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in expected["items"]]


def test_many_histories_are_answered_as_each_alone(tmp_path: Path) -> None:
    retort = Retort.load(write_toy_sum(tmp_path / "bundle").path)
    histories = [asked["history"] for asked in questions(2, 70, retort.item_ids)]

    answers = retort.recommend_many(histories, 5, exclude=["i4"])

    for history, answer in zip(histories, answers, strict=True):
        assert_same(answer, retort.recommend(history, 5, exclude=["i4"]))
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
        ({"trend": True}, "trend: a number from 0 to 10"),
        ({"trend": -1}, "trend: a number from 0 to 10"),
        ({"trend": float("nan")}, "trend: a number from 0 to 10"),
        ({"trend": 0.5}, "trend: the scores of the model that answers have no trend"),
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
