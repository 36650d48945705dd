"""The gradients of one step: of a whole item table, and of one that lies in shards.

The logits of a whole batch are never in memory at once: the loss runs on chunks of positions, the gradient of each
chunk goes back to the states and the item table at once, and the encoder is differentiated one time at the end. Several
processes have a part of the batch each. Where the table is in shards, each computes the logits of its items for all
positions of the batch: the states of all are brought together before, and their gradients after.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from training import ranks
from training.model.batch import Batch, part_of
from training.model.device import autocast, chunk_logits
from training.model.encoder import SequenceModel
from training.model.objective import Objective
from training.parallel.shard import joined
from training.parallel.table import spans, table_of


def backward(model: SequenceModel, batch: Batch, objective: Objective) -> float:
    """Leave the gradients of the mean loss of a batch in model, where several processes train in all of them.

    A target's loss is multiplied by its importance first; the mean is over the number of targets all the same. Returns
    the mean loss. batch: the whole one, in every process.
    """
    if ranks.count() == 1:
        return _backward(model, batch, objective, len(batch.target))
    mine = part_of(batch, ranks.number(), ranks.count())
    weights = list(model.parameters())
    weights += list(objective.batch_loss.parameters()) if objective.batch_loss else []
    if model.shard is None:
        return ranks.sum_gradients(weights, _backward(model, mine, objective, len(batch.target)))
    value = _backward_in_shards(model, mine, batch, objective)
    return ranks.sum_gradients([weight for weight in weights if weight is not table_of(model)], value)


def clip(model: SequenceModel, most: float) -> None:
    """Scale the gradients of model to a norm of at most so much, over all shards of its item table."""
    if model.shard is None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), most)
        return
    table = table_of(model)
    others = [weight.grad for weight in model.parameters() if weight.grad is not None and weight is not table]
    rows = [] if table.grad is None else [table.grad]
    norm = torch.nn.utils.get_total_norm(others)
    norm_of_rows = ranks.total(torch.nn.utils.get_total_norm(rows).square().to(norm))
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), most, (norm.square() + norm_of_rows).sqrt())


def _backward(model: SequenceModel, batch: Batch, objective: Objective, of: int) -> float:
    """Leave the gradients of the loss of a batch in model, its sum over positions divided by `of`; return that loss.

    of: the positions of the whole batch, of which this one may be a part, and an empty one.
    """
    device, batch_loss = model.device, objective.batch_loss
    positions = len(batch.target)
    if not positions:
        return 0.0
    size = _chunk(model, len(model.items.weight))
    total = 0.0
    with autocast(device.type):
        with batch_loss.watch(model) if batch_loss else nullcontext():
            states = model.states(batch.rows.to(device))[batch.real.to(device)]  # [P, D]
        leaf = states.detach().requires_grad_()
        for start in range(0, positions, size):
            chunk = slice(start, min(start + size, positions))
            share = (chunk.stop - chunk.start) / of
            value = objective.loss(model.scores(leaf[chunk]), batch, chunk) * share
            value.backward()
            total += float(value.detach())
        rest = batch_loss.batch_loss(model, batch, states) if batch_loss else None
    if rest is None:
        states.backward(leaf.grad)
        return total
    rest = rest * (positions / of)
    torch.autograd.backward([states, rest], [leaf.grad, None])
    return total + float(rest.detach())


def _backward_in_shards(model: SequenceModel, mine: Batch, whole: Batch, objective: Objective) -> float:
    """Leave this process's gradients of the mean loss of a whole batch in model; return its part of that loss.

    mine: the part of the batch whose states it computes. It computes the logits of its own items, for all positions.
    """
    device, batch_loss = model.device, objective.batch_loss
    mine = mine if len(mine.rows) else _padding(whole)  # all must look items up
    own, positions = len(mine.target), len(whole.target)
    size = _chunk(model, -(-model.n_items // ranks.count()))
    total = 0.0
    with autocast(device.type):
        with batch_loss.watch(model) if batch_loss else nullcontext():
            states = model.states(mine.rows.to(device))[mine.real.to(device)]  # of its own windows
        begin, _ = spans(own, device)
        leaf = joined(states.detach().float(), begin, positions).requires_grad_()  # [P, D], in every process
        for start in range(0, positions, size):
            chunk = slice(start, min(start + size, positions))
            value = objective.loss(model.scores(leaf[chunk]), whole, chunk) * ((chunk.stop - chunk.start) / positions)
            value.backward()
            total += float(value.detach()) / ranks.count()  # each has the whole of it
        rest = batch_loss.batch_loss(model, mine, states) if batch_loss and own else None
    gradient = ranks.total(_gradient_of(leaf))[begin : begin + own].to(states.dtype)
    if rest is None:
        states.backward(gradient)
        return total
    rest = rest * (own / positions)
    torch.autograd.backward([states, rest], [gradient, None])
    return total + float(rest.detach())


def _gradient_of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _chunk(model: SequenceModel, n_items: int) -> int:
    """Return how many positions' logits are computed at once; see tests/bench/README.md, "Training"."""
    return max(model.size.dim, chunk_logits(model.device.type) // n_items)


def _padding(batch: Batch) -> Batch:
    """Return a batch of one window without an item."""
    rows = torch.full((1, 1), -1)
    importance = None if batch.importance is None else batch.importance[:0]
    return Batch(rows, batch.target[:0], batch.event[:0], torch.zeros(1, 1, dtype=torch.bool), importance)
