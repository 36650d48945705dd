"""Weights as int8 with one scale a row: of the item table, and of the matrices of an encoder."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def quantise_rows(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values [R, C] and a scale a row [R]; values times scales is the nearest to weights [R, C]."""
    scales = np.maximum(np.abs(weights).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    return np.rint(weights / scales[:, None]).astype(np.int8), scales


@torch.no_grad()
def round_encoder(encoder: nn.Module) -> None:
    """Round each matrix of an encoder to what int8 can hold, a scale an output. Those of a GRU stay as they are."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            values, scales = quantise_rows(module.weight.numpy())
            module.weight.copy_(torch.from_numpy(values * scales[:, None]))
