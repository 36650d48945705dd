"""Events of some users, taken out of those of all."""

import numpy as np

from training.data.event import select_events


def test_select_events_keeps_users_without_events():
    events = select_events(
        np.array([0, 0, 2], dtype=np.int32), np.array([7, 8, 9], dtype=np.int32), np.array([True, False, True]), 4
    )

    assert events.item.tolist() == [7, 9]
    assert events.offset.tolist() == [0, 1, 1, 2, 2]
