"""The K best of a batch, against sorting every score."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle import Bundle, ItemTable, open_bundle
from service.model.catalogue import Catalogue
from service.search.matmul import IntegerProduct
from tests.service.toy import DIM, quantised, write_toy

N_ITEMS = 1500


@pytest.fixture(scope="module", params=["float32", "int8", "int8 with biases"])
def bundle(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Bundle:
    bundle = write_toy(tmp_path_factory.mktemp("large") / "bundle", n_items=N_ITEMS)
    if request.param == "float32":
        return bundle
    biases = np.random.default_rng(3).normal(size=N_ITEMS).astype(np.float32) if "biases" in request.param else None
    return replace(bundle, table=replace(quantised(bundle.table), biases=biases))


def slow_scores(table: ItemTable, users: np.ndarray) -> np.ndarray:
    scores = users @ table.dense().T
    return scores if table.biases is None else scores + table.biases


def slow_best(table: ItemTable, user: np.ndarray, k: int, masked: list[int]) -> list[int]:
    """The same by the obvious formula."""
    scores = slow_scores(table, user)
    allowed = [row for row in range(len(scores)) if row not in set(masked)]
    return sorted(allowed, key=lambda row: (-scores[row], row))[:k]


@pytest.mark.parametrize("k", [1, 10, 46, 47, 200, N_ITEMS])
@pytest.mark.parametrize("n_users", [1, 3, 16])
def test_best_of_a_batch_is_what_sorting_finds(bundle: Bundle, k: int, n_users: int) -> None:
    rng = np.random.default_rng(k)
    index = Catalogue(bundle)
    users = rng.normal(size=(n_users, DIM)).astype(np.float32)
    masked = [rng.choice(N_ITEMS, size=10 * line, replace=False).tolist() for line in range(n_users)]

    found = index.best(index.score(users, k, 100), k, masked)

    for user, hidden, ranked in zip(users, masked, found, strict=True):
        assert ranked is not None
        scores = slow_scores(bundle.table, user)
        expected = slow_best(bundle.table, user, k, hidden)
        assert len(set(ranked[0]) - set(hidden)) == len(expected)
        np.testing.assert_allclose(scores[ranked[0]], scores[expected], atol=1e-4)
        np.testing.assert_allclose(ranked[1], scores[expected], atol=1e-4)


def test_equal_scores_come_in_the_order_of_rows(bundle: Bundle) -> None:
    table = bundle.table if bundle.table.biases is None else replace(bundle.table, biases=None)
    index = Catalogue(replace(bundle, table=table))

    (ranked,) = index.best(index.score(np.zeros((1, DIM), np.float32), 10, 0), 2000, [[0, 2]])

    assert ranked is not None
    assert ranked[0][:3] == [1, 3, 4]


def test_many_equal_scores_still_fill_the_answer(bundle: Bundle) -> None:
    table = replace(bundle.table, biases=None)
    index = Catalogue(replace(bundle, table=table))
    users = np.stack([np.zeros(DIM, np.float32), np.ones(DIM, np.float32)])

    equal, other = index.best(index.score(users, 10, 1), 10, [list(range(700)), []])

    assert equal is not None
    assert other is not None
    assert len(set(equal[0]) - set(range(700))) == 10
    assert other[0] == slow_best(table, users[1], 10, [])


@pytest.mark.parametrize("k", [1, 10, 100])
def test_items_that_hardly_differ_are_told_apart(bundle: Bundle, k: int) -> None:
    """Rounding a user to 7 bits hides what distinguishes them."""
    rng = np.random.default_rng(k)
    twins = np.repeat(rng.normal(size=(1, DIM)), N_ITEMS, axis=0) + 0.01 * rng.normal(size=(N_ITEMS, DIM))
    table = quantised(ItemTable(twins.astype(np.float32)))
    index = Catalogue(replace(bundle, table=table))
    users = rng.normal(size=(5, DIM)).astype(np.float32)

    found = index.best(index.score(users, k, 0), k, [[]] * 5)

    for user, ranked in zip(users, found, strict=True):
        assert ranked is not None
        scores = slow_scores(table, user)
        np.testing.assert_allclose(np.sort(scores)[::-1][:k], scores[ranked[0]], rtol=2e-4, atol=1e-6)


def test_line_that_is_not_finite_spoils_no_other(bundle: Bundle) -> None:
    index = Catalogue(bundle)
    users = np.ones((3, DIM), dtype=np.float32)
    alone = index.best(index.score(users[:1], 10, 0), 10, [[]])[0]
    users[1] = np.float32(3e38)

    found = index.best(index.score(users, 10, 0), 10, [[], [], []])

    assert alone is not None
    assert found[1] is None
    assert [ranked[0] for ranked in (found[0], found[2]) if ranked] == [alone[0], alone[0]]


def test_integer_product_saturates_nowhere() -> None:
    """The worst that there is: every product of one sign and full size."""
    table = ItemTable(np.full((64, 2000), 127, dtype=np.int8), np.ones(64, dtype=np.float32))
    table.embeddings[1::2] *= -1
    users = np.full((3, 2000), 2.0, dtype=np.float32)
    users[1] *= -1

    scores = IntegerProduct(np.ascontiguousarray(table.embeddings.T), table.scales)(users)

    np.testing.assert_allclose(scores, slow_scores(table, users), rtol=2e-4)


def test_integer_product_errs_little() -> None:
    rng = np.random.default_rng(5)
    table = quantised(ItemTable(rng.normal(size=(1000, 384)).astype(np.float32)))
    users = rng.normal(size=(40, 384)).astype(np.float32)
    scores = slow_scores(table, users)

    found = IntegerProduct(np.ascontiguousarray(table.embeddings.T), table.scales)(users)

    assert np.abs(found - scores).max() < 2e-4 * np.abs(scores).max()


def test_rough_product_errs_no_more_than_it_says() -> None:
    rng = np.random.default_rng(6)
    table = quantised(ItemTable(rng.normal(size=(1000, 384)).astype(np.float32)))
    users = rng.normal(size=(40, 384)).astype(np.float32)

    found, units, lost = IntegerProduct(np.ascontiguousarray(table.embeddings.T), table.scales).rough(users)

    errors = np.abs(found * units[:, None] - slow_scores(table, users))
    typical = lost[:, None] * np.linalg.norm(table.dense(), axis=1) / 384**0.5
    assert 0.9 < np.sqrt(np.mean((errors / typical) ** 2)) < 1.1
    assert (errors / typical).max() < 6


def test_everything_masked_leaves_nothing(toy_bundle: Path) -> None:
    index = Catalogue(open_bundle(toy_bundle))

    (ranked,) = index.best(index.score(np.ones((1, DIM), np.float32), 10, 0), 10, [list(range(len(index)))])

    assert ranked is not None
    assert ranked[0] == []


def test_rendered_items_are_json_whatever_is_in_the_ids(toy_bundle: Path) -> None:
    index = Catalogue(open_bundle(toy_bundle))

    assert index.render(([3, 1], np.array([0.1, -2], dtype=np.float32))) == (
        b'{"item_id":"i3","score":0.1},{"item_id":"i1","score":-2.0}'
    )
    assert index.render(([], np.zeros(0, dtype=np.float32))) == b""
