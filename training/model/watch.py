"""Looking inside a sequence model while it runs: the output of every block and what each attention attends to.

Hooks, so that the encoder stays as it is for everybody who does not look.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from training.model.encoder import Attention, SequenceModel


@dataclass
class Watched:
    """What was seen. blocks: outputs [B, T, D], first to last; attended: each attention with its inputs."""

    blocks: list[Tensor] = field(default_factory=list)
    attended: list[tuple[Attention, Tensor, Tensor]] = field(default_factory=list)

    def maps(self) -> list[Tensor]:
        """Return attention maps [B, H, T, T], first to last; a row sums to one."""
        return [attention_map(*inputs) for inputs in self.attended]


@contextmanager
def watch(model: SequenceModel) -> Iterator[Watched]:
    """Note what the blocks of model do until the end of the context."""
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
    """Return what Attention.forward weighs values with [B, H, T, T], for x [B, T, D] and real bool [B, T]."""
    index = torch.arange(x.shape[1], device=x.device)
    visible = (index[:, None] >= index) & real[:, None, :] | (index[:, None] == index)  # [B, T, T]
    query, key = mixer.query(x), mixer.key_value(x).chunk(2, dim=-1)[0]
    q, k = (part.unflatten(-1, (mixer.heads, -1)).transpose(1, 2) for part in (query, key))  # [B, H, T, D/H]
    scores = (q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5
    return scores.masked_fill(~visible[:, None], -torch.inf).softmax(dim=-1)


def spread(ours: int, theirs: int) -> list[int]:
    """Return for each of our layers the one of theirs that it learns from: evenly spread, the last from the last."""
    return [-(-(number + 1) * theirs // ours) - 1 for number in range(ours)]
