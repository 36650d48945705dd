"""The sequence model of teachers and student: an item table, and an encoder that turns a history into a user vector.

The encoder is a stack of blocks; each mixes the positions of the history, then the channels of each position. A block
mixes positions by attention (a stack of these is the usual transformer), by a pool (a sum whose weight for each age and
channel is learned, as in a linear model with decay) or by a GRU. The model takes the vector after the newest item as
the user's, and scores an item by its dot product with the item's row of the table.

The encoder is given item vectors, not row numbers, so that it can be exported without the table and can be given items
that joined the catalogue later. Histories are padded on the left. Only attention is told positions: they count real
items from the oldest, so neither padding nor the other histories of a batch change a result.

In a model without attention, what a pool computes replaces its input instead of being added to it. Both this and the
pool in front of a transformer's attentions were chosen by measurement: tests/bench/README.md, "A pool stands before a
transformer's attentions" and "Without attention, a pool replaces its input".

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
from training.parallel.shard import Shard
from training.parallel.table import shard_of

UNIT_SCALE = 20.0  # what the cosines of unit vectors are multiplied with at first; it is learned


@dataclass(frozen=True)
class Size:
    """The shape of a model, written into the header of its file."""

    dim: int  # width of item and user vectors
    blocks: tuple[str, ...]  # the mixer of each block, first to last: "attention", "pool" or "gru"
    heads: int  # of each attention; dim must be a multiple of it
    dropout: float
    max_history: int  # the encoder sees at most so many of a user's newest items
    is_unit: bool = False  # users and items are unit vectors, and a learned scale makes logits of their cosines
    has_trend: bool = False  # the trend is added to its scores, with a weight that is learned


def visible_places(real: Tensor) -> Tensor:
    """Return which places each place may attend to: the real ones that are not later, and itself.

    real: bool [B, T], which places hold an item -> bool [B, T, T]. Padding sees itself, for a softmax over nothing
    would be 0/0.
    """
    index = torch.arange(real.shape[1], device=real.device)
    not_later = index[:, None] >= index[None, :]  # [T, T]
    itself = index[:, None] == index[None, :]
    return (not_later & real[:, None, :]) | itself


class Attention(nn.Module):
    """Mix positions by causal multi-head attention without biases (Vaswani et al. 2017)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.dim, size.dim, bias=False)
        self.key_value = nn.Linear(size.dim, 2 * size.dim, bias=False)
        self.output = nn.Linear(size.dim, size.dim, bias=False)

    def forward(self, x: Tensor, real: Tensor, newest: bool) -> Tensor:
        """Return the mixed vectors of x [B, T, D]: [B, T, D], or [B, 1, D] of the last place alone where newest is set.

        real: bool [B, T], which places hold an item; the others are padding.
        """
        visible = visible_places(real)[:, None]  # [B, 1, T, T]
        key, value = self.key_value(x).chunk(2, dim=-1)
        query = self.query(x[:, -1:] if newest else x)
        q, k, v = (self.split_heads(vectors) for vectors in (query, key, value))  # [B, H, T, D/H]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, :, -1:] if newest else visible)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        """Return x [B, T, D] as a narrower vector for each head [B, H, T, D/H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Pool(nn.Module):
    """Mix positions by a causal weighted sum, whose weights are learned for each age and channel.

    At first each channel decays with the age of an item, at half-lives from half an item to max_history items.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        age = torch.arange(size.max_history)[:, None]
        half_life = 0.5 * (2.0 * size.max_history) ** torch.linspace(0, 1, size.dim)  # from 0.5 to max_history items
        self.kernel = nn.Parameter(0.5 ** (age / half_life))  # [max_history, D]
        self.norm = nn.RMSNorm(size.dim, eps=1e-6)
        self.output = nn.Linear(size.dim, size.dim, bias=False)

    def forward(self, x: Tensor, real: Tensor, newest: bool) -> Tensor:
        """Mix x, with the arguments and the result of Attention.forward."""
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
    """Mix positions by a GRU (Cho et al. 2014) without biases, so that padding leaves its state at zero."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.unit = nn.GRU(size.dim, size.dim, bias=False, batch_first=True)

    def forward(self, x: Tensor, real: Tensor, newest: bool) -> Tensor:
        """Mix x, with the arguments and the result of Attention.forward."""
        states: Tensor = self.unit(x * real[:, :, None])[0]
        return states[:, -1:] if newest else states


MIXERS: dict[str, Callable[[Size], nn.Module]] = {"attention": Attention, "pool": Pool, "gru": Gru}


class Block(nn.Module):
    """Mix positions, then channels: a mixer and a gated MLP, each behind a norm (Touvron et al. 2023: RMSNorm, SwiGLU).

    The mixer's result is added to its input, but for a pool in a model without attention, which replaces it.
    """

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
        """Return the block's output for x [B, T, D]: the arguments and the shapes of Attention.forward."""
        mixed = self.dropout(self.mixer(self.mixer_norm(x), real, newest)).to(x.dtype)
        x = mixed + (x[:, -1:] if newest else x) if self.is_residual else mixed
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)  # [B, T, 2D] each
        return x + self.dropout(self.down(F.silu(gate) * up))


class UnitNorm(nn.Module):
    """Scale vectors to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., D] with each vector scaled to length 1."""
        return F.normalize(x, dim=-1)


class UnitRows(nn.Module):
    """Give the rows of a table one common length, which is learned: the scale of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(UNIT_SCALE).log())

    def forward(self, weight: Tensor) -> Tensor:
        """Return weight [N, D] with each row scaled to the learned length."""
        return F.normalize(weight, dim=-1) * self.log_scale.exp()


class Encoder(nn.Module):
    """Turn the item vectors of a history into the vector of its user."""

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
        """Return the state after each place [B, T, D].

        history: item vectors [B, T, D], padded on the left. length: how many of them are real, int64 [B].
        """
        x, real = self._start(history, length)
        for block in self.blocks:
            x = block(x, real)
        return self.norm(x)

    def newest(self, history: Tensor, length: Tensor) -> Tensor:
        """Return the state after the newest item [B, D], for the arguments of forward.

        It equals the last of forward's states and is cheaper: the last block computes one place.
        """
        x, real = self._start(history, length)
        for block in self.blocks[:-1]:
            x = block(x, real)
        return self.norm(self.blocks[-1](x, real, newest=True))[:, 0]

    def _start(self, history: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first block's input [B, T, D] and which places hold an item, bool [B, T]."""
        time = history.shape[1]
        index = torch.arange(time, device=history.device)
        first = time - length[:, None]  # [B, 1]: index of the oldest real item
        real = index[None, :] >= first  # [B, T]
        x = self.input_norm(history)
        if self.positions is not None:
            x = x + self.positions((index[None, :] - first).clamp(0, self.max_history - 1))
        return self.dropout(x) * real[:, :, None], real


class SequenceModel(nn.Module):
    """An encoder and its item table [N, D]; an item's score is the dot product of its row and the user's vector."""

    def __init__(self, n_items: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.items = nn.Embedding(n_items, size.dim)
        self.encoder = Encoder(size)
        nn.init.normal_(self.items.weight, std=TABLE_STD)
        self.trend_weight = nn.Parameter(torch.ones(())) if size.has_trend else None
        if size.is_unit:
            parametrize.register_parametrization(self.items, "weight", UnitRows())

    @property
    def shard(self) -> Shard | None:
        """The items that this process holds, where several hold the table together; None where it is whole."""
        return shard_of(self)

    @property
    def n_items(self) -> int:
        """The number of items, whoever holds them."""
        return self.shard.n_items if self.shard else len(self.items.weight)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self.items.weight.device

    def states(self, rows: Tensor) -> Tensor:
        """Return the state after each place [B, T, D] of histories: rows int64 [B, T], padded on the left with -1."""
        return self.encoder(*self._embed(rows))

    def users(self, rows: Tensor) -> Tensor:
        """Return the user vectors [B, D] of histories: rows int64 [B, T], padded on the left with -1."""
        return self.encoder.newest(*self._embed(rows))

    def scores(self, states: Tensor) -> Tensor:
        """Return the score of every item [..., N] for states or user vectors [..., D]; of those of a shard alone."""
        return states @ self.items.weight.T

    def _embed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        real = rows >= 0
        return self.items(rows.clamp(min=0)) * real[:, :, None], real.sum(dim=1)


def make_model(n_items: int, size: Size, seed: int, start: Start | None = None) -> SequenceModel:
    """Return an untrained model; equal seeds give equal weights.

    start: an item table [n_items, dim] to take instead of a random one.
    """
    torch.manual_seed(seed)
    model = SequenceModel(n_items, size)
    if start is not None:
        items: Any = model.items
        table = items.parametrizations.weight.original if size.is_unit else items.weight
        table.data.copy_(torch.from_numpy(start.table))
        table.requires_grad_(not start.is_frozen)
    return model


def settle(model: SequenceModel) -> SequenceModel:
    """Make the item table of a model of unit vectors plain weights of the same values, in place; return the model.

    Another model is returned as it is.
    """
    if parametrize.is_parametrized(model.items, "weight"):
        parametrize.remove_parametrizations(model.items, "weight")
    return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights, those of the item table included."""
    return sum(parameter.numel() for parameter in model.parameters())
