"""Structured pruning: a student with fewer channels, heads or blocks, whose weights are taken from the larger student.

What weighs least in the scores is left out. The result is an ordinary smaller model that onnxruntime runs faster, which
a model with single weights set to zero is not. Letters: D width, H heads.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.model.encoder import Attention, Pool, SequenceModel


@torch.no_grad()
def narrow(model: SequenceModel, share: float) -> SequenceModel | None:
    """Return a model with a share of the channels, those that weigh most in the scores.

    None where channels cannot be left out: of unit vectors, and of blocks other than attention and pool.
    """
    if model.size.is_unit or any(not isinstance(block.mixer, Attention | Pool) for block in model.encoder.blocks):
        return None
    size, norm = model.size, cast(nn.RMSNorm, model.encoder.norm)
    dim = max(size.heads, round(size.dim * share) // size.heads * size.heads)
    weight = model.items.weight.norm(dim=0) * norm.weight.abs()  # of a channel in user · item
    keep = weight.topk(dim).indices.sort().values
    narrower = copy.deepcopy(model)
    narrower.size = replace(size, dim=dim)
    encoder = narrower.encoder
    for table in (narrower.items, encoder.positions):
        if table is not None:
            _cut(table, columns=keep)
    for norm in (encoder.input_norm, cast(nn.RMSNorm, encoder.norm)):
        _cut_norm(norm, keep)
    for block in encoder.blocks:
        _narrow_block(block, keep)
    return narrower


def _narrow_block(block: Any, keep: Tensor) -> None:
    for norm in (block.mixer_norm, block.mlp_norm):
        _cut_norm(norm, keep)
    mixer = block.mixer
    if isinstance(mixer, Pool):
        mixer.kernel = nn.Parameter(mixer.kernel[:, keep].clone())
        _cut_norm(mixer.norm, keep)
        _cut(mixer.output, rows=keep, columns=keep)
    elif isinstance(mixer, Attention):
        inner = _strongest_of_heads(mixer, len(keep) // mixer.heads)
        _cut(mixer.query, rows=inner, columns=keep)
        width = mixer.output.weight.shape[1]
        _cut(mixer.key_value, rows=torch.cat([inner, inner + width]), columns=keep)
        _cut(mixer.output, rows=keep, columns=inner)
    hidden = block.down.weight.shape[1]
    strongest = block.down.weight.norm(dim=0).topk(2 * len(keep)).indices.sort().values
    _cut(block.gate_up, rows=torch.cat([strongest, strongest + hidden]), columns=keep)
    _cut(block.down, rows=keep, columns=strongest)


@torch.no_grad()
def fewer_heads(model: SequenceModel, share: float) -> SequenceModel | None:
    """Return a model with a share of each attention's heads, those of the largest output weights; None without any."""
    if not any(isinstance(block.mixer, Attention) for block in model.encoder.blocks):
        return None
    smaller = copy.deepcopy(model)
    for block in smaller.encoder.blocks:
        mixer = block.mixer
        if isinstance(mixer, Attention) and mixer.heads > 1:
            heads, width = mixer.heads, mixer.output.weight.shape[1]
            strength = mixer.output.weight.unflatten(1, (heads, -1)).norm(dim=(0, 2))
            mixer.heads = max(1, round(heads * share))
            kept = strength.topk(mixer.heads).indices.sort().values
            inner = (kept[:, None] * (width // heads) + torch.arange(width // heads)).flatten()
            _cut(mixer.query, rows=inner)
            _cut(mixer.key_value, rows=torch.cat([inner, inner + width]))
            _cut(mixer.output, columns=inner)
    return smaller


def fewer_blocks(model: SequenceModel) -> SequenceModel | None:
    """Return a model without the last block; None where there is only one block."""
    if len(model.encoder.blocks) < 2:
        return None
    smaller = copy.deepcopy(model)
    smaller.encoder.blocks = smaller.encoder.blocks[:-1]
    smaller.size = replace(model.size, blocks=model.size.blocks[:-1])
    return smaller


SHAPES: dict[str, Callable[[SequenceModel], SequenceModel | None]] = {
    "whole": copy.deepcopy,
    "width x 0.75": lambda model: narrow(model, 0.75),
    "width x 0.5": lambda model: narrow(model, 0.5),
    "heads x 0.5": lambda model: fewer_heads(model, 0.5),
    "a block less": fewer_blocks,
}


def _strongest_of_heads(mixer: Attention, count: int) -> Tensor:
    """Return the places [H · count] of the inner channels of each head that have the largest output weights."""
    strength = mixer.output.weight.norm(dim=0).unflatten(0, (mixer.heads, -1))  # [H, D / H]
    kept = strength.topk(count, dim=1).indices.sort(dim=1).values
    return (kept + torch.arange(mixer.heads)[:, None] * strength.shape[1]).flatten()


def _cut(module: nn.Linear | nn.Embedding, *, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    weight = module.weight
    weight = weight if rows is None else weight[rows]
    weight = weight if columns is None else weight[:, columns]
    module.weight = nn.Parameter(weight.clone())


def _cut_norm(norm: nn.RMSNorm, keep: Tensor) -> None:
    norm.weight = nn.Parameter(norm.weight[keep].clone())
    norm.normalized_shape = (len(keep),)
