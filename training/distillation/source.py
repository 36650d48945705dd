"""What a student is taught from, and a batch as it saw it: what every term looks at."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.event import Events
from training.model.batch import Batch
from training.model.device import CHUNK_LOGITS, autocast
from training.model.encoder import SequenceModel
from training.model.watch import Watched, watch
from training.progress import Progress
from training.teacher.soft_labels import SAVED_BYTES, SavedLabels, SoftLabels, StateLabels

Given = TypeVar("Given")
Probe = Callable[[], tuple[Tensor, Tensor]]  # -> rows int64 [B, T] and the next item [B] of some validation users


@dataclass(frozen=True)
class Source:
    """What a student may be taught from. states, model: of the transformer, where it is among the teachers.

    factor: of the teacher's logits, where its temperature is another than the student's.
    """

    labels: SoftLabels
    popularity: NDArray[np.float64]  # training events of each item [N]
    states: StateLabels | None = None
    model: SequenceModel | None = None
    probe: Probe | None = None
    factor: float = 1.0

    def logits(self, event: Tensor, like: Tensor) -> Tensor:
        """Return the teacher's logits after events [P], computed as those like are."""
        with torch.no_grad(), autocast(like.device.type):
            logits = self.labels.logits(event)
            return logits if self.factor == 1 else logits * self.factor


@dataclass
class Seen:
    """A batch as the student saw it. states [P, D]; student: what was watched inside it."""

    model: SequenceModel
    batch: Batch
    states: Tensor
    student: Watched
    source: Source
    temperature: float

    @cached_property
    def teacher(self) -> Watched:
        """The teacher on the same batch, nothing dropped, no gradient."""
        model = given(self.source.model)
        with torch.no_grad(), watch(model.eval()) as watched:
            model.states(self.batch.rows.to(self.states.device))
        return watched

    @cached_property
    def real(self) -> Tensor:
        """Which places hold an item [B, T], on the device."""
        return self.batch.real.to(self.states.device)

    def sample(self, count: int) -> Tensor:
        """Return at most so many of the positions, drawn anew each time, in order [M]."""
        return torch.randperm(len(self.states))[:count].sort().values

    def sample_logits(self, count: int) -> Tensor:
        """As sample, but no more than whose logits fit in memory at once."""
        return self.sample(max(1, min(count, CHUNK_LOGITS // len(self.model.items.weight))))

    def teacher_states(self, positions: Tensor | None = None) -> Tensor:
        """Return the transformer's own states at positions (None: all) [M, D_teacher]."""
        event = self.batch.event if positions is None else self.batch.event[positions]
        states = given(self.source.states).states[event.numpy()]
        return torch.from_numpy(states).to(self.states.device, torch.float32)


def given(part: Given | None) -> Given:
    """Return what check_terms made sure of."""
    if part is None:
        raise ValueError("the recipe was not checked: its source lacks what a term needs")
    return part


def save_logits(source: Source, events: Events, n_items: int, out: Path, progress: Progress) -> Source:
    """Return the source with its logits kept in a file, where that is of bearable size: trials read them many times."""
    if 2 * len(events.item) * n_items > SAVED_BYTES:
        return source
    return replace(source, labels=SavedLabels(source.labels, events, n_items, out, progress))
