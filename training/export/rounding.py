"""Round weights to int8 with one float32 scale a row, or to float16: item tables, and the matrices of an encoder.

quantise_rows returns what is stored; round_rows and round_encoder return the same values as float32, to train and to
judge with.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def quantise_rows(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values [R, C] and the scale of each row [R], whose product is nearest to weights [R, C]."""
    scales = np.maximum(np.abs(weights).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    return np.rint(weights / scales[:, None]).astype(np.int8), scales


def round_rows(weights: Tensor, kind: str) -> Tensor:
    """Return, as float32, the values nearest to weights [R, C] that can be stored as kind: float32, float16 or int8."""
    if kind == "float32":
        return weights
    if kind == "float16":
        return weights.half().float()
    scales = weights.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return (weights / scales).round() * scales


@torch.no_grad()
def round_encoder(encoder: nn.Module, kind: str = "int8") -> None:
    """Round each matrix of an encoder's linear layers with round_rows, in place. A GRU's matrices stay as they are."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            module.weight.copy_(round_rows(module.weight, kind))
