"""Cut users' events into the batches a sequence model is trained on, and the histories it is asked about.

Every epoch cuts each user's events anew into windows, the first of which has a random length. So each event is the
target once an epoch, and over the epochs each is predicted after short and after long contexts. A batch holds windows
of similar length, as many as fill a given number of places, so that little padding is computed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.event import Events, Int64


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of events, padded on the left. B windows, T places in the longest, P real places in all.

    rows: the item row at each place, -1 where it is padding.
    target: the row of the item that came next after each real place, window by window.
    event: the index into Events.item of the item at each real place; its target is the one at index + 1.
    real: which places hold an item whose next one is a target.
    importance: by what the loss of each target is multiplied; None counts all alike.
    """

    rows: Tensor  # int64 [B, T]
    target: Tensor  # int64 [P]
    event: Tensor  # int64 [P]
    real: Tensor  # bool [B, T]; P = real.sum()
    importance: Tensor | None = None  # float32 [P]

    def importance_at(self, places: slice | Tensor, device: torch.device) -> Tensor | None:
        """Return the importance of some real places, on a device; None where all count alike."""
        return None if self.importance is None else self.importance[places].to(device)


def count_positions(events: Events) -> int:
    """Return the number of targets in one epoch: every event of a user but the first."""
    return int(np.maximum(events.lengths() - 1, 0).sum())


Choose = Callable[[Int64, np.random.Generator], Int64]
"""Takes those of the windows [windows, 2] that an epoch has."""


def training_batches(
    events: Events,
    *,
    max_history: int,
    positions: int,
    seed: int,
    choose: Choose | None = None,
    importance: NDArray[np.float32] | None = None,
) -> Iterator[Batch]:
    """Yield the batches of one epoch. The same seed gives the same batches.

    max_history: the longest window, in events. positions: the places in a batch, padding included. choose: None takes
    all windows. importance: of each event as a target [n_events]; None counts all alike.
    """
    rng = np.random.default_rng(seed)
    windows = cut_windows(events, max_history, rng)
    for group in group_windows(choose(windows, rng) if choose else windows, positions, rng):
        yield make_batch(events, group, importance)


def cut_windows(events: Events, max_history: int, rng: np.random.Generator) -> Int64:
    """Cut each user's events into windows of at most max_history events, the first window of random length.

    Returns start and stop of each window's inputs, as indices into Events.item: int64 [windows, 2]. Every event that
    has a next one is in exactly one window.
    """
    inputs = np.maximum(events.lengths() - 1, 0)
    first = np.where(inputs > max_history, rng.integers(1, max_history + 1, size=len(inputs)), inputs)
    count = np.where(inputs > 0, 1 + -(-(inputs - first) // max_history), 0)
    owner = np.repeat(np.arange(len(inputs)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    stop = np.minimum(first[owner] + number * max_history, inputs[owner])
    start = np.maximum(first[owner] + (number - 1) * max_history, 0)
    return events.offset[:-1][owner][:, None] + np.stack([start, stop], axis=1)


def group_windows(windows: Int64, positions: int, rng: np.random.Generator) -> list[Int64]:
    """Group windows [windows, 2] of similar length, so that a padded group has at most `positions` places.

    A window that is longer than that is a group of its own. Windows of equal length, and the groups, are shuffled.
    """
    windows = windows[rng.permutation(len(windows))]
    length = windows[:, 1] - windows[:, 0]
    windows = windows[np.argsort(length, kind="stable")]
    length = np.sort(length)
    groups, start = [], 0
    while start < len(windows):
        stop = min(len(windows), start + max(1, positions // int(length[start])))
        while stop > start + 1 and int(length[stop - 1]) * (stop - start) > positions:
            stop = start + max(1, positions // int(length[stop - 1]))
        groups.append(windows[start:stop])
        start = stop
    return [groups[i] for i in rng.permutation(len(groups))]


def make_batch(events: Events, windows: Int64, importance: NDArray[np.float32] | None = None) -> Batch:
    """Return the batch of some windows [B, 2], each given by start and stop of its inputs in Events.item."""
    index, real, rows = _padded(events, windows[:, 1], windows[:, 1] - windows[:, 0])
    event = index[real]
    return Batch(
        rows=torch.from_numpy(rows),
        target=torch.from_numpy(events.item[event + 1].astype(np.int64)),
        event=torch.from_numpy(event),
        real=torch.from_numpy(real),
        importance=None if importance is None else torch.from_numpy(importance[event + 1]),
    )


def part_of(batch: Batch, number: int, count: int) -> Batch:
    """Return the windows of a batch that are the share of one of several processes; it may have none.

    number: of the process, from 0; count: of all of them. Their parts, one after the other, are the batch.
    """
    first, stop = (len(batch.rows) * place // count for place in (number, number + 1))
    begin, end = int(batch.real[:first].sum()), int(batch.real[:stop].sum())
    importance = None if batch.importance is None else batch.importance[begin:end]
    return Batch(
        batch.rows[first:stop], batch.target[begin:end], batch.event[begin:end], batch.real[first:stop], importance
    )


def history_batches(
    events: Events, users: Int64, *, max_history: int, size: int, stop: Int64 | None = None
) -> Iterator[tuple[Int64, Tensor]]:
    """Yield the newest max_history events of the given users, at most `size` users at once, the shortest first.

    users: user numbers [U]. stop: where each history ends in events.item [U]; None: with the user's events. Yields
    (places in users [B], rows int64 [B, T] padded on the left with -1). An empty history is one place of padding.
    """
    stops = events.offset[1:][users] if stop is None else stop
    length = np.minimum(stops - events.offset[users], max_history)
    order = np.argsort(length, kind="stable")
    for start in range(0, len(order), size):
        places = order[start : start + size]
        _, _, rows = _padded(events, stops[places], length[places])
        yield places, torch.from_numpy(rows)


def _padded(events: Events, stop: Int64, length: Int64) -> tuple[Int64, NDArray[np.bool_], Int64]:
    """Lay out ranges of events that end before stop [B] and have the given lengths [B], padded on the left.

    Returns the index into Events.item of each place, which places are real, and the item rows, -1 where padded: each
    [B, T], with T at least 1.
    """
    time = max(1, int(length.max()))
    age = np.arange(time)[None, :] - time  # of the last place -1
    index = stop[:, None] + age
    real = age >= -length[:, None]
    rows = np.where(real, events.item[np.where(real, index, 0)] if len(events.item) else -1, -1)
    return index, real, rows.astype(np.int64)
