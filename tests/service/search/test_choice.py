"""Which search a catalogue gets."""

from pathlib import Path

import pytest

from service.bundle import Bundle
from service.model.student import Student
from service.search.approximate import Approximate
from service.search.choice import open_search
from service.search.exact import Exact
from service.search.measured_code import LEAST_RECALL, MeasuredCodes
from tests.service.running import Running
from tests.service.search.conftest import refuse_warning


def test_small_catalogue_is_searched_exactly(large_bundle: Bundle, tmp_path: Path) -> None:
    found = open_search(
        large_bundle, Student(large_bundle).encode, kind="auto", directory=tmp_path, warn=refuse_warning
    )

    assert isinstance(found, Exact)
    assert not list(tmp_path.iterdir())


def test_table_beyond_the_limit_is_searched_through_codes(
    large_bundle: Bundle, directory: Path, search: Approximate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.search.choice.EXACT_BYTES", large_bundle.table.embeddings.nbytes - 1)

    found = open_search(
        large_bundle, Student(large_bundle).encode, kind="auto", directory=directory, warn=refuse_warning
    )

    assert isinstance(found, Approximate)


def test_codes_are_made_anew_where_nothing_can_be_kept(large_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []

    found = open_search(
        large_bundle,
        Student(large_bundle).encode,
        kind="approximate",
        directory=tmp_path / "file" / "index",
        warn=said.append,
    )

    assert isinstance(found, Approximate)
    assert "cannot be kept" in said[0]


def test_codes_that_find_too_little_are_not_used(
    large_bundle: Bundle, search: Approximate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = MeasuredCodes(search.measured.codes, search.measured.depths, LEAST_RECALL - 0.001)
    monkeypatch.setattr("service.search.choice.make_codes", lambda bundle, encode: poor)
    said: list[str] = []

    found = open_search(
        large_bundle, Student(large_bundle).encode, kind="approximate", directory=tmp_path, warn=said.append
    )

    assert isinstance(found, Exact)
    assert said == ["codes find only 0.989 of the best 100: searching exactly, which is slow"]


def test_service_says_how_it_searches(large_bundle: Bundle, tmp_path: Path) -> None:
    with Running(large_bundle.path, tmp_path, index="approximate") as running:
        told = running.client.get("/model").json()["index"]
        answer = running.recommend(history=["i1", "i2"], k=20, exclude=["i3"], exclude_seen=True)

        assert told["kind"] == "approximate"
        assert running.metric("retort_index_recall") == told["recall_at_100"] >= LEAST_RECALL
        assert answer["quality"] == {"level": "full", "reasons": []}
        assert len({item["item_id"] for item in answer["items"]} - {"i1", "i2", "i3"}) == 20
