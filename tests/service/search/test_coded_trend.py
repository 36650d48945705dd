"""The search through codes where the score is a sum whose trend moves, against the plain sum of every item."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import Bundle, Parts, add_up
from service.search.addend import Addends, stand, weigh
from service.search.approximate import Approximate
from service.search.code import open_codes
from service.search.coded_trend import MOST_RISEN, CodedTrend
from service.search.measured_code import LEAST_RECALL
from tests.service.search.conftest import open_approximate
from tests.service.search.slow import draw_users, slow_scores
from tests.service.toy import toy_parts, write_toy_sum

N_ITEMS = 5000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Counts of a power law: most items have hardly any."""
    parts = toy_parts(N_ITEMS)
    counts = np.random.default_rng(1).pareto(0.7, size=(1, N_ITEMS)).astype(np.float32)
    return write_toy_sum(
        tmp_path_factory.mktemp("sum") / "bundle", n_items=N_ITEMS, parts=Parts(parts.rule, parts.neighbours, counts)
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module", autouse=True)
def few_are_always_scored() -> Iterator[None]:
    """Let the codes find the rest: in a small catalogue nearly all of the best trend as high as 400 others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.search.addend.MOST_TRENDING", 10)
        yield


@pytest.fixture(scope="module")
def search(bundle: Bundle, kept: Path) -> Approximate:
    return open_approximate(bundle, kept)


def moved(bundle: Bundle, fade: float, n_events: int, seed: int) -> np.ndarray:
    """The bundle's counts once they have faded and more events were heard."""
    parts = bundle.table.parts
    assert parts is not None and parts.counts is not None
    counts = np.asarray(parts.counts[0]) * np.float32(fade)
    np.add.at(counts, np.random.default_rng(seed).integers(0, N_ITEMS, n_events), 1)
    return counts


def ask(
    bundle: Bundle, counts: np.ndarray, histories: Sequence[Sequence[int]], seed: int
) -> tuple[np.ndarray, Addends, np.ndarray]:
    """Users as a search takes them, what is added to their scores, and the plain sum of every item."""
    parts = bundle.table.parts
    assert parts is not None
    users, gaps = draw_users(len(histories), seed), np.linspace(0.0, 16.0, len(histories))
    weighed, addends = weigh(parts, users, histories, gaps, stand(parts, counts))
    return weighed, addends, add_up(parts, slow_scores(bundle.table, users), histories, gaps, counts).whole


def recall(found: list, true: np.ndarray, k: int) -> float:
    """The share of the best of the sum that is found; every score found is checked."""
    shares = []
    for scores, ranked in zip(true, found, strict=True):
        np.testing.assert_allclose(ranked[1], scores[ranked[0]], atol=1e-4)
        shares.append(len(set(ranked[0]) & set(np.argsort(-scores)[:k].tolist())) / k)
    return float(np.mean(shares))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(fade=st.sampled_from([1.0, 0.5, 0.05]), n_events=st.sampled_from([0, 300, 5000]), seed=st.integers(0, 99))
def test_best_of_the_sum_are_found_wherever_the_trend_has_moved(
    bundle: Bundle, search: Approximate, fade: float, n_events: int, seed: int
) -> None:
    histories = np.random.default_rng(seed).integers(0, N_ITEMS, size=(40, 5)).tolist()
    users, addends, true = ask(bundle, moved(bundle, fade, n_events, seed), histories, seed)

    found = search.best(search.score(users, 100, 0, addends), 100, [()] * len(users))

    assert recall(found, true, 100) >= LEAST_RECALL


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_best_of_the_sum_that_a_filter_allows_are_found(
    bundle: Bundle, search: Approximate, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr("service.search.approximate.FEW_ALLOWED", 0)
    histories = np.random.default_rng(3).integers(0, N_ITEMS, size=(40, 5)).tolist()
    users, addends, true = ask(bundle, moved(bundle, 0.5, 500, 3), histories, 3)
    allowed = np.random.default_rng(4).random(N_ITEMS) < share
    true[:, ~allowed] = -np.inf

    found = search.best(search.score(users, 50, 0, addends, [allowed] * 40), 50, [()] * 40)

    assert recall(found, true, 50) >= LEAST_RECALL


def test_codes_without_their_trend_find_less(bundle: Bundle, search: Approximate) -> None:
    """Else the tests above would show nothing."""
    histories = np.random.default_rng(5).integers(0, N_ITEMS, size=(40, 5)).tolist()
    users, addends, true = ask(bundle, moved(bundle, 1.0, 0, 5), histories, 5)
    depth = search.measured.depths[1]
    weights = np.array([addend.weight for addend in addends], dtype=np.float32)

    def share(trend: np.ndarray | None) -> float:
        rows = search.measured.codes.nearest(users, depth, trend=trend)
        best = np.argsort(-true, axis=1)[:, :100]
        return float(np.mean([np.isin(own, near).mean() for own, near in zip(best, rows, strict=True)]))

    assert share(weights) > share(None) + 0.02


def test_search_is_measured_as_one_of_a_sum(search: Approximate) -> None:
    assert search.recall >= LEAST_RECALL
    assert search.measured.codes.levels is not None
    assert len(search.measured.codes.levels) == N_ITEMS


def test_opened_codes_have_the_levels_of_the_saved_ones(search: Approximate, tmp_path: Path) -> None:
    codes, users, weights = search.measured.codes, draw_users(5), np.linspace(0, 2, 5).astype(np.float32)

    codes.save(tmp_path)
    opened = open_codes(tmp_path)

    np.testing.assert_array_equal(opened.levels, codes.levels)
    np.testing.assert_array_equal(opened.nearest(users, 200, trend=weights), codes.nearest(users, 200, trend=weights))


def test_damaged_levels_are_made_anew(bundle: Bundle, search: Approximate, kept: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(kept, tmp_path / "kept")
    (file,) = copied.rglob("levels.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])

    again = open_approximate(bundle, copied)

    assert again.describe() == search.describe()
    assert file.read_bytes() == whole


@settings(max_examples=30, deadline=None)
@given(n_items=st.integers(1, 300), n_risen=st.integers(0, 300), fade=st.floats(0.01, 1.0), seed=st.integers(0, 99))
def test_levels_stand_for_the_mean_of_their_items_and_who_rose_is_known(
    n_items: int, n_risen: int, fade: float, seed: int
) -> None:
    rng, parts = np.random.default_rng(seed), toy_parts(n_items)
    levels = rng.integers(0, 16, n_items).astype(np.uint8)
    counts = (np.exp(levels.astype(np.float32)) * fade).astype(np.float32)
    counts[rng.permutation(n_items)[:n_risen]] *= 1e4
    standing = stand(parts, counts)

    followed = CodedTrend(levels, np.arange(16, dtype=np.float32)).follow(standing)

    for level in range(16):
        own = standing.logs[levels == level]
        assert followed.heights[level] == pytest.approx(own.mean() if len(own) else level, abs=1e-3)
    rise = standing.logs - followed.heights[levels]
    assert set(followed.risen.tolist()) == set(np.flatnonzero(rise > 0.5).tolist())


def test_no_more_rise_than_can_be_scored() -> None:
    n_items = 4 * MOST_RISEN
    parts, counts = toy_parts(n_items), np.zeros(n_items, dtype=np.float32)
    counts[::2] = np.arange(1, 1 + n_items // 2) * 10

    followed = CodedTrend(np.zeros(n_items, dtype=np.uint8), np.zeros(16, dtype=np.float32)).follow(
        stand(parts, counts)
    )

    assert set(followed.risen.tolist()) == set(np.argsort(-counts)[:MOST_RISEN].tolist())


def test_two_standings_are_known_at_a_time(bundle: Bundle) -> None:
    parts = bundle.table.parts
    assert parts is not None
    trend = CodedTrend(np.zeros(N_ITEMS, dtype=np.uint8), np.zeros(16, dtype=np.float32))
    first, second, third = (stand(parts, moved(bundle, fade, 0, 0)) for fade in (1.0, 0.5, 0.25))

    kept = [trend.follow(first), trend.follow(second)]

    assert trend.follow(first) is kept[0]
    assert trend.follow(second) is kept[1]
    assert trend.follow(third) is trend.follow(third)
    assert trend.follow(second) is kept[1]
    assert trend.follow(first) is not kept[0]
