"""What a model is given beside the history: a number for each item that is added to its logits.

A model that is trained with it learns the rest, and so does a student that such a model teaches. See
training/evaluation/given.py, which makes it.
"""

from typing import Protocol

from torch import Tensor

from training.model.encoder import SequenceModel

ALL = slice(None)


class Given(Protocol):
    """What is added to the logits of every model of a course."""

    def add(self, model: SequenceModel, logits: Tensor, event: Tensor, columns: slice = ALL) -> Tensor:
        """Return logits [P, N] after events [P] with what is given added; it learns model.trend_weight.

        columns: the items whose logits they are, where those are not all.
        """
        ...
