"""What the teacher says at every training position, saved once and exactly.

For a neural teacher that is its final state per position, in half precision, and its item table: full-catalogue logits
at any temperature follow from the two in chunks. A million positions of width 128 are 256 MB; the top 100 ids and
logits of each would be 600 MB and lose the tail.

A position's state comes from the window in which it has the most context: windows overlap by half, so that beyond a
user's first events every state has seen at least half of max_history.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.encoder import SequenceModel
from training.progress import Progress
from training.sequences import Events, make_batch

STATES = "states.npy"
TABLE = "teacher_items.npy"
WINDOWS_AT_ONCE = 128


@dataclass(frozen=True)
class SoftLabels:
    """states float16 [n_events, D_teacher], row i after event i; items float32 [N, D_teacher]."""

    states: NDArray[np.float16]
    items: Tensor

    def logits(self, event: Tensor) -> Tensor:
        """event int64 [P] -> the teacher's logits [P, N], on the device of items."""
        states = torch.from_numpy(self.states[event.numpy()]).to(self.items.device, self.items.dtype)
        return states @ self.items.T


def save_soft_labels(out: Path, teacher: SequenceModel, events: Events, progress: Progress) -> None:
    """Write states and item table of the teacher over events into the directory out."""
    width = teacher.items.weight.shape[1]
    shape = (len(events.item), width)
    states = np.lib.format.open_memmap(out / STATES, mode="w+", dtype=np.float16, shape=shape)
    with progress.bar("soft labels", len(events.item)) as bar:
        for event, state in teacher_states(teacher, events):
            states[event] = state
            bar.advance(len(event))
    states.flush()
    np.save(out / TABLE, teacher.items.weight.detach().float().cpu().numpy())


def load_soft_labels(out: Path, device: torch.device) -> SoftLabels:
    """Open what save_soft_labels wrote."""
    items = torch.from_numpy(np.load(out / TABLE)).to(device)
    return SoftLabels(np.load(out / STATES, mmap_mode="r"), items)


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
