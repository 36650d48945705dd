"""Losses of logits whose items lie in shards: those of training/loss/logits.py, each process with its own columns.

The logits of a shard stay where they are. What crosses the network is, for a position, the largest logit and the sum of
the exponentials (so the log-sum-exp, as in Megatron's tensor_parallel/cross_entropy.py), and three sums for each
stratum. All processes must call a loss with the same positions in the same order; each gets the whole loss, and the
gradient of its own logits, for which nothing more is sent.

Letters: P positions, N items of all shards, M items of this shard, S strata.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training import ranks
from training.loss.logits import LEAST_MASS, Weights, divide_gradient, sum_of
from training.parallel.shard import Shard


def hard_loss(
    logits: Tensor, target: Tensor, shard: Shard, smoothing: float = 0.0, importance: Tensor | None = None
) -> Tensor:
    """Softmax cross-entropy over all shards.

    logits: [P, M]; target: int64 [P], rows of all N items. smoothing: the share of the label that all items have alike.
    importance: by which each position's loss is multiplied [P]. Returns the mean over P, in nats, the same in every
    process.
    """
    return _Hard.apply(logits, target, shard, smoothing, importance)


def weighed_loss(
    seen: tuple[Tensor, Tensor, Tensor],
    weights: Weights,
    shard: Shard,
    *,
    temperature: float,
    strata: Sequence[Tensor] = (),
    importance: Tensor | None = None,
) -> Tensor:
    """Return the weighed sum of soft labels, hard loss and strata over all shards. See logits.weighed_loss.

    seen: this shard's logits of student and teacher [P, M], and the target int64 [P]. strata: rows of all N items. The
    gradient is with respect to student alone.
    """
    return _Weighed.apply(*seen, _Lesson(weights, shard, temperature, strata, importance))


class _Lesson(NamedTuple):
    """How the losses are weighed, and over what."""

    weights: Weights
    shard: Shard
    temperature: float
    strata: Sequence[Tensor]
    importance: Tensor | None


def log_softmaxes(several: Sequence[Tensor]) -> list[Tensor]:
    """Return the logarithm of the softmax over all shards of each of several logits [P, M], with two reductions."""
    top = ranks.largest(torch.stack([_largest(logits) for logits in several]))  # [L, P]
    parts = [(logits - most[:, None]).exp_().sum(dim=1) for logits, most in zip(several, top, strict=True)]
    norm = top + ranks.total(torch.stack(parts)).log()
    return [logits - each[:, None] for logits, each in zip(several, norm, strict=True)]


class _Hard(torch.autograd.Function):
    """hard_loss. The gradient is importance · (softmax - label) / P."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, shard: Shard, smoothing: float, importance: Tensor | None
    ) -> Tensor:
        (grad,) = log_softmaxes([logits.float()])
        is_own, place = shard.place(target)
        said = is_own * _at(grad, place)  # log of the target's probability, 0 where it is another's
        loss = -(1 - smoothing) * sum_of(said, importance) - smoothing * sum_of(grad, importance) / shard.n_items
        grad.exp_().sub_(smoothing / shard.n_items)
        _subtract_at(grad, place, is_own * (1 - smoothing))
        ctx.save_for_backward(divide_gradient(grad, importance).to(logits.dtype))
        return ranks.total(loss) / len(target)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None, None


class _Weighed(torch.autograd.Function):
    """weighed_loss. Its gradient is that of logits._Weighed, for the columns of the shard."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, target: Tensor, lesson: _Lesson) -> Tensor:
        (soft, hard, stratified), shard, temperature, strata, importance = lesson
        log_p, log_q, log_q1 = log_softmaxes(
            [teacher.float() / temperature, student.float() / temperature, student.float()]
        )
        is_own, place = shard.place(target)
        loss = -hard * sum_of(is_own * _at(log_q1, place), importance)
        p = log_p.exp()
        apart = log_p.sub_(log_q).mul_(p)  # what each item adds to the KL
        loss += soft * temperature**2 * sum_of(apart, importance)
        q = log_q.exp_()
        within, grad = _within(strata, (p, q, apart), shard) if strata else (None, None)
        loss = ranks.total(loss)
        if within is not None:
            loss = loss + stratified * temperature**2 * (sum_of(within, importance) / len(strata))
        total = (q - p).mul_(soft * temperature).add_(log_q1.exp_(), alpha=hard)
        if grad is not None:
            total.add_(grad, alpha=stratified * temperature)
        _subtract_at(total, place, is_own * hard)
        ctx.save_for_backward(divide_gradient(total, importance).to(student.dtype))
        return loss / len(target)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None


def _within(strata: Sequence[Tensor], seen: tuple[Tensor, Tensor, Tensor], shard: Shard) -> tuple[Tensor, Tensor]:
    """Return the KL in each of the strata [P, S], and the gradient of each position's mean over strata [P, M].

    seen: p, q and p · log(p / q) [P, M], where p and q are the probabilities of teacher and student at a temperature.
    The gradient is with respect to the student's logits over the temperature.
    """
    p, q, _ = seen
    of = torch.full((p.shape[1],), len(strata), device=p.device)  # the stratum of each item; the last: of none
    for number, rows in enumerate(strata):
        is_own, place = shard.place(rows.to(p.device))
        of[place[is_own]] = number
    member = F.one_hot(of, len(strata) + 1)[:, :-1].float()  # [M, S]
    with torch.autocast(p.device.type, enabled=False):
        mass_p, mass_q, sums = ranks.total(torch.stack([part @ member for part in seen]))  # [P, S] each
        mass_p, mass_q = mass_p.clamp_min(LEAST_MASS), mass_q.clamp_min(LEAST_MASS)
        kl = sums / mass_p - (mass_p / mass_q).log()
    of_q, of_p = (F.pad(1 / mass / len(strata), (0, 1)).index_select(1, of) for mass in (mass_q, mass_p))
    return kl, of_q.mul_(q).sub_(of_p.mul_(p))


def _largest(logits: Tensor) -> Tensor:
    if logits.shape[1]:
        return logits.amax(dim=1)
    return logits.new_full((len(logits),), -torch.inf)  # of a shard without items


def _at(values: Tensor, place: Tensor) -> Tensor:
    """Return the value of each position at its place [P]; 0 in a shard without items."""
    return values.gather(1, place[:, None])[:, 0] if values.shape[1] else values.new_zeros(len(values))


def _subtract_at(values: Tensor, place: Tensor, what: Tensor) -> None:
    if values.shape[1]:
        values.scatter_add_(1, place[:, None], -what[:, None].to(values.dtype))
