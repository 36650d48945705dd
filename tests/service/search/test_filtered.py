"""Searches of filtered rows, exact and approximate, against a plain ranking of the whole catalogue."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import Bundle
from service.search import approximate
from service.search.approximate import Approximate
from service.search.exact import Exact
from tests.service.search.slow import draw_users, slow_scores
from tests.service.toy import quantised

N_ITEMS = 5000


@pytest.fixture(params=[0, N_ITEMS], ids=["masked in the scan", "all scored"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let few or many rows be scored whatever their number: a test's catalogue is small."""
    monkeypatch.setattr(approximate, "FEW_ALLOWED", request.param)
    yield


def drawn(share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(N_ITEMS) < share


def expected(scores: np.ndarray, allowed: np.ndarray | None, masked: list[int], k: int) -> list[int]:
    rows = [row for row in range(N_ITEMS) if (allowed is None or allowed[row]) and row not in masked]
    return sorted(rows, key=lambda row: (-scores[row], row))[:k]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.sampled_from([0.0, 0.0005, 0.01, 0.5, 1.0]), k=st.sampled_from([1, 10, 100]), seed=st.integers(0, 9))
@pytest.mark.parametrize("is_int8", [False, True])
def test_exact_search_gives_the_best_allowed_rows(
    large_bundle: Bundle, *, is_int8: bool, share: float, k: int, seed: int
) -> None:
    table = quantised(large_bundle.table) if is_int8 else large_bundle.table
    exact, users, allowed = Exact(table), draw_users(3, seed), [drawn(share, seed), None, drawn(0.3, seed + 1)]
    masked = [[1, 2], [3], []]

    found = exact.best(exact.score(users, k, 2, None, allowed), k, masked)

    for scores, ranked, mask, hidden in zip(slow_scores(table, users), found, allowed, masked, strict=True):
        assert ranked is not None
        best = expected(scores, mask, hidden, k)
        assert len(ranked[0]) == len(best)
        np.testing.assert_allclose(ranked[1], scores[best], atol=1e-4)
        assert mask is None or mask[ranked[0]].all()
        assert not set(ranked[0]) & set(hidden)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.005, 0.0])
def test_approximate_search_finds_the_best_allowed_rows(
    large_bundle: Bundle, search: Approximate, each_way: None, share: float
) -> None:
    users, allowed = draw_users(20), drawn(share)
    masks = [allowed if number % 2 == 0 else None for number in range(20)]
    masked = np.arange(10)

    found = search.best(search.score(users, 100, 10, None, masks), 100, [masked] * 20)

    shares = []
    for scores, ranked, mask in zip(slow_scores(large_bundle.table, users), found, masks, strict=True):
        assert ranked is not None
        best = expected(scores, mask, masked.tolist(), 100)
        assert len(ranked[0]) == len(set(ranked[0])) == len(best)
        np.testing.assert_allclose(ranked[1], scores[ranked[0]], atol=1e-4)
        assert mask is None or mask[ranked[0]].all()
        assert not set(ranked[0]) & set(range(10))
        shares.append(len(set(ranked[0]) & set(best)) / max(1, len(best)) if best else 1.0)
    assert np.mean(shares) >= 0.99


def test_filter_of_one_group_of_like_items_is_searched_as_well(
    large_bundle: Bundle, search: Approximate, each_way: None
) -> None:
    users = draw_users(20)
    allowed = large_bundle.table.dense()[:, 0] > 1.0

    found = search.best(search.score(users, 100, 0, None, [allowed] * 20), 100, [()] * 20)

    shares = [
        len(set(ranked[0]) & set(expected(scores, allowed, [], 100))) / 100
        for scores, ranked in zip(slow_scores(large_bundle.table, users), found, strict=True)
        if ranked is not None
    ]
    assert len(shares) == 20
    assert np.mean(shares) >= 0.99
