"""Save and load weights and the state of a training as safetensors files.

Nothing is unpickled, so a file from elsewhere runs no code. A file is written under another name and then renamed, so
it is whole or absent.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training import ranks
from training.model.encoder import SequenceModel, Size, settle
from training.parallel.shard import Shard, gathered
from training.parallel.table import shard_of, table_of, undivide

TABLE = "items.weight"
UNIT_TABLE = "items.parametrizations.weight.original"  # the item table of a model of unit vectors
TABLES = (TABLE, UNIT_TABLE)


@dataclass(eq=False)
class Checkpoint:
    """What a training that is resumed needs beside model and optimizer.

    best: the weights of the best epoch so far, by name. curve: a row for each finished epoch, as Epoch's fields.
    """

    best: dict[str, Tensor]
    curve: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(cls, model: nn.Module) -> "Checkpoint":
        """Return the state before the first epoch: the present weights are the best, and the curve is empty."""
        state = cls({})
        state.keep_best(model)
        return state

    def keep_best(self, model: nn.Module) -> None:
        """Copy the model's present weights as the best, to the CPU. Of a table in shards see whole_state."""
        self.best = {name: value.detach().cpu().clone() for name, value in whole_state(model).items()}


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model by name.

    Of a table in shards the first process gets the whole and the others their own rows; all must call it.
    """
    shard, state = shard_of(model), model.state_dict()
    return {name: gathered(value, shard) if shard and name in TABLES else value for name, value in state.items()}


def whole_model(model: SequenceModel) -> SequenceModel:
    """Return a model with the whole item table in the first process, and the model as it is in every other.

    All must call it.
    """
    if model.shard is None:
        return model
    state = whole_state(model)
    if not ranks.is_first():
        return model
    whole = copy.deepcopy(model)
    undivide(whole)
    whole.load_state_dict(state)
    return whole


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model the weights of whole_state, the whole table or its own rows."""
    model.load_state_dict({name: _own(value, shard_of(model), name in TABLES) for name, value in state.items()})


def _own(value: Tensor, shard: Shard | None, is_table: bool) -> Tensor:
    return value[shard.columns] if shard and is_table and len(value) == shard.n_items else value


def save_weights(path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors by name, and about as JSON in the file's header."""
    aside = path.with_name(f".{path.name}.part")
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(tensors, aside, metadata={"about": json.dumps(about)})
    aside.rename(path)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the about that save_weights wrote. Raises FileNotFoundError where there is no file."""
    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {}).get("about", "{}"))
    return load_file(path), about


def save_model(path: Path, model: SequenceModel) -> None:
    """Write a model's weights, and its size in the header."""
    save_weights(path, model.state_dict(), {"size": asdict(model.size)})


def load_model(path: Path) -> SequenceModel:
    """Return the model that save_model wrote, on the CPU and in evaluation mode.

    A model of unit vectors comes back with a plain item table, so it can be scored but not trained on as it was.
    """
    weights, about = load_weights(path)
    size = Size(**about["size"] | {"blocks": tuple(about["size"]["blocks"])})
    model = SequenceModel(len(weights[UNIT_TABLE if size.is_unit else TABLE]), size)
    model.load_state_dict(weights)
    return settle(model).eval()


class Stateful(Protocol):
    """A loss that has weights of its own."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """Restore the weights."""
        ...


def save_checkpoint(
    path: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Checkpoint,
    batch_loss: Stateful | None = None,
) -> None:
    """Write everything that a resumed training needs, in the first of several processes; all must call it.

    averaged: the moving average of model. batch_loss: a loss that learns too.
    """
    tensors = {f"model.{name}": value for name, value in whole_state(model).items()}
    tensors |= {f"averaged.{name}": value for name, value in whole_state(averaged).items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    if batch_loss:
        tensors |= {f"extra.{name}": value for name, value in batch_loss.state_dict().items()}
    shard, table = shard_of(model), _table_index(model, optimizer)
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            is_rows = shard is not None and index == table and value.dim() > 0
            tensors[f"optimizer.{index}.{name}"] = gathered(value, shard) if shard and is_rows else value
    ranks.alone(lambda: save_weights(path, tensors, {"curve": state.curve}))


def load_checkpoint(
    path: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_loss: Stateful | None = None,
) -> Checkpoint | None:
    """Restore models, optimizer and loss in place, and return the rest; None where there is no checkpoint."""
    if not path.exists():
        return None
    tensors, about = load_weights(path)
    load_state(model, _under("model.", tensors))
    load_state(averaged, _under("averaged.", tensors))
    if batch_loss:
        batch_loss.load_state_dict(_under("extra.", tensors))
    shard, table = shard_of(model), _table_index(model, optimizer)
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, slot = name.split(".", 1)
        is_rows = int(index) == table and value.dim() > 0
        slots.setdefault(int(index), {})[slot] = _own(value, shard, is_rows)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    kept = None if ranks.is_first() else shard
    best = {name: _own(value, kept, name in TABLES) for name, value in _under("best.", tensors).items()}
    return Checkpoint(best, about["curve"])


def _table_index(model: nn.Module, optimizer: torch.optim.Optimizer) -> int | None:
    """Return which of the optimiser's weights is the item table in shards; None where there is none."""
    if shard_of(model) is None:
        return None
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return next(index for index, weight in enumerate(weights) if weight is table_of(model))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
