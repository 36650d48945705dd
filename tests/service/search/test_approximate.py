"""The approximate search against the obvious formula: nearly the best, exactly scored, never fewer than asked."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle import Bundle, ItemTable, open_bundle
from service.errors import StartError
from service.model.catalogue import Catalogue
from service.model.model import compare_golden
from service.model.student import Student
from service.search.approximate import Approximate
from service.search.choice import LEAST_RECALL, open_search
from service.search.code import Coder, Codes
from service.search.exact import Exact
from tests.service.running import Running
from tests.service.toy import DIM, quantised, write_toy

N_ITEMS = 5000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy(tmp_path_factory.mktemp("large") / "bundle", n_items=N_ITEMS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def search(bundle: Bundle, directory: Path) -> Approximate:
    return open_approximate(bundle, directory)


def open_approximate(bundle: Bundle, directory: Path) -> Approximate:
    found = open_search(bundle, Student(bundle).encode, kind="approximate", directory=directory, warn=refuse_warning)
    assert isinstance(found, Approximate)
    return found


def refuse_warning(message: str) -> None:
    raise AssertionError(message)


def draw_users(n_users: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_users, DIM)).astype(np.float32)


def slow_scores(table: ItemTable, users: np.ndarray) -> np.ndarray:
    """The same by the obvious formula."""
    scores = users @ table.dense().T
    return scores if table.biases is None else scores + table.biases


def recall(search: Approximate, table: ItemTable, users: np.ndarray, masked: np.ndarray, k: int = 100) -> float:
    """The share of the true best that is found, of exact scores."""
    found = search.best(search.score(users, k, len(masked)), k, [masked] * len(users))
    shares = []
    for scores, ranked in zip(slow_scores(table, users), found, strict=True):
        assert ranked is not None
        np.testing.assert_allclose(ranked[1], scores[ranked[0]], atol=1e-4)
        assert len(set(ranked[0]) - set(masked.tolist())) == k
        scores[masked] = -np.inf
        shares.append(len(set(ranked[0]) & set(np.argsort(-scores)[:k].tolist())) / k)
    return float(np.mean(shares))


def test_best_hundred_are_found(bundle: Bundle, search: Approximate) -> None:
    assert recall(search, bundle.table, draw_users(50), np.zeros(0, dtype=np.int64)) >= LEAST_RECALL
    assert search.recall >= LEAST_RECALL
    assert search.depths[0] <= search.depths[1] < N_ITEMS


def test_best_ten_are_found_and_so_they_are_without_fifty_of_the_best(bundle: Bundle, search: Approximate) -> None:
    users = draw_users(50)
    popular = np.argsort(-slow_scores(bundle.table, users).mean(axis=0))[:50]

    assert recall(search, bundle.table, users, np.zeros(0, dtype=np.int64), k=10) >= 0.98
    assert recall(search, bundle.table, users, popular, k=10) >= 0.98


def test_best_of_the_rest_are_found_when_the_best_are_masked(bundle: Bundle, search: Approximate) -> None:
    user = draw_users(1)
    best = np.argsort(-slow_scores(bundle.table, user)[0])[:1000]

    assert recall(search, bundle.table, user, best) >= 0.95


def test_more_than_a_hundred_are_looked_for_deeper(bundle: Bundle, search: Approximate) -> None:
    assert recall(search, bundle.table, draw_users(20), np.zeros(0, dtype=np.int64), k=200) >= 0.98


@pytest.mark.parametrize("n_left", [0, 1, 7])
def test_everything_left_is_shown_when_nearly_all_is_masked(bundle: Bundle, search: Approximate, n_left: int) -> None:
    (ranked,) = search.best(search.score(draw_users(1), 10, 0), 10, [np.arange(n_left, N_ITEMS)])

    assert ranked is not None
    assert sorted(ranked[0]) == list(range(n_left))


def test_directions_in_which_items_hardly_differ_are_not_coded(tmp_path: Path) -> None:
    items, users = draw_users(N_ITEMS, seed=4), draw_users(50)
    items[:, DIM // 2 :] *= 0.01

    codes = make_codes(items, users, tmp_path / "narrow")
    make_codes(draw_users(N_ITEMS), users, tmp_path / "wide")

    assert (tmp_path / "narrow" / "codes.faiss").stat().st_size < (tmp_path / "wide" / "codes.faiss").stat().st_size
    for scores, nearest in zip(users @ items.T, codes.nearest(users, 500, is_thorough=True), strict=True):
        assert len(set(np.argsort(-scores)[:100]) & set(nearest)) >= 99


def make_codes(items: np.ndarray, users: np.ndarray, directory: Path) -> Codes:
    coder = Coder(users, items, 2, 16)
    coder.add(items)
    codes = coder.finish()
    directory.mkdir()
    codes.save(directory)
    return codes


def test_masks_are_of_one_user_only(search: Approximate) -> None:
    users = np.repeat(draw_users(1), 2, axis=0)
    (alone,) = search.best(search.score(users[:1], 10, 0), 10, [()])
    assert alone is not None

    found = search.best(search.score(users, 10, 5), 10, [alone[0][:5], ()])

    assert [ranked[0] for ranked in found if ranked][1] == alone[0]


def test_many_users_are_answered_alike_whichever_way_lists_are_gone_through(
    search: Approximate, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = draw_users(8)
    alone = [search.best(search.score(user[None], 10, 0), 10, [()])[0] for user in users]

    monkeypatch.setattr("service.search.code._CACHED_BYTES", 0)
    together = search.best(search.score(users, 10, 0), 10, [()] * 8)

    for one, other in zip(alone, together, strict=True):
        assert one is not None and other is not None
        assert one[0] == other[0]
        np.testing.assert_allclose(one[1], other[1], rtol=1e-6)


def test_line_that_is_not_finite_spoils_no_other(search: Approximate) -> None:
    users = draw_users(3)
    (alone,) = search.best(search.score(users[:1], 10, 0), 10, [()])
    users[1] = np.float32(3e38)

    found = search.best(search.score(users, 10, 0), 10, [(), (), ()])

    assert alone is not None and found[0] is not None
    assert found[0][0] == alone[0]
    assert found[1] is None
    assert found[2] is not None


def biased(table: ItemTable) -> ItemTable:
    return ItemTable(table.dense(), biases=np.random.default_rng(3).normal(size=N_ITEMS).astype(np.float32))


@pytest.mark.parametrize("change", [quantised, biased])
def test_scales_and_biases_count(bundle: Bundle, tmp_path: Path, change: Callable[[ItemTable], ItemTable]) -> None:
    changed = replace(bundle, table=change(bundle.table))

    search = open_approximate(changed, tmp_path)

    assert recall(search, changed.table, draw_users(30), np.zeros(0, dtype=np.int64)) >= 0.98


def test_codes_are_kept_for_the_version_and_not_in_the_bundle(
    bundle: Bundle, directory: Path, search: Approximate
) -> None:
    files = {path: path.stat().st_ino for path in directory.rglob("*.*") if path.is_file()}

    again = open_approximate(bundle, directory)

    assert {path: path.stat().st_ino for path in directory.rglob("*.*") if path.is_file()} == files
    assert any(bundle.manifest.version in str(path) for path in files)
    assert (again.depths, again.recall) == (search.depths, search.recall)
    open_bundle(bundle.path)  # would refuse a file that its manifest does not list


@pytest.mark.parametrize("name", ["codes.faiss", "user_map.npy", "plan.json"])
def test_kept_codes_that_are_damaged_are_made_anew(
    bundle: Bundle, directory: Path, search: Approximate, tmp_path: Path, name: str
) -> None:
    kept = shutil.copytree(directory, tmp_path / "kept")
    (file,) = kept.rglob(name)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    again = open_approximate(bundle, kept)

    assert recall(again, bundle.table, draw_users(10), np.zeros(0, dtype=np.int64)) >= LEAST_RECALL
    assert file.stat().st_size > 1


def test_codes_are_made_anew_where_nothing_can_be_kept(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []

    found = open_search(
        bundle, Student(bundle).encode, kind="approximate", directory=tmp_path / "file" / "index", warn=said.append
    )

    assert isinstance(found, Approximate)
    assert "cannot be kept" in said[0]


def test_small_catalogue_is_searched_exactly(bundle: Bundle, tmp_path: Path) -> None:
    found = open_search(bundle, Student(bundle).encode, kind="auto", directory=tmp_path, warn=refuse_warning)

    assert isinstance(found, Exact)
    assert not list(tmp_path.iterdir())


def test_codes_of_another_table_are_refused_by_the_golden_answers(bundle: Bundle, search: Approximate) -> None:
    other = write_toy(bundle.path.parent / "other", n_items=N_ITEMS, seed=9)
    mixed = Approximate(other.table, search._codes, depths=search.depths, recall=search.recall)

    with pytest.raises(StartError, match="does not find the golden answers"):
        compare_golden(other, Student(other), Catalogue(other, mixed))


def test_service_says_how_it_searches(bundle: Bundle, tmp_path: Path) -> None:
    with Running(bundle.path, tmp_path, index="approximate") as running:
        told = running.client.get("/model").json()["index"]
        answer = running.recommend(history=["i1", "i2"], k=20, exclude=["i3"], exclude_seen=True)

        assert told["kind"] == "approximate"
        assert running.metric("retort_index_recall") == told["recall_at_100"] >= LEAST_RECALL
        assert answer["quality"] == {"level": "full", "reasons": []}
        assert len({item["item_id"] for item in answer["items"]} - {"i1", "i2", "i3"}) == 20
