"""`Source`: what the teachers offer. `Seen`: one batch with the student's activations. Every term looks at the two."""

from collections.abc import Callable, Sequence
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
from training.model.device import autocast, chunk_logits
from training.model.encoder import SequenceModel
from training.model.watch import Watched, watch
from training.progress import Progress
from training.teacher.kind import Offer
from training.teacher.soft_labels import MixedLabels, SavedLabels, SoftLabels, StateLabels

SAVED_BYTES = 6 << 30  # logits are not saved in a larger file
Given = TypeVar("Given")
Probe = Callable[[], tuple[Tensor, Tensor]]
"""Draws some validation users: returns their histories, rows int64 [B, T], and the next item [B] of each."""


@dataclass(frozen=True, eq=False)
class Source:
    """What the teachers offer to a student.

    states, model: those of the first neural teacher, where there is one. probe: validation users, for the terms that
    learn from them. factor: what the labels are multiplied by where the teacher's temperature is not the student's.
    """

    labels: SoftLabels
    popularity: NDArray[np.float64]  # training events of each item [N]
    states: StateLabels | None = None
    model: SequenceModel | None = None
    probe: Probe | None = None
    factor: float = 1.0

    @classmethod
    def of(cls, offers: Sequence[Offer], popularity: NDArray[np.float64], probe: Probe | None = None) -> "Source":
        """Return what several teachers offer together: the sum of their labels, the first states and model."""
        neural = next((offer for offer in offers if offer.model is not None), None)
        states, model = (neural.states, neural.model) if neural else (None, None)
        return cls(MixedLabels([offer.labels for offer in offers]), popularity, states, model, probe)

    def logits(self, event: Tensor, like: Tensor) -> Tensor:
        """Return the teacher's logits [P, N] after events [P], in the number format that `like` was computed in."""
        with torch.no_grad(), autocast(like.device.type):
            logits = self.labels.logits(event)
            return logits if self.factor == 1 else logits * self.factor


@dataclass(eq=False)
class Seen:
    """One batch with the student's activations.

    states [P, D]: the student's, of every position. student: what was watched inside the student.
    """

    model: SequenceModel
    batch: Batch
    states: Tensor
    student: Watched
    source: Source
    temperature: float

    @cached_property
    def teacher(self) -> Watched:
        """What was watched inside the teacher on the same batch, without dropout and without a gradient."""
        model = given(self.source.model)
        with torch.no_grad(), watch(model.eval()) as watched:
            model.states(self.batch.rows.to(self.states.device))
        return watched

    @cached_property
    def real(self) -> Tensor:
        """Which places of the batch hold an item [B, T], on the student's device."""
        return self.batch.real.to(self.states.device)

    def importance(self, positions: Tensor | None = None) -> Tensor | None:
        """Return how much the targets at positions count [M]; None where all count alike."""
        return self.batch.importance_at(slice(None) if positions is None else positions, self.states.device)

    def draw(self, count: int) -> Tensor:
        """Return at most count of the positions, drawn anew at each call, in rising order [M]."""
        return torch.randperm(len(self.states))[:count].sort().values

    def draw_for_logits(self, count: int) -> Tensor:
        """Return at most count positions as draw does, and no more than whose logits may be in memory at once."""
        most = chunk_logits(self.model.device.type) // len(self.model.items.weight)
        return self.draw(max(1, min(count, most)))

    def teacher_states(self, positions: Tensor | None = None) -> Tensor:
        """Return the neural teacher's own states [M, D_teacher] at positions; None stands for all of them."""
        event = self.batch.event if positions is None else self.batch.event[positions]
        states = given(self.source.states).states[event.numpy()]
        return torch.from_numpy(states).to(self.states.device, torch.float32)


def given(value: Given | None) -> Given:
    """Return what a term needs and check_terms made sure of. Raises ValueError where it is missing all the same."""
    if value is None:
        raise ValueError("the recipe was not checked: its source lacks what a term needs")
    return value


def save_logits(source: Source, events: Events, n_items: int, out: Path, progress: Progress) -> Source:
    """Return the source with its logits saved in a file, for studies that read them many times.

    Where the file would be larger than SAVED_BYTES, the source is returned as it is.
    """
    if 2 * len(events.item) * n_items > SAVED_BYTES:
        return source
    return replace(source, labels=SavedLabels(source.labels, events, n_items, out, progress))
