"""Train on instead of anew: a model starts from the weights of an earlier run, and learns what that run did not see.

The items that both runs know keep their vectors; a new item has the random vector of any untrained one. An epoch has
the windows in which something is new, and as many others, drawn at random, that the old events among its targets are
the wanted multiple of the new ones (rehearsal, Robins 1995: without it a network forgets what it is not shown). So an
epoch costs what is new, however much there was before.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.event import Events, Int64
from training.errors import InputError
from training.model.checkpoint import TABLE, UNIT_TABLE, load_weights
from training.model.encoder import SequenceModel


@dataclass(frozen=True, eq=False)
class Warm:
    """Where trainings go on from, and how far.

    run: the run directory that holds the earlier models. row: of each item in their tables, -1 where it is new [N].
    fresh: which training events that run was not trained on [n_events]. rehearsal: old targets for each new one in an
    epoch. epochs, rate: of a training, and by what its learning rate is multiplied.
    """

    run: Path
    row: Int64
    fresh: NDArray[np.bool_]
    rehearsal: float
    epochs: int
    rate: float

    def start(self, model: SequenceModel, place: str) -> SequenceModel:
        """Give model the weights of the earlier run's model in a file below its directory; return the model.

        Raises InputError where that file is missing, or is of a model of another shape.
        """
        path = self.run / place
        try:
            weights, _ = load_weights(path)
        except FileNotFoundError as exc:
            raise InputError(f"{path}: missing, so that no training can go on from it") from exc
        own, name = model.state_dict(), UNIT_TABLE if model.size.is_unit else TABLE
        old = weights.pop(name)
        shapes = [{each: w.shape for each, w in of.items() if each != name} for of in (weights, own)]
        if shapes[0] != shapes[1] or old.shape[1:] != own[name].shape[1:]:
            raise InputError(f"{path}: a model of another shape, so that no training can go on from it")
        known = torch.from_numpy(self.row >= 0)
        own[name][known] = old[torch.from_numpy(self.row)[known]].to(own[name])
        model.load_state_dict({**weights, name: own[name]})
        return model

    def count_targets(self, events: Events, max_history: int) -> int:
        """Return about how many targets an epoch has, in windows of at most max_history."""
        owner = np.repeat(np.arange(events.n_users), events.lengths())
        new = np.bincount(owner[self.fresh & events.is_target()], minlength=events.n_users)
        inputs = np.maximum(events.lengths() - 1, 0)
        beside = np.minimum(inputs, np.maximum(new, max_history))[new > 0].sum()
        return int(min(inputs.sum(), max(beside, round(new.sum() * (1 + self.rehearsal)))))

    def choose(self, windows: Int64, rng: np.random.Generator) -> Int64:
        """Return those of the windows [W, 2] of training_batches that make an epoch, in their order."""
        before = np.concatenate([[0], np.cumsum(self.fresh)])
        n_new = before[windows[:, 1] + 1] - before[windows[:, 0] + 1]  # targets come one after the inputs
        size = windows[:, 1] - windows[:, 0]
        is_new = n_new > 0
        wanted = self.rehearsal * n_new.sum() - (size - n_new)[is_new].sum()
        others = rng.permutation(np.flatnonzero(~is_new))
        n_others = int(np.searchsorted(np.cumsum(size[others]), max(0.0, wanted)))
        chosen = is_new.copy()
        chosen[others[:n_others]] = True
        return windows[chosen]
