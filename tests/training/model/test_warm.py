"""Warm training: what an epoch has, against a slow count; which weights are kept; what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.event import Events
from training.errors import InputError
from training.model.batch import cut_windows
from training.model.checkpoint import save_model
from training.model.encoder import Size, make_model
from training.model.warm import Warm

SIZE = Size(8, ("pool",), 2, 0.0, 6)


def events_of(lengths):
    return Events(np.arange(sum(lengths), dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def warm_of(fresh, tmp_path=None, rows=(), rehearsal=1.0):
    return Warm(tmp_path, np.array(rows, dtype=np.int64), np.array(fresh, dtype=bool), rehearsal, 3, 0.5)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 25), min_size=1, max_size=20), st.floats(0, 0.4), st.floats(0, 4), st.integers(0, 1 << 30)
)
def test_an_epoch_has_every_new_target_and_the_wanted_multiple_of_old_ones(lengths, share, rehearsal, seed):
    events, rng = events_of(lengths), np.random.default_rng(seed)
    fresh = rng.random(sum(lengths)) < share
    windows = cut_windows(events, 6, rng)

    chosen = warm_of(fresh, rehearsal=rehearsal).choose(windows, rng)

    def targets_of(some):
        return [event for start, stop in some.tolist() for event in range(start + 1, stop + 1)]

    everything, taken = targets_of(windows), targets_of(chosen)
    new = [event for event in everything if fresh[event]]
    assert set(new) <= set(taken) and set(map(tuple, chosen.tolist())) <= set(map(tuple, windows.tolist()))
    needed = {tuple(w) for w in windows.tolist() if any(fresh[e] for e in range(w[0] + 1, w[1] + 1))}
    old = len(taken) - len(new)
    beside = sum(stop - start for start, stop in needed) - len(new)
    assert old <= max(beside, rehearsal * len(new)) + 0 or not new
    assert old > rehearsal * len(new) - 6 or len(taken) == len(everything)
    assert new or not taken


def test_known_items_keep_their_vectors_and_new_ones_have_those_of_an_untrained_model(tmp_path):
    old = make_model(4, SIZE, seed=1)
    save_model(tmp_path / "model.safetensors", old)
    fresh = make_model(5, SIZE, seed=2)
    untrained = fresh.items.weight.detach().clone()

    warm_of([], tmp_path, rows=[2, -1, 0, 3, -1]).start(fresh, "model.safetensors")

    assert torch.equal(fresh.items.weight[[0, 2, 3]], old.items.weight[[2, 0, 3]])
    assert torch.equal(fresh.items.weight[[1, 4]], untrained[[1, 4]])
    ours, theirs = fresh.encoder.state_dict(), old.encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "size", [Size(16, ("pool",), 2, 0.0, 6), Size(8, ("attention",), 2, 0.0, 6), Size(8, ("pool", "pool"), 2, 0.0, 6)]
)
def test_a_model_of_another_shape_is_refused(tmp_path, size):
    save_model(tmp_path / "model.safetensors", make_model(4, size, seed=1))

    with pytest.raises(InputError, match="of another shape"):
        warm_of([], tmp_path, rows=[0, 1, 2, 3]).start(make_model(4, SIZE, seed=1), "model.safetensors")
    with pytest.raises(InputError, match="missing, so that no training can go on"):
        warm_of([], tmp_path, rows=[0]).start(make_model(1, SIZE, seed=1), "other.safetensors")
