"""The approximate search against the obvious formula: nearly the best, exactly scored, never fewer than asked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle import Bundle, ItemTable
from service.search.addend import NOTHING, Boosted
from service.search.approximate import Approximate
from service.search.measured_code import LEAST_RECALL
from tests.service.search.conftest import open_approximate
from tests.service.search.slow import draw_users, slow_scores, with_biases
from tests.service.toy import quantised

NONE = np.zeros(0, dtype=np.int64)


def recall(search: Approximate, table: ItemTable, users: np.ndarray, masked: np.ndarray, k: int = 100) -> float:
    """The share of the true best that is found; every score found is checked."""
    found = search.best(search.score(users, k, len(masked)), k, [masked] * len(users))
    shares = []
    for scores, ranked in zip(slow_scores(table, users), found, strict=True):
        assert ranked is not None
        np.testing.assert_allclose(ranked[1], scores[ranked[0]], atol=1e-4)
        assert len(set(ranked[0]) - set(masked.tolist())) == k
        scores[masked] = -np.inf
        shares.append(len(set(ranked[0]) & set(np.argsort(-scores)[:k].tolist())) / k)
    return float(np.mean(shares))


def test_best_hundred_are_found(large_bundle: Bundle, search: Approximate) -> None:
    assert recall(search, large_bundle.table, draw_users(50), NONE) >= LEAST_RECALL
    assert search.recall >= LEAST_RECALL
    for_few, for_many = search.measured.depths
    assert for_few <= for_many < len(large_bundle.items)


def test_best_ten_are_found_and_so_they_are_without_fifty_of_the_best(
    large_bundle: Bundle, search: Approximate
) -> None:
    users = draw_users(50)
    popular = np.argsort(-slow_scores(large_bundle.table, users).mean(axis=0))[:50]

    assert recall(search, large_bundle.table, users, NONE, k=10) >= 0.98
    assert recall(search, large_bundle.table, users, popular, k=10) >= 0.98


def test_best_of_the_rest_are_found_when_the_best_are_masked(large_bundle: Bundle, search: Approximate) -> None:
    user = draw_users(1)
    best = np.argsort(-slow_scores(large_bundle.table, user)[0])[:1000]

    assert recall(search, large_bundle.table, user, best) >= 0.95


def test_more_than_a_hundred_are_looked_for_deeper(large_bundle: Bundle, search: Approximate) -> None:
    assert recall(search, large_bundle.table, draw_users(20), NONE, k=200) >= 0.98


@pytest.mark.parametrize("n_left", [0, 1, 7])
def test_everything_left_is_shown_when_nearly_all_is_masked(
    large_bundle: Bundle, search: Approximate, n_left: int
) -> None:
    masked = np.arange(n_left, len(large_bundle.items))

    (ranked,) = search.best(search.score(draw_users(1), 10, 0), 10, [masked])

    assert ranked is not None
    assert sorted(ranked[0]) == list(range(n_left))


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


def test_user_that_is_not_finite_spoils_no_other(search: Approximate) -> None:
    users = draw_users(3)
    (alone,) = search.best(search.score(users[:1], 10, 0), 10, [()])
    users[1] = np.float32(3e38)

    found = search.best(search.score(users, 10, 0), 10, [(), (), ()])

    assert alone is not None and found[0] is not None
    assert found[0][0] == alone[0]
    assert found[1] is None
    assert found[2] is not None


@pytest.mark.parametrize("change", [quantised, with_biases])
def test_scales_and_biases_count(
    large_bundle: Bundle, tmp_path: Path, change: Callable[[ItemTable], ItemTable]
) -> None:
    changed = replace(large_bundle, table=change(large_bundle.table))

    search = open_approximate(changed, tmp_path)

    assert recall(search, changed.table, draw_users(30), NONE) >= 0.98


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5])
@pytest.mark.parametrize("added", [-3.0, 0.4, 2.0, 30.0])
def test_boosted_items_are_found_however_many_they_are(
    large_bundle: Bundle, search: Approximate, share: float, added: float
) -> None:
    table, users = large_bundle.table, draw_users(20)
    boost = (np.random.default_rng(7).random(len(table.embeddings)) < share).astype(np.float32) * np.float32(added)
    masked = np.arange(0, 3000, 3)
    true = slow_scores(table, users) + boost
    true[:, masked] = -np.inf

    addends = [Boosted(NOTHING, boost)] * len(users)
    found = search.best(search.score(users, 20, len(masked), addends), 20, [masked] * len(users))

    shares = []
    for scores, ranked in zip(true, found, strict=True):
        assert ranked is not None
        np.testing.assert_allclose(ranked[1], scores[ranked[0]], atol=1e-4)
        shares.append(len(set(ranked[0]) & set(np.argsort(-scores)[:20].tolist())) / 20)
    assert np.mean(shares) >= LEAST_RECALL
    assert not search._is_masked.any()
