"""Soft labels: the windows in which a neural teacher answers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.event import Events
from training.teacher.soft_labels import overlapping_windows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 9))
def test_soft_label_windows_answer_for_each_position_once_with_half_the_context(lengths, max_history):
    offset = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    events = Events(np.arange(offset[-1], dtype=np.int32), offset)

    windows, fresh = overlapping_windows(events, max_history)

    answered = [i for (_, stop), first in zip(windows, fresh, strict=True) for i in range(first, stop)]
    last = set((events.offset[1:] - 1).tolist())
    assert sorted(answered) == [i for i in range(len(events.item)) if i not in last]
    for (start, stop), first in zip(windows, fresh, strict=True):
        begin = events.offset[np.searchsorted(events.offset, start, side="right") - 1]
        assert stop - start <= max_history
        assert start == begin or first - start >= max_history // 2
