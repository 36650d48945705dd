"""What was shown is counted as a slow, obvious count would have it, whatever was put aside and however late."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.shown import HALF_LIFE_S, Shown

N_MADE, N_ITEMS = 8, 12
LISTS = st.lists(st.tuples(st.floats(0, 400_000), st.lists(st.integers(0, N_ITEMS - 1), max_size=6)), max_size=30)


def plain(shown: list[tuple[float, list[int]]], now: float) -> tuple[float, float]:
    """Coverage and the Gini coefficient, as the mean difference of all pairs has it."""
    counts: dict[int, float] = defaultdict(float)
    for at, rows in shown:
        for row in rows:
            counts[row] += 2 ** ((at - now) / HALF_LIFE_S)
    values = np.array([counts[row] for row in range(N_ITEMS)])
    if not values.any():
        return 0.0, 0.0
    apart = np.abs(values[:, None] - values[None, :]).sum()
    return float((values >= 0.5).mean()), float(apart / (2 * N_ITEMS * values.sum()))


@given(steps=LISTS)
def test_coverage_and_gini_are_those_of_plain_counts_that_halve_each_hour(
    steps: list[tuple[float, list[int]]],
) -> None:
    now = [0.0]
    shown = Shown(N_MADE, clock=lambda: now[0])
    told = []
    for wait, rows in steps:
        now[0] += wait / 10
        shown.note(np.array(rows, dtype=np.int64))
        shown.take()
        told.append((now[0], rows))
    now[0] += 1000.0

    coverage, gini = shown.measure(N_ITEMS)

    expected = plain(told, now[0])
    assert gini == pytest.approx(expected[1], abs=1e-5)
    assert coverage == pytest.approx(expected[0])


def test_items_of_the_bundle_and_live_ones_are_counted_apart_and_once() -> None:
    shown = Shown(N_MADE)
    for _ in range(1200):
        shown.note([0, 1, N_MADE + 3])
    shown.note(())

    assert shown.take() == (2400, 1200)
    assert shown.take() == (0, 0)
    assert shown.measure(N_ITEMS)[0] == 3 / N_ITEMS


def test_nothing_shown_is_no_coverage_and_no_inequality() -> None:
    assert Shown(N_MADE).measure(N_ITEMS) == (0.0, 0.0)
