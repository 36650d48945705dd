"""Decayed counts and gaps, against a plain slow implementation that goes through all events each time."""

import math
from datetime import timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle import Item
from training.data import trend
from training.data.prepared import Prepared
from training.data.trend import counts_before, gaps_before, live_counts, snapshots

N_ITEMS = 4


def make_prepared(rows):
    """Events as (user, item, timestamp_ms), in any order."""
    rows = sorted(set(rows), key=lambda row: (row[0], row[2], row[1]))
    user, item, time_ms = (np.array(column) for column in zip(*rows, strict=True))
    return Prepared(
        users=[f"u{number}" for number in range(int(user.max()) + 1)],
        items=[Item(str(number), 1.0, None, {}) for number in range(N_ITEMS)],
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp_ms=time_ms.astype(np.int64),
        part=(np.arange(len(rows)) % 3).astype(np.uint8),
        report={},
    )


def slow_counts(prepared, now_ms, half_life_s):
    """The rule, read aloud: strictly before; once a user, item and window; each worth 2^-(age / half-life)."""
    counts, counted = [0.0] * N_ITEMS, set()
    events = zip(prepared.timestamp_ms.tolist(), prepared.user.tolist(), prepared.item.tolist(), strict=True)
    for time_ms, user, item in sorted(events):
        window = math.floor(time_ms / 1000 / half_life_s)
        if time_ms < now_ms and (user, item, window) not in counted:
            counted.add((user, item, window))
            counts[item] += 0.5 ** ((now_ms - time_ms) / 1000 / half_life_s)
    return counts


def slow_gap(prepared, user, now_ms):
    before = prepared.timestamp_ms[(prepared.user == user) & (prepared.timestamp_ms < now_ms)]
    return math.log1p((now_ms - int(before.max())) / 1000) if len(before) else math.nan


events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, N_ITEMS - 1), st.integers(-50, 50).map(lambda tenth: 500 * tenth)),
    min_size=1,
    max_size=40,
)
times = st.lists(st.integers(-60, 60).map(lambda tenth: 500 * tenth), min_size=1, max_size=10)


@settings(deadline=timedelta(seconds=5))
@given(rows=events, asked=times, half_life_s=st.sampled_from([0.5, 1.0, 7.0, 100.0]), few=st.booleans())
def test_live_counts_are_those_of_going_through_all_events(rows, asked, half_life_s, few):
    prepared, asked_ms = make_prepared(rows), np.array(asked)
    counts = live_counts(prepared, half_life_s)
    if few:
        counts = trend.LiveCounts(snapshots(prepared, half_life_s, 2), counts.events)

    found = counts.before(asked_ms)

    expected = [slow_counts(prepared, now, half_life_s) for now in asked]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert (
        np.concatenate(list(counts_before(prepared, asked_ms, half_life_s)))
        == live_counts(prepared, half_life_s).before(asked_ms)
    ).all()


@settings(deadline=timedelta(seconds=5))
@given(rows=events, asked=times, most=st.integers(1, 50))
def test_a_snapshot_holds_what_was_known_at_its_instant_and_is_taken_strictly_before_each_time(rows, asked, most):
    prepared, asked_ms = make_prepared(rows), np.array(asked)
    taken = snapshots(prepared, 1.0, most)

    place = taken.place(asked_ms)

    assert len(taken.at_ms) <= max(most, 2)
    assert (taken.at_ms[place] < asked_ms)[asked_ms > taken.at_ms[0]].all()
    for number, at_ms in enumerate(taken.at_ms.tolist()):
        np.testing.assert_allclose(taken.counts[number], slow_snapshot(prepared, at_ms), rtol=1e-5, atol=1e-7)
    since = (asked_ms - taken.at_ms[place]) / 1000
    np.testing.assert_allclose(taken.before(asked_ms), taken.counts[place] * 0.5 ** since[:, None], rtol=1e-5)


def test_many_items_have_few_snapshots_and_the_same_counts(monkeypatch):
    rng = np.random.default_rng(0)
    prepared = make_prepared([(int(u), int(i), int(t)) for u, i, t in rng.integers(0, [9, N_ITEMS, 10**6], (400, 3))])
    asked_ms = rng.integers(0, 10**6, 50)
    expected = live_counts(prepared, 60.0).before(asked_ms)

    monkeypatch.setattr(trend, "MOST_VALUES", 5 * N_ITEMS)
    found = live_counts(prepared, 60.0)

    assert len(found.trend.at_ms) <= 5
    np.testing.assert_allclose(found.before(asked_ms), expected, rtol=1e-5, atol=1e-7)
    assert snapshots(prepared, 60.0) is None


def slow_snapshot(prepared, at_ms):
    """Events of the instant itself are in a snapshot: a moment later they are strictly before."""
    return np.array(slow_counts(prepared, at_ms + 1e-6, 1.0))


@given(rows=events, asked=times)
def test_gaps_go_back_to_the_last_event_strictly_before(rows, asked):
    prepared = make_prepared(rows)
    users = np.arange(len(asked)) % len(prepared.users)

    found = gaps_before(prepared, users, np.array(asked))

    expected = [slow_gap(prepared, user, now) for user, now in zip(users, asked, strict=True)]
    np.testing.assert_allclose(found, expected)


def test_a_count_worked_out_by_hand():
    day = 86_400_000
    prepared = make_prepared([(0, 1, 0), (0, 1, day // 2), (1, 1, day), (0, 1, day), (2, 3, 2 * day)])

    counts = live_counts(prepared, 86_400.0).before(np.array([0, day, day + 1, 2 * day, 2 * day + 1]))

    halves = np.array([[0, 0], [0.5, 0], [2.5, 0], [1.25, 0], [1.25, 1]])  # a second event of a window does not count
    np.testing.assert_allclose(counts[:, [1, 3]], halves, rtol=1e-4)
