"""Weights as int8 with one scale a row: of the item table, and of the matrices of an encoder."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def quantise_rows(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values [R, C] and a scale a row [R]; values times scales is the nearest to weights [R, C]."""
    scales = np.maximum(np.abs(weights).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    return np.rint(weights / scales[:, None]).astype(np.int8), scales


@torch.no_grad()
def round_encoder(encoder: nn.Module, kind: str = "int8") -> None:
    """Round each matrix of an encoder to what float16, or int8 and a scale an output, can hold. A GRU's stay."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            module.weight.copy_(round_rows(module.weight, kind))


def round_rows(weights: Tensor, kind: str) -> Tensor:
    """Return the nearest to weights [R, C] that float16, or int8 with a scale a row, can hold, as float32."""
    if kind == "float32":
        return weights
    if kind == "float16":
        return weights.half().float()
    scales = weights.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return (weights / scales).round() * scales
