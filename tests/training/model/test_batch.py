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


def test_each_target_has_the_importance_of_its_event():
    events = made_events([6, 9, 3])
    importance = np.arange(len(events.item), dtype=np.float32)

    for batch in training_batches(events, max_history=4, positions=12, seed=1, importance=importance):
        assert batch.importance is not None and batch.importance.tolist() == batch.target.tolist()
        assert batch.importance_at(slice(1, 3), torch.device("cpu")).tolist() == batch.target[1:3].tolist()
    (plain, *_) = training_batches(events, max_history=4, positions=12, seed=1)
    assert plain.importance is None and plain.importance_at(slice(1, 3), torch.device("cpu")) is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=9), st.integers(1, 12), st.integers(0, 3))
def test_the_parts_of_a_batch_one_after_the_other_are_the_batch(lengths, count, seed):
    events = made_events(lengths)
    importance = np.random.default_rng(seed).random(len(events.item)).astype(np.float32)
    for batch in training_batches(events, max_history=5, positions=20, seed=seed, importance=importance):
        parts = [part_of(batch, number, count) for number in range(count)]

        for name in ("rows", "target", "event", "real", "importance"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)), name
        assert all(len(part.target) == len(part.event) == int(part.real.sum()) for part in parts)
        assert max(len(part.rows) for part in parts) <= 1 + min(len(part.rows) for part in parts)
