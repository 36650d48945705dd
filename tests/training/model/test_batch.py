"""Windows and batches: every position once, contexts that end where they should, no look-ahead."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.event import Events
from training.model.batch import (
    count_positions,
    cut_windows,
    group_windows,
    history_batches,
    make_batch,
    part_of,
    thin,
    training_batches,
)


def made_events(lengths):
    offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Events(np.arange(offset[-1], dtype=np.int32), offset)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 9), st.integers(0, 5))
def test_each_target_is_trained_once_an_epoch(lengths, max_history, seed):
    events = made_events(lengths)

    batches = list(training_batches(events, max_history=max_history, positions=16, seed=seed))

    trained = sorted(int(event) for batch in batches for event in batch.event)
    last = set((events.offset[1:] - 1).tolist())
    assert trained == [i for i in range(len(events.item)) if i not in last]
    assert len(trained) == count_positions(events)
    assert all(batch.rows.shape[1] <= max_history for batch in batches)


def test_a_batch_pads_the_left_and_aligns_targets_with_real_positions():
    events = made_events([4, 3])

    batch = make_batch(events, np.array([[0, 3], [4, 6]]))

    assert batch.rows.tolist() == [[0, 1, 2], [-1, 4, 5]]
    assert batch.target.tolist() == [1, 2, 3, 5, 6]
    assert batch.rows[batch.real].tolist() == batch.event.tolist() == [0, 1, 2, 4, 5]


def test_batches_hold_about_the_asked_number_of_places():
    events = made_events([2] * 50 + [30] * 10)
    rng = np.random.default_rng(0)

    groups = group_windows(cut_windows(events, 20, rng), 64, rng)

    assert max(len(group) * (group[:, 1] - group[:, 0]).max() for group in groups) <= 64


def test_histories_are_the_newest_events_and_empty_ones_are_padding():
    events = made_events([3, 0, 6])

    asked = {
        int(place): rows.tolist()
        for places, batch in history_batches(events, np.array([0, 1, 2]), max_history=4, size=1)
        for place, rows in zip(places, batch, strict=True)
    }

    assert asked == {0: [0, 1, 2], 1: [-1], 2: [5, 6, 7, 8]}


def test_a_thinned_batch_has_each_target_as_often_as_its_share_says():
    events = made_events([6, 9, 3])
    share = np.where(np.arange(len(events.item)) % 2 == 0, 1.0, 0.25)
    rng = np.random.default_rng(0)
    (whole,) = training_batches(events, max_history=9, positions=100, seed=1)

    found = np.zeros(len(share))
    for _ in range(400):
        batch = thin(whole, share, rng)
        assert int(batch.real.sum()) == len(batch.target) == len(batch.event)
        assert (batch.target.numpy() == events.item[batch.event.numpy() + 1]).all()
        found[batch.event.numpy() + 1] += 1

    asked = whole.event.numpy() + 1
    np.testing.assert_allclose(found[asked] / 400, share[asked], atol=0.1)


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=9), st.integers(1, 12), st.integers(0, 3))
def test_the_parts_of_a_batch_one_after_the_other_are_the_batch(lengths, count, seed):
    events = made_events(lengths)
    share = np.full(len(events.item), 0.6)
    for whole in training_batches(events, max_history=5, positions=20, seed=seed):
        batch = thin(whole, share, np.random.default_rng(seed))

        parts = [part_of(batch, number, count) for number in range(count)]

        for name in ("rows", "target", "event", "real"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)), name
        assert all(len(part.target) == len(part.event) == int(part.real.sum()) for part in parts)
        assert max(len(part.rows) for part in parts) <= 1 + min(len(part.rows) for part in parts)
