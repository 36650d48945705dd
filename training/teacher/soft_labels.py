"""What a teacher says at every training position, over the whole catalogue and at any temperature.

A neural teacher is saved as its final state after every event, in half precision, and its item table: the logits of a
chunk of positions are the product of the two. That is smaller than a list of the top 100 items of each position
(tests/bench/README.md, "Training"), and it loses no item. A linear teacher is its matrix (linear.py). A mix is the sum
of its teachers, each times its factor.

The state of a position comes from the window in which it has the longest history before it. Windows overlap by half, so
beyond a user's first events every state has seen at least half of max_history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.event import Events
from training.evaluation.given import Given
from training.model.batch import make_batch
from training.model.device import autocast, choose_device
from training.model.encoder import SequenceModel
from training.model.given import ALL
from training.progress import Progress

STATES = "states.npy"
TABLE = "teacher_items.npy"
WINDOWS_AT_ONCE = 128
EVENTS_AT_ONCE = 512


class SoftLabels(Protocol):
    """Whatever gives a teacher's logits after training events."""

    def logits(self, event: Tensor) -> Tensor:
        """Return the teacher's logits [P, N] after events: int64 [P], their places among the training events."""
        ...


@dataclass(frozen=True, eq=False)
class StateLabels:
    """The soft labels of a neural teacher.

    states: float16 [n_events, D], row i being the state after event i. items: float32 [N, D], the item table times the
    factor of the teacher in the mix.
    """

    states: NDArray[np.float16]
    items: Tensor

    def logits(self, event: Tensor) -> Tensor:
        """Return the teacher's logits [P, N] after events [P], on the device of items."""
        states = torch.from_numpy(self.states[event.numpy()]).to(self.items.device, self.items.dtype)
        return states @ self.items.T


@dataclass(frozen=True)
class MixedLabels:
    """The sum of several teachers' logits."""

    members: Sequence[SoftLabels]

    def logits(self, event: Tensor) -> Tensor:
        """Return the teacher's logits [P, N] after events [P]."""
        total = self.members[0].logits(event)
        for member in self.members[1:]:
            total = total + member.logits(event)
        return total


@dataclass(frozen=True)
class TrendLabels:
    """The trend's share of what the teachers say: a weight times log(count + e)."""

    given: Given
    weight: float
    columns: slice = field(default_factory=lambda: ALL)  # the items whose share it gives

    def logits(self, event: Tensor) -> Tensor:
        """Return the trend's share of the logits [P, N] after events [P]."""
        return self.given.trend_at(event, self.columns).mul_(self.weight).to(choose_device())


@dataclass(frozen=True)
class SomeLabels:
    """The logits of some items, where the labels can only be computed for all."""

    labels: SoftLabels
    columns: slice

    def logits(self, event: Tensor) -> Tensor:
        """Return the teacher's logits of those items after events [P]."""
        return self.labels.logits(event)[:, self.columns]


def labels_of(labels: SoftLabels, columns: slice) -> SoftLabels:
    """Return the labels of some items alone, which hold nothing of the others where they need not."""
    if isinstance(labels, StateLabels):
        return StateLabels(labels.states, labels.items[columns].clone())
    if isinstance(labels, TrendLabels):
        return replace(labels, columns=columns)
    if isinstance(labels, MixedLabels):
        return MixedLabels([labels_of(member, columns) for member in labels.members])
    return SomeLabels(labels, columns)


class SavedLabels:
    """The logits after every training event in a file, in half precision, made when they are first asked for.

    The studies use it, because they read the same logits many times and computing a mix's takes most of a step.
    """

    def __init__(self, labels: SoftLabels, events: Events, n_items: int, path: Path, progress: Progress) -> None:
        self._labels, self._shape, self._path, self._progress = labels, (len(events.item), n_items), path, progress
        self._device = choose_device()
        self._values: NDArray[np.float16] | None = None

    def logits(self, event: Tensor) -> Tensor:
        """Return the teacher's logits [P, N] after events [P]."""
        if self._values is None:
            self._values = self._make()
        return torch.from_numpy(self._values[event.numpy()]).to(self._device, torch.float32)

    def _make(self) -> NDArray[np.float16]:
        if not self._path.exists():
            aside = self._path.with_name(f".{self._path.name}.part")
            values = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float16, shape=self._shape)
            with self._progress.bar("logits", len(values)) as bar, torch.no_grad(), autocast(self._device.type):
                for event in torch.arange(len(values)).split(EVENTS_AT_ONCE):
                    values[event.numpy()] = self._labels.logits(event).float().cpu().numpy()
                    bar.advance(len(event))
            values.flush()
            aside.rename(self._path)
        return np.load(self._path, mmap_mode="r")


def save_soft_labels(out: Path, teacher: SequenceModel, events: Events, progress: Progress) -> None:
    """Write a neural teacher's state after every event, and its item table, into the directory out."""
    width = teacher.items.weight.shape[1]
    shape = (len(events.item), width)
    states = np.lib.format.open_memmap(out / STATES, mode="w+", dtype=np.float16, shape=shape)
    with progress.bar("soft labels", len(events.item)) as bar:
        for event, state in teacher_states(teacher, events):
            states[event] = state
            bar.advance(len(event))
    states.flush()
    np.save(out / TABLE, teacher.items.weight.detach().float().cpu().numpy())


def load_soft_labels(out: Path, device: torch.device, factor: float = 1.0) -> StateLabels:
    """Open what save_soft_labels wrote, the logits multiplied by factor."""
    items = torch.from_numpy(np.load(out / TABLE) * np.float32(factor)).to(device)
    return StateLabels(np.load(out / STATES, mmap_mode="r"), items)


@torch.no_grad()
def teacher_states(teacher: SequenceModel, events: Events) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Yield (event [P], state float16 [P, D]) until every event that has a successor was yielded once."""
    teacher.eval()
    windows, fresh = overlapping_windows(events, teacher.size.max_history)
    order = np.argsort(windows[:, 1] - windows[:, 0], kind="stable")
    for start in range(0, len(order), WINDOWS_AT_ONCE):
        places = order[start : start + WINDOWS_AT_ONCE]
        batch = make_batch(events, windows[places])
        states = teacher.states(batch.rows.to(teacher.device)).cpu()[batch.real]
        owner = np.repeat(np.arange(len(places)), windows[places, 1] - windows[places, 0])
        keep = batch.event.numpy() >= fresh[places][owner]
        yield batch.event.numpy()[keep], states[torch.from_numpy(keep)].half().numpy()


def overlapping_windows(events: Events, max_history: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return windows [W, 2], each (start, stop), and fresh [W].

    The state of a position is taken from the one window that it is in at or after the window's fresh position.
    """
    stride = max(1, max_history // 2)
    windows, fresh = [], []
    for begin, inputs in zip(events.offset[:-1], np.maximum(events.lengths() - 1, 0), strict=True):
        done = 0
        while done < inputs:
            stop = min(inputs, done + (max_history if done == 0 else stride))
            windows.append((begin + max(0, stop - max_history), begin + stop))
            fresh.append(begin + done)
            done = stop
    return np.array(windows, dtype=np.int64).reshape(-1, 2), np.array(fresh, dtype=np.int64)
