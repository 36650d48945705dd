"""Counts of a window of days against counting one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import Item
from training.data.prepared import Prepared
from training.evaluation import recent
from training.evaluation.recent import DAY_MS, RunningTotals, window_counts

N_ITEMS = 3


def make_prepared(rows):
    user, item, time = (np.array(column) for column in zip(*sorted(rows), strict=True))
    items = [Item(str(number), float(number), None, {}) for number in range(N_ITEMS)]
    return Prepared(
        ["a", "b"], items, user.astype(np.int32), item.astype(np.int32), time * DAY_MS, np.zeros(len(rows)), {}
    )


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, N_ITEMS - 1), st.integers(0, 20)), min_size=1, max_size=40
    ),
    asked=st.lists(st.integers(-1, 25), min_size=1, max_size=5),
    days=st.integers(1, 9),
    rows_of_totals=st.integers(1, 50),
)
def test_a_window_counts_the_events_of_its_days_strictly_before(rows, asked, days, rows_of_totals):
    prepared = make_prepared(rows)
    before, recent.LIVE_SNAPSHOTS = recent.LIVE_SNAPSHOTS, rows_of_totals
    try:
        totals = RunningTotals.of(prepared)
    finally:
        recent.LIVE_SNAPSHOTS = before
    stop = np.array(asked) * DAY_MS

    found = totals.between(stop - days * DAY_MS, stop)

    expected = [
        [sum(i == item and day - days <= t < day for _, i, t in rows) for item in range(N_ITEMS)] for day in asked
    ]
    assert found.tolist() == expected


def test_items_with_equally_many_are_ordered_by_their_training_events():
    prepared = make_prepared([(0, 0, 5), (0, 1, 5), (1, 2, 1)])

    counts = window_counts(prepared, 2)(np.array([6 * DAY_MS]))[0]

    assert counts.astype(int).tolist() == [1, 1, 0]
    assert counts[1] > counts[0]
