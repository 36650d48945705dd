"""Event arrays as windows and batches: what a sequence model is trained on, and the histories it is asked about.

Windows are cut anew each epoch from a random offset, so that every position is trained with short and long contexts,
and each is a target once an epoch. Batches group windows of like length up to a number of positions, so that next to
no padding is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.event import Events, Int64


@dataclass(frozen=True)
class Batch:
    """Windows padded on the left with -1. event [B, T]: the input's index into Events.item; its target is at + 1."""

    rows: Tensor  # int64 [B, T]
    target: Tensor  # int64 [P]: the next item of each real position, row by row
    event: Tensor  # int64 [P]
    real: Tensor  # bool [B, T]; P = real.sum()


def cut_windows(events: Events, max_history: int, rng: np.random.Generator) -> Int64:
    """Return [n_windows, 2]: start and stop of input positions; each position with a target is in one window."""
    inputs = np.maximum(events.lengths() - 1, 0)
    first = np.where(inputs > max_history, rng.integers(1, max_history + 1, size=len(inputs)), inputs)
    count = np.where(inputs > 0, 1 + -(-(inputs - first) // max_history), 0)
    owner = np.repeat(np.arange(len(inputs)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    stop = np.minimum(first[owner] + number * max_history, inputs[owner])
    start = np.maximum(first[owner] + (number - 1) * max_history, 0)
    return events.offset[:-1][owner][:, None] + np.stack([start, stop], axis=1)


def group_windows(windows: Int64, positions: int, rng: np.random.Generator) -> list[Int64]:
    """Group windows of like length so that a padded batch has about `positions` places; shuffled both ways."""
    windows = windows[rng.permutation(len(windows))]
    length = windows[:, 1] - windows[:, 0]
    windows = windows[np.argsort(length, kind="stable")]
    length = np.sort(length)
    groups, start = [], 0
    while start < len(windows):
        stop = start + max(1, positions // int(length[start]))
        while (
            stop > start + 1
            and int(length[min(stop, len(windows)) - 1]) * (min(stop, len(windows)) - start) > positions
        ):
            stop = start + max(1, positions // int(length[min(stop, len(windows)) - 1]))
        groups.append(windows[start:stop])
        start = stop
    return [groups[i] for i in rng.permutation(len(groups))]


def make_batch(events: Events, windows: Int64) -> Batch:
    """Pad windows [B, 2] into a Batch."""
    length = windows[:, 1] - windows[:, 0]
    time = int(length.max())
    index = windows[:, 1][:, None] - time + np.arange(time)[None, :]  # [B, T], below start where padded
    real = index >= windows[:, 0][:, None]
    rows = np.where(real, events.item[np.where(real, index, 0)], -1)
    event = index[real]
    return Batch(
        torch.from_numpy(rows.astype(np.int64)),
        torch.from_numpy(events.item[event + 1].astype(np.int64)),
        torch.from_numpy(event),
        torch.from_numpy(real),
    )


def training_batches(events: Events, *, max_history: int, positions: int, seed: int) -> Iterator[Batch]:
    """Yield one epoch. The same seed gives the same batches."""
    rng = np.random.default_rng(seed)
    for group in group_windows(cut_windows(events, max_history, rng), positions, rng):
        yield make_batch(events, group)


def count_positions(events: Events) -> int:
    """Return the number of targets in one epoch."""
    return int(np.maximum(events.lengths() - 1, 0).sum())


def history_batches(events: Events, users: Int64, *, max_history: int, size: int) -> Iterator[tuple[Int64, Tensor]]:
    """Yield (places in users [B], rows int64 [B, T]) of the newest max_history events, grouped by length."""
    length = np.minimum(events.lengths()[users], max_history)
    for places in _split(np.argsort(length, kind="stable"), size):
        time = max(1, int(length[places].max()))
        stop = events.offset[1:][users[places]]
        index = stop[:, None] - time + np.arange(time)[None, :]
        real = np.arange(time)[None, :] >= time - length[places][:, None]
        rows = np.where(real, events.item[np.where(real, index, 0)] if len(events.item) else -1, -1)
        yield places, torch.from_numpy(rows.astype(np.int64))


def _split(order: Int64, size: int) -> Iterator[Int64]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
