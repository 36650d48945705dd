"""The k best of a batch, against sorting every score."""

from dataclasses import replace

import numpy as np
import pytest

from service.bundle import ItemTable
from service.search.exact import Exact
from tests.service.search.slow import draw_users, slow_best, slow_scores, with_biases
from tests.service.toy import DIM, quantised

N_ITEMS = 1500


@pytest.fixture(scope="module", params=["float32", "int8", "int8 with biases"])
def table(request: pytest.FixtureRequest) -> ItemTable:
    table = ItemTable(np.random.default_rng(0).normal(size=(N_ITEMS, DIM)).astype(np.float32))
    if request.param == "float32":
        return table
    return with_biases(quantised(table)) if "biases" in request.param else quantised(table)


@pytest.mark.parametrize("k", [1, 10, 46, 47, 200, N_ITEMS])
@pytest.mark.parametrize("n_users", [1, 3, 16])
def test_best_of_a_batch_is_what_sorting_finds(table: ItemTable, k: int, n_users: int) -> None:
    rng = np.random.default_rng(k)
    search = Exact(table)
    users = rng.normal(size=(n_users, DIM)).astype(np.float32)
    masked = [rng.choice(N_ITEMS, size=10 * number, replace=False).tolist() for number in range(n_users)]

    found = search.best(search.score(users, k, 100), k, masked)

    for user, hidden, ranked in zip(users, masked, found, strict=True):
        assert ranked is not None
        scores = slow_scores(table, user)
        expected = slow_best(table, user, k, hidden)
        assert len(set(ranked[0]) - set(hidden)) == len(expected)
        np.testing.assert_allclose(scores[ranked[0]], scores[expected], atol=1e-4)
        np.testing.assert_allclose(ranked[1], scores[expected], atol=1e-4)


def test_equal_scores_come_in_the_order_of_rows(table: ItemTable) -> None:
    search = Exact(replace(table, biases=None))

    (ranked,) = search.best(search.score(np.zeros((1, DIM), np.float32), 10, 0), 2000, [[0, 2]])

    assert ranked is not None
    assert ranked[0][:3] == [1, 3, 4]


def test_many_equal_scores_still_fill_the_answer(table: ItemTable) -> None:
    without = replace(table, biases=None)
    search = Exact(without)
    users = np.stack([np.zeros(DIM, np.float32), np.ones(DIM, np.float32)])

    equal, other = search.best(search.score(users, 10, 1), 10, [list(range(700)), []])

    assert equal is not None
    assert other is not None
    assert len(set(equal[0]) - set(range(700))) == 10
    assert other[0] == slow_best(without, users[1], 10)


@pytest.mark.parametrize("k", [1, 10, 100])
def test_items_that_hardly_differ_are_told_apart(k: int) -> None:
    """Rounding a user to 7 bits would hide what distinguishes them."""
    rng = np.random.default_rng(k)
    twins = np.repeat(rng.normal(size=(1, DIM)), N_ITEMS, axis=0) + 0.01 * rng.normal(size=(N_ITEMS, DIM))
    table = quantised(ItemTable(twins.astype(np.float32)))
    search = Exact(table)
    users = rng.normal(size=(5, DIM)).astype(np.float32)

    found = search.best(search.score(users, k, 0), k, [[]] * 5)

    for user, ranked in zip(users, found, strict=True):
        assert ranked is not None
        scores = slow_scores(table, user)
        np.testing.assert_allclose(np.sort(scores)[::-1][:k], scores[ranked[0]], rtol=2e-4, atol=1e-6)


def test_user_that_is_not_finite_spoils_no_other(table: ItemTable) -> None:
    search = Exact(table)
    users = np.ones((3, DIM), dtype=np.float32)
    (alone,) = search.best(search.score(users[:1], 10, 0), 10, [[]])
    users[1] = np.float32(3e38)

    found = search.best(search.score(users, 10, 0), 10, [[], [], []])

    assert alone is not None
    assert found[1] is None
    assert [ranked[0] for ranked in (found[0], found[2]) if ranked] == [alone[0], alone[0]]


def test_everything_masked_leaves_nothing(table: ItemTable) -> None:
    search = Exact(table)

    (ranked,) = search.best(search.score(draw_users(1), 10, 0), 10, [list(range(N_ITEMS))])

    assert ranked is not None
    assert ranked[0] == []
