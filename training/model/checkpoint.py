"""Weights and training state as safetensors: no pickle, and a file is either whole or not there."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.model.encoder import SequenceModel, Size, settle

ORIGINAL = "items.parametrizations.weight.original"


@dataclass
class Checkpoint:
    """What a resumed run needs beside model and optimizer."""

    best: dict[str, Tensor]
    curve: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(cls, model: nn.Module) -> "Checkpoint":
        """Start with the model as it is."""
        state = cls({})
        state.keep_best(model)
        return state

    def keep_best(self, model: nn.Module) -> None:
        """Remember the model's present weights as the best."""
        self.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def save_weights(path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, and about as JSON in the file's header, aside and then renamed."""
    aside = path.with_name(f".{path.name}.part")
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(tensors, aside, metadata={"about": json.dumps(about)})
    aside.rename(path)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what save_weights wrote."""
    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {}).get("about", "{}"))
    return load_file(path), about


def save_model(path: Path, model: SequenceModel) -> None:
    """Write a model with its size."""
    save_weights(path, model.state_dict(), {"size": asdict(model.size)})


def load_model(path: Path) -> SequenceModel:
    """Read what save_model wrote, ready to evaluate."""
    weights, about = load_weights(path)
    size = Size(**about["size"] | {"blocks": tuple(about["size"]["blocks"])})
    model = SequenceModel(len(weights[ORIGINAL if size.is_unit else "items.weight"]), size)
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
    """Write everything that a resumed run needs."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"averaged.{name}": value for name, value in averaged.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    if batch_loss:
        tensors |= {f"extra.{name}": value for name, value in batch_loss.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    save_weights(path, tensors, {"curve": state.curve})


def load_checkpoint(
    path: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_loss: Stateful | None = None,
) -> Checkpoint | None:
    """Restore models and optimizer from path and return the rest; None where there is no checkpoint."""
    if not path.exists():
        return None
    tensors, about = load_weights(path)
    model.load_state_dict(_under("model.", tensors))
    averaged.load_state_dict(_under("averaged.", tensors))
    if batch_loss:
        batch_loss.load_state_dict(_under("extra.", tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return Checkpoint(_under("best.", tensors), about["curve"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
