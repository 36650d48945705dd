"""What a training lowers: a loss of chunks of logits and, where there is one, a loss of whole batches."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from training.model.batch import Batch
from training.model.encoder import SequenceModel

Loss = Callable[[Tensor, Batch, slice], Tensor]
"""(logits [P, N] of a chunk, the batch, the chunk's positions in the batch) -> the mean over the chunk.

What each position adds is multiplied by its importance, where the batch has some; so it is in a BatchLoss.
"""


class BatchLoss(Protocol):
    """The part of an objective that looks at a whole batch instead of a chunk of its logits. A module: it may learn."""

    def watch(self, model: SequenceModel) -> AbstractContextManager[Any]:
        """Return the context in which model computes the states of a batch; it may look inside the model there."""
        ...

    def batch_loss(self, model: SequenceModel, batch: Batch, states: Tensor) -> Tensor | None:
        """Return the mean over the batch of states [P, D], which is differentiated with the rest; None adds nothing."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what it learns beside the model."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed training needs of it."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """Restore what state_dict returned."""
        ...


@dataclass(frozen=True, eq=False)
class Objective:
    """What a training lowers: the sum of a loss of logits and, where there is one, a loss of whole batches."""

    loss: Loss
    batch_loss: BatchLoss | None = None


Lesson = Callable[[SequenceModel], Objective]
"""Makes the objective of a model that is to be trained."""
