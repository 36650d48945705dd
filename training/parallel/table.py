"""An item table in shards: each process holds some rows, their gradients and what the optimiser keeps of them.

A process looks rows up that others hold: all tell which they need, each adds the vectors that it has, and the gradients
go the same way back. So what crosses the network is as long as a batch, not as the catalogue.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training import ranks
from training.machine import available_bytes
from training.parallel.shard import Shard, joined

COPIES = 6  # of a table in training: weights, gradient, two moments, the moving average, the best so far
SHARE = 0.5  # of the memory that is free, which the tables of all processes of a machine may take


class ShardedItems(nn.Module):
    """The rows of an item table [N, D] that this process holds, in place of the whole nn.Embedding.

    weight: [M, D]. forward takes rows of all N items; every process must call it as often as all others.
    """

    def __init__(self, table: nn.Parameter, shard: Shard) -> None:
        super().__init__()
        self.shard = shard
        self.weight = nn.Parameter(table.detach()[shard.columns].clone(), requires_grad=table.requires_grad)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors [..., D] of rows, int64 [...], whoever holds them."""
        return _Lookup.apply(self.weight, rows, self.shard)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, shard: Shard) -> Tensor:
        ctx.begin, ctx.length = spans(rows.numel(), rows.device)
        is_own, place = shard.place(joined(rows.flatten(), ctx.begin, ctx.length))
        ctx.save_for_backward(is_own, place)
        ctx.held = len(weight)
        vectors = weight.new_zeros(ctx.length, weight.shape[1])
        vectors[is_own] = weight[place[is_own]]
        own = ranks.total(vectors)[ctx.begin : ctx.begin + rows.numel()]
        return own.view(*rows.shape, -1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        is_own, place = ctx.saved_tensors
        gradient = joined(upstream.flatten(0, -2), ctx.begin, ctx.length)
        into = gradient.new_zeros(ctx.held, gradient.shape[1])
        return into.index_add_(0, place[is_own], gradient[is_own]), None, None


def spans(own: int, device: torch.device) -> tuple[int, int]:
    """Return where the own rows begin among those of all processes, and how many these have together."""
    lengths = torch.zeros(ranks.count(), dtype=torch.int64, device=device)
    lengths[ranks.number()] = own
    counted = ranks.total(lengths).tolist()
    return sum(counted[: ranks.number()]), sum(counted)


def is_too_large(n_items: int, dim: int, above_mb: float) -> bool:
    """Return whether a table is to lie in shards, the same in all processes that train together.

    above_mb: the size from which on it is; 0: where its copies would take too much of this machine's free memory.
    """
    if ranks.count() == 1:
        return False
    if above_mb:
        return 4 * n_items * dim > above_mb * 1e6
    return ranks.alone(lambda: 4 * n_items * dim * COPIES > SHARE * _free_bytes())


def _free_bytes() -> float:
    """Return how much memory each process of this machine may take."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    free = available_bytes()
    return float("inf") if free is None else free / ranks.count_here()


def shard_of(model: nn.Module) -> Shard | None:
    """Return the shard of a model's item table; None where it is whole."""
    return getattr(getattr(model, "items", None), "shard", None)


def table_of(model: nn.Module) -> nn.Parameter:
    """Return the parameter of a model's item table, the one below the parametrization where there is one."""
    items: Any = model.items
    return items.parametrizations.weight.original if parametrize.is_parametrized(items, "weight") else items.weight


def divide(model: nn.Module) -> None:
    """Put this process's shard of the item table in the place of the whole, in a model."""
    _replace_items(model, ShardedItems(table_of(model), Shard.of(len(table_of(model)))))


def undivide(model: nn.Module) -> None:
    """Put a whole table of unknown values in the place of a shard, in a model; its weights are to be loaded."""
    shard = shard_of(model)
    if shard is not None:
        own = table_of(model)
        whole = nn.Embedding(shard.n_items, own.shape[1], device=own.device)
        whole.weight.requires_grad_(own.requires_grad)
        _replace_items(model, whole)


def _replace_items(model: nn.Module, items: nn.Module) -> None:
    old: Any = model.items
    if parametrize.is_parametrized(old, "weight"):
        parametrize.register_parametrization(items, "weight", old.parametrizations.weight[0])
    model.items = items
