"""Record what happens inside a sequence model while it runs: the output of every block, and every attention map.

Ways to teach a student that compare layers and attention need these. They are read by hooks, so that a model that
nobody watches pays nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from training.model.encoder import Attention, SequenceModel, visible_places


@dataclass(eq=False)
class Watched:
    """What was recorded of one or more runs of a model, first to last.

    blocks: the output of each block [B, T, D]. attended: each attention module with its inputs x [B, T, D] and real
    [B, T].
    """

    blocks: list[Tensor] = field(default_factory=list)
    attended: list[tuple[Attention, Tensor, Tensor]] = field(default_factory=list)

    def maps(self) -> list[Tensor]:
        """Compute the map of each recorded attention [B, H, T, T], first to last; its rows sum to one."""
        return [attention_map(*inputs) for inputs in self.attended]


@contextmanager
def watch(model: SequenceModel) -> Iterator[Watched]:
    """Record what the blocks of model compute inside the context."""
    watched = Watched()

    def note_block(block: nn.Module, inputs: Any, output: Tensor) -> None:
        watched.blocks.append(output)

    def note_attention(mixer: nn.Module, inputs: tuple[Tensor, Tensor, bool]) -> None:
        if isinstance(mixer, Attention):
            watched.attended.append((mixer, inputs[0], inputs[1]))

    hooks = [block.register_forward_hook(note_block) for block in model.encoder.blocks]
    hooks += [
        module.register_forward_pre_hook(note_attention)
        for module in model.encoder.modules()
        if isinstance(module, Attention)
    ]
    try:
        yield watched
    finally:
        for hook in hooks:
            hook.remove()


def attention_map(mixer: Attention, x: Tensor, real: Tensor) -> Tensor:
    """Return the weights that Attention.forward gives to values [B, H, T, T], for its x [B, T, D] and real [B, T]."""
    key, _ = mixer.key_value(x).chunk(2, dim=-1)
    q, k = (mixer.split_heads(vectors) for vectors in (mixer.query(x), key))  # [B, H, T, D/H]
    scores = (q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5
    return scores.masked_fill(~visible_places(real)[:, None], -torch.inf).softmax(dim=-1)


def spread(ours: int, theirs: int) -> list[int]:
    """Return which of a teacher's layers each of a student's learns from: evenly spread, the last from the last.

    ours, theirs: how many layers student and teacher have. spread(2, 3) is [1, 2].
    """
    return [-(-(number + 1) * theirs // ours) - 1 for number in range(ours)]
