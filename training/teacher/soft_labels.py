"""What the teachers say at every training position, exactly: no top list, no lost tail.

A neural teacher is its final state per position, saved once in half precision, and its item table: logits over the
whole catalogue at any temperature follow from the two in chunks. A million positions of width 128 are 256 MB; the top
100 ids and logits of each would be 600 MB and lose the tail. A linear teacher is its matrix: a chunk's logits are the
logarithm of one product of the chunk's decayed histories with the rows of the items in them. A mix is the sum of both,
each times its factor.

A position's state comes from the window in which it has the most context: windows overlap by half, so that beyond a
user's first events every state has seen at least half of max_history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.data.event import Events
from training.model.batch import make_batch
from training.model.device import autocast, choose_device, has_bfloat16
from training.model.encoder import SequenceModel
from training.progress import Progress
from training.teacher.calibration import log_scores
from training.teacher.linear import LinearModel

STATES = "states.npy"
TABLE = "teacher_items.npy"
WINDOWS_AT_ONCE = 128
SAVED_BYTES = 6 << 30  # a file of logits that is larger is not made
SAVED_AT_ONCE = 512
NEIGHBOURS = 64  # events of one product: many more, and most of it would be zeros


class SoftLabels(Protocol):
    """Anything that gives logits after events."""

    def logits(self, event: Tensor) -> Tensor:
        """event int64 [P], places in the training events -> the teacher's logits [P, N]."""
        ...


@dataclass(frozen=True)
class StateLabels:
    """states float16 [n_events, D_teacher], row i after event i; items float32 [N, D_teacher], the factor in it."""

    states: NDArray[np.float16]
    items: Tensor

    def logits(self, event: Tensor) -> Tensor:
        """As SoftLabels says, on the device of items."""
        states = torch.from_numpy(self.states[event.numpy()]).to(self.items.device, self.items.dtype)
        return states @ self.items.T


class LinearLabels:
    """The logits of a linear model over the histories that end with training events."""

    def __init__(self, model: LinearModel, events: Events, factor: float, device: torch.device) -> None:
        self._item, self._setting, self._factor = events.item, model.setting, factor
        self._first = np.repeat(events.offset[:-1], events.lengths())  # of the same user [n_events]
        dtype = torch.bfloat16 if has_bfloat16(device.type) else torch.float32
        self._weights = torch.from_numpy(model.weights).to(device, dtype)  # [M, M]
        self._rows = torch.from_numpy(model.rows).to(device)
        self._place = np.full(model.n_items, -1, dtype=np.int64)
        self._place[model.rows] = np.arange(len(model.rows))

    def logits(self, event: Tensor) -> Tensor:
        """As SoftLabels says."""
        scores = torch.cat([self._product(piece.numpy()) for piece in event.split(NEIGHBOURS)])
        logits = log_scores(scores, self._setting.floor).mul_(self._factor)
        if len(self._rows) == len(self._place):
            return logits
        return logits.new_zeros(len(event), len(self._place)).index_copy_(1, self._rows, logits)

    def _product(self, event: NDArray[np.int64]) -> Tensor:
        """Multiply the histories of a few neighbouring events, which share most of their items -> [P, M]."""
        history, items = self._histories(event)
        weights = F.embedding(torch.from_numpy(items).to(self._weights.device), self._weights)  # [U, M]
        return torch.from_numpy(history).to(weights.device, weights.dtype) @ weights

    def _histories(self, event: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the decayed histories [P, U] over the U items that are in them, and those items' places."""
        age = np.arange(self._setting.max_history)
        source = event[:, None] - age  # [P, age]
        place = np.where(source >= self._first[event][:, None], self._place[self._item[np.maximum(source, 0)]], -1)
        position, column = np.nonzero(place >= 0)
        items, inverse = np.unique(place[position, column], return_inverse=True)
        shape = (len(event), len(items))
        cell, weight = position * len(items) + inverse, self._setting.decay ** age[column]
        history = np.bincount(cell, weight, minlength=shape[0] * shape[1])
        return history.astype(np.float32).reshape(shape), items


@dataclass(frozen=True)
class MixedLabels:
    """The sum of several teachers' logits."""

    members: Sequence[SoftLabels]

    def logits(self, event: Tensor) -> Tensor:
        """As SoftLabels says."""
        total = self.members[0].logits(event)
        for member in self.members[1:]:
            total = total + member.logits(event)
        return total


class SavedLabels:
    """Logits after every training event in a file, half precision, made when they are first asked for.

    For those who read the same ones many times: a mix's take most of a step to compute.
    """

    def __init__(self, labels: SoftLabels, events: Events, n_items: int, path: Path, progress: Progress) -> None:
        self._labels, self._shape, self._path, self._progress = labels, (len(events.item), n_items), path, progress
        self._device = choose_device()
        self._values: NDArray[np.float16] | None = None

    def logits(self, event: Tensor) -> Tensor:
        """As SoftLabels says."""
        if self._values is None:
            self._values = self._make()
        return torch.from_numpy(self._values[event.numpy()]).to(self._device, torch.float32)

    def _make(self) -> NDArray[np.float16]:
        if not self._path.exists():
            aside = self._path.with_name(f".{self._path.name}.part")
            values = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float16, shape=self._shape)
            with self._progress.bar("logits", len(values)) as bar, torch.no_grad(), autocast(self._device.type):
                for event in torch.arange(len(values)).split(SAVED_AT_ONCE):
                    values[event.numpy()] = self._labels.logits(event).float().cpu().numpy()
                    bar.advance(len(event))
            values.flush()
            aside.rename(self._path)
        return np.load(self._path, mmap_mode="r")


def save_soft_labels(out: Path, teacher: SequenceModel, events: Events, progress: Progress) -> None:
    """Write states and item table of a neural teacher over events into the directory out."""
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
    """Open what save_soft_labels wrote; logits are multiplied by factor."""
    items = torch.from_numpy(np.load(out / TABLE) * np.float32(factor)).to(device)
    return StateLabels(np.load(out / STATES, mmap_mode="r"), items)


@torch.no_grad()
def teacher_states(teacher: SequenceModel, events: Events) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Yield (event [P], state float16 [P, D]) until every event that has a successor was seen once."""
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
    """Return windows [W, 2] (start, stop) and fresh [W]: the first position that a window is the one to answer for."""
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
