"""The sequence model: blocks over item embeddings, and the item table that is both its input and output.

A block mixes positions, then channels. Mixers: attention (a row of them is the usual transformer), pool (a learned
weight for each age and channel: the decayed sum that linear models are made of, in one cheap step) and gru. A pool in
front of two attentions reached in 3 epochs on Online Retail the validation NDCG@10 that the attentions alone reached in
10 (.0817; width 128, one run each, 2026-11-21, same machine): in its baskets the order means nothing. Where nothing but
pools and grus follow, a pool's sum takes the newest item's place instead of being added to it: the student of width 128
reached .1251 in 3 epochs where it reached .1198 in 4 with the sum added and positions told (Online Retail, temperature
0.5). In front of attentions the same costs: .1091 against .1170 after 5 epochs on MovieTweetings.

One class serves teacher and student; only the size differs. The encoder takes embeddings, not ids, so that it can be
exported without its table and fed items that joined the catalogue later. Histories are padded on the left. Only
attention needs positions; they count real items from the oldest in the window, so neither padding nor other rows of a
batch move a result.

Letters: B batch, T time, D width, H heads, N items.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.model.item_table import TABLE_STD, Start

UNIT_SCALE = 20.0  # of the logits of unit vectors, before it is learned


@dataclass(frozen=True)
class Size:
    """A model's size. max_history: the newest items that its encoder sees."""

    dim: int
    blocks: tuple[str, ...]  # the mixer of each block, first to last
    heads: int
    dropout: float
    max_history: int
    is_unit: bool = False  # users and items are unit vectors, and a learned scale makes logits of their cosines


class Attention(nn.Module):
    """Causal multi-head attention, no biases."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.dim, size.dim, bias=False)
        self.key_value = nn.Linear(size.dim, 2 * size.dim, bias=False)
        self.output = nn.Linear(size.dim, size.dim, bias=False)

    def forward(self, x: Tensor, real: Tensor, newest: bool) -> Tensor:
        """x [B, T, D], real bool [B, T] -> [B, T, D], or [B, 1, D] where only the newest position is asked for."""
        index = torch.arange(x.shape[1], device=x.device)
        not_later = index[:, None] >= index[None, :]  # [T, T]
        itself = index[:, None] == index[None, :]  # padding sees itself, or its softmax would be 0/0
        visible = ((not_later & real[:, None, :]) | itself)[:, None]  # [B, 1, T, T]
        key, value = self.key_value(x).chunk(2, dim=-1)
        query = self.query(x[:, -1:] if newest else x)
        q, k, v = (self._split(part) for part in (query, key, value))  # [B, H, T, D/H]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, :, -1:] if newest else visible)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Pool(nn.Module):
    """A causal weighted sum, its weights learned per age and channel; they start as decays of many half-lives."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        age = torch.arange(size.max_history)[:, None]
        half_life = 0.5 * (2.0 * size.max_history) ** torch.linspace(0, 1, size.dim)  # from 0.5 to max_history items
        self.kernel = nn.Parameter(0.5 ** (age / half_life))  # [max_history, D]
        self.norm = nn.RMSNorm(size.dim, eps=1e-6)
        self.output = nn.Linear(size.dim, size.dim, bias=False)

    def forward(self, x: Tensor, real: Tensor, newest: bool) -> Tensor:
        """As Attention's."""
        x = x * real[:, :, None]
        index = torch.arange(x.shape[1], device=x.device)
        if newest:
            pooled = (x * self.kernel[index.flip(0)]).sum(dim=1, keepdim=True)  # [B, 1, D]
        else:
            age = index[:, None] - index[None, :]  # [T, S]
            kernel = self.kernel[age.clamp(min=0)] * (age >= 0)[:, :, None]  # [T, S, D]
            pooled = torch.einsum("tsd,bsd->btd", kernel, x).to(x.dtype)
        return self.output(self.norm(pooled))


class Gru(nn.Module):
    """A gated recurrent unit without biases, so that padding leaves its state at zero."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.unit = nn.GRU(size.dim, size.dim, bias=False, batch_first=True)

    def forward(self, x: Tensor, real: Tensor, newest: bool) -> Tensor:
        """As Attention's."""
        states: Tensor = self.unit(x * real[:, :, None])[0]
        return states[:, -1:] if newest else states


MIXERS: dict[str, Callable[[Size], nn.Module]] = {"attention": Attention, "pool": Pool, "gru": Gru}


class Block(nn.Module):
    """A pre-norm mixer and a gated MLP (Llama's block: RMSNorm, SwiGLU, no biases)."""

    def __init__(self, mixer: str, size: Size) -> None:
        super().__init__()
        dim = size.dim
        self.mixer_norm = nn.RMSNorm(dim, eps=1e-6)
        self.mixer = MIXERS[mixer](size)
        self.mlp_norm = nn.RMSNorm(dim, eps=1e-6)
        self.gate_up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(2 * dim, dim, bias=False)
        self.dropout = nn.Dropout(size.dropout)
        self.is_residual = mixer != "pool" or "attention" in size.blocks

    def forward(self, x: Tensor, real: Tensor, newest: bool = False) -> Tensor:
        """x [B, T, D], real bool [B, T] -> [B, T, D], or [B, 1, D] where only the newest position is asked for."""
        mixed = self.dropout(self.mixer(self.mixer_norm(x), real, newest)).to(x.dtype)
        x = mixed + (x[:, -1:] if newest else x) if self.is_residual else mixed
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)  # [B, T, 2D] each
        return x + self.dropout(self.down(F.silu(gate) * up))


class UnitNorm(nn.Module):
    """A vector over its length."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> the same, of length 1."""
        return F.normalize(x, dim=-1)


class UnitRows(nn.Module):
    """A table whose rows are all of one length, which is learned: the scale of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(UNIT_SCALE).log())

    def forward(self, weight: Tensor) -> Tensor:
        """weight [N, D] -> [N, D]."""
        return F.normalize(weight, dim=-1) * self.log_scale.exp()


class Encoder(nn.Module):
    """From a history's embeddings to the user's embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.max_history = size.max_history
        self.positions = nn.Embedding(size.max_history, size.dim) if "attention" in size.blocks else None
        self.input_norm = nn.RMSNorm(size.dim, eps=1e-6)
        self.dropout = nn.Dropout(size.dropout)
        self.blocks = nn.ModuleList(Block(mixer, size) for mixer in size.blocks)
        self.norm = UnitNorm() if size.is_unit else nn.RMSNorm(size.dim, eps=1e-6)
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        """history [B, T, D] left-padded, length [B] -> state after each position [B, T, D]."""
        x, real = self._start(history, length)
        for block in self.blocks:
            x = block(x, real)
        return self.norm(x)

    def newest(self, history: Tensor, length: Tensor) -> Tensor:
        """As forward, but only the state after the newest item [B, D]: the last block computes one position."""
        x, real = self._start(history, length)
        for block in self.blocks[:-1]:
            x = block(x, real)
        return self.norm(self.blocks[-1](x, real, newest=True))[:, 0]

    def _start(self, history: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first block's input [B, T, D] and which places hold an item [B, T]."""
        time = history.shape[1]
        index = torch.arange(time, device=history.device)
        first = time - length[:, None]  # [B, 1]: index of the oldest real item
        real = index[None, :] >= first  # [B, T]
        x = self.input_norm(history)
        if self.positions is not None:
            x = x + self.positions((index[None, :] - first).clamp(0, self.max_history - 1))
        return self.dropout(x) * real[:, :, None], real


class SequenceModel(nn.Module):
    """An encoder and its item table [N, D]. score(user, item) = user · item."""

    def __init__(self, n_items: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.items = nn.Embedding(n_items, size.dim)
        self.encoder = Encoder(size)
        nn.init.normal_(self.items.weight, std=TABLE_STD)
        if size.is_unit:
            parametrize.register_parametrization(self.items, "weight", UnitRows())

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


def make_model(n_items: int, size: Size, seed: int, start: Start | None = None) -> SequenceModel:
    """Return an untrained model; equal seeds give equal weights."""
    torch.manual_seed(seed)
    model = SequenceModel(n_items, size)
    if start is not None:
        items: Any = model.items
        table = items.parametrizations.weight.original if size.is_unit else items.weight
        table.data.copy_(torch.from_numpy(start.table))
        table.requires_grad_(not start.is_frozen)
    return model


def settle(model: SequenceModel) -> SequenceModel:
    """Make the item table plain weights, the constrained ones, in place; return the model."""
    if parametrize.is_parametrized(model.items, "weight"):
        parametrize.remove_parametrizations(model.items, "weight")
    return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values, the item table included."""
    return sum(parameter.numel() for parameter in model.parameters())
