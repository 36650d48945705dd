"""The sequence model: a causal transformer over item embeddings, and the item table that is both its input and output.

One class serves teacher and student; only the size differs. The encoder takes embeddings, not ids, so that it can be
exported without its table and fed items that joined the catalogue later. Histories are padded on the left, positions
count real items from the oldest in the window, so neither padding nor other rows of a batch move a result.

Letters: B batch, T time, D width, H heads, N items.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """A model's size. max_history: the newest items that its encoder sees."""

    dim: int
    layers: int
    heads: int
    dropout: float
    max_history: int


class Block(nn.Module):
    """Pre-norm attention and a gated MLP (Llama's block: RMSNorm, SwiGLU, no biases)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(dim, eps=1e-6)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.mlp_norm = nn.RMSNorm(dim, eps=1e-6)
        self.gate_up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(2 * dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor, last: int = 0) -> Tensor:
        """x [B, T, D], visible bool [B, 1, T or last, T] -> [B, T, D], or only the newest `last` positions of it."""
        normed = self.attention_norm(x)
        x = x[:, -last:] if last else x
        queries = normed[:, -last:] if last else normed
        x = x + self.dropout(self._attend(queries, normed, visible))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)  # [B, T, 2D] each
        return x + self.dropout(self.down(F.silu(gate) * up))

    def _attend(self, queries: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        key, value = self.key_value(memory).chunk(2, dim=-1)
        q, k, v = (self._split(part) for part in (self.query(queries), key, value))  # [B, H, T, D/H]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Encoder(nn.Module):
    """From a history's embeddings to the user's embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.max_history = size.max_history
        self.positions = nn.Embedding(size.max_history, size.dim)
        self.input_norm = nn.RMSNorm(size.dim, eps=1e-6)
        self.dropout = nn.Dropout(size.dropout)
        self.blocks = nn.ModuleList(Block(size.dim, size.heads, size.dropout) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.dim, eps=1e-6)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        """history [B, T, D] left-padded, length [B] -> state after each position [B, T, D]."""
        x, visible = self._start(history, length)
        for block in self.blocks:
            x = block(x, visible)
        return self.norm(x)

    def newest(self, history: Tensor, length: Tensor) -> Tensor:
        """As forward, but only the state after the newest item [B, D]: the last block computes one query."""
        x, visible = self._start(history, length)
        for block in self.blocks[:-1]:
            x = block(x, visible)
        return self.norm(self.blocks[-1](x, visible[:, :, -1:], last=1))[:, 0]

    def _start(self, history: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        time = history.shape[1]
        index = torch.arange(time, device=history.device)
        first = time - length[:, None]  # [B, 1]: index of the oldest real item
        real = index[None, :] >= first  # [B, T]
        position = (index[None, :] - first).clamp(0, self.max_history - 1)
        x = self.input_norm(history) + self.positions(position)
        x = self.dropout(x) * real[:, :, None]
        not_later = index[:, None] >= index[None, :]  # [T, T]
        itself = index[:, None] == index[None, :]  # padding sees itself, or its softmax would be 0/0
        visible = (not_later & real[:, None, :]) | itself
        return x, visible[:, None]


class SequenceModel(nn.Module):
    """An encoder and its item table [N, D]. score(user, item) = user · item."""

    def __init__(self, n_items: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.items = nn.Embedding(n_items, size.dim)
        self.encoder = Encoder(size)
        nn.init.normal_(self.items.weight, std=0.02)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.items.weight.device

    def states(self, rows: Tensor) -> Tensor:
        """rows int64 [B, T], -1 padding the left -> state after each position [B, T, D]."""
        return self.encoder(*self._embed(rows))

    def users(self, rows: Tensor) -> Tensor:
        """rows int64 [B, T], -1 padding the left -> user embeddings [B, D]."""
        return self.encoder.newest(*self._embed(rows))

    def scores(self, states: Tensor) -> Tensor:
        """states [..., D] -> one score an item [..., N]."""
        return states @ self.items.weight.T

    def _embed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        real = rows >= 0
        return self.items(rows.clamp(min=0)) * real[:, :, None], real.sum(dim=1)


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values, the item table included."""
    return sum(parameter.numel() for parameter in model.parameters())
