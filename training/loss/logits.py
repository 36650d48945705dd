"""The losses, as pure functions of logits [P, N]. Letters: P positions, N items, K places in a list.

Those of states, layers and maps are in representation.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_MASS = 1e-30  # of a stratum: where float32 has less, nothing is taught in it


def hard_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy over the whole catalogue.

    logits [P, N], target int64 [P]: the row of the next item. Returns the mean over P, in nats. The same value and
    gradient as F.cross_entropy of float32 logits, in half its passes over [P, N].
    """
    return _Hard.apply(logits, target)


def soft_label_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher ‖ student) over the catalogue, scaled by temperature² (Hinton et al. 2015, §2).

    student, teacher: logits [P, N]. Returns the mean over P, in nats.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def distillation_loss(student: Tensor, teacher: Tensor, target: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """alpha · temperature² · KL(teacher ‖ student) + (1 - alpha) · cross-entropy, each a mean over P.

    As the two functions above, value and gradient with respect to student, in half their passes over [P, N].
    """
    return weighed_loss((student, teacher, target), Weights(alpha, 1 - alpha), temperature=temperature)


class Weights(NamedTuple):
    """What soft_label_loss, hard_loss and stratified_loss weigh in their sum."""

    soft: float
    hard: float
    stratified: float = 0.0


def weighed_loss(
    seen: tuple[Tensor, Tensor, Tensor], weights: Weights, *, temperature: float, strata: Sequence[Tensor] = ()
) -> Tensor:
    """Return the weighed sum of the three losses in one pass. seen: student, teacher and target, as theirs.

    strata: those of stratified_loss; without any it is left out, whatever its weight.
    """
    return _Weighed.apply(*seen, weights, temperature, strata)


def ranking_loss(student: Tensor, teacher: Tensor, *, top: int, decay: float) -> Tensor:
    """Position-weighted cross-entropy of the teacher's best items (ranking distillation, Tang and Wang 2018, §3.2).

    The item at the teacher's place r, 0 the best, weighs exp(-r / decay); the weights sum to one. The paper's logistic
    loss of each item is a softmax here: beside a softmax hard loss nothing else would fix the offset of the logits.
    Returns the mean over P, in nats.
    """
    best = teacher.topk(min(top, teacher.shape[1]), dim=1).indices  # [P, K]
    weight = torch.softmax(-torch.arange(best.shape[1], device=best.device) / decay, dim=0)
    return -(_log_softmax(student).gather(1, best) * weight).sum(dim=1).mean()


def listwise_loss(student: Tensor, teacher: Tensor, *, top: int) -> Tensor:
    """-log of the probability that the student draws the teacher's best items in order, before any other, over K.

    The relaxed permutation probability of DE-RRD (Kang et al. 2020, §3.3.2), order among the others left open; the
    others are the rest of the catalogue instead of a sample of it. Returns the mean over P, in nats an item.
    """
    best = teacher.topk(min(top, teacher.shape[1]), dim=1).indices  # [P, K]
    scores = student.float()
    chosen = scores.gather(1, best)
    rest = scores.scatter(1, best, -torch.inf).logsumexp(dim=1, keepdim=True)  # [P, 1]
    left = torch.cat([chosen, rest], dim=1).flip(1).logcumsumexp(dim=1).flip(1)[:, :-1]  # of what is not drawn yet
    return (left - chosen).mean()


def closure_loss(student: Tensor, teacher: Tensor, negatives: Tensor, *, top: int, temperature: float) -> Tensor:
    """KL(teacher ‖ student) over the items in either's best K or among the shared negatives, times temperature².

    negatives: int64 [M], rows that all positions share. What the student ranks high is in the sum, so it is told where
    it errs; without it KL over the teacher's best says nothing of its false hits (RCE-KD, 2025). Returns the mean over
    P, in nats.
    """
    best = min(top, student.shape[1])
    rows = torch.cat(
        [student.topk(best, dim=1).indices, teacher.topk(best, dim=1).indices, negatives.expand(len(student), -1)],
        dim=1,
    )
    rows = rows.sort(dim=1).values
    is_again = torch.zeros_like(rows, dtype=torch.bool)
    is_again[:, 1:] = rows[:, 1:] == rows[:, :-1]
    log_q, log_p = (
        _log_softmax(logits.gather(1, rows).masked_fill(is_again, -torch.inf), temperature).masked_fill(is_again, 0.0)
        for logits in (student.float(), teacher.float())
    )
    p = log_p.exp().masked_fill(is_again, 0.0)
    return temperature**2 * (p * (log_p - log_q)).sum() / len(student)


def stratified_loss(student: Tensor, teacher: Tensor, strata: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Mean over strata of KL(teacher ‖ student) among the items of each, times temperature².

    strata: int64 rows of items of like popularity. How popular and rare items compare is not taught, so the teacher's
    popularity bias is not either (UnKD, Chen et al. 2023, §3.2). Returns the mean over P, in nats.
    """
    target = torch.zeros(len(student), dtype=torch.int64, device=student.device)  # weighs nothing
    return weighed_loss((student, teacher, target), Weights(0.0, 0.0, 1.0), temperature=temperature, strata=strata)


def confident_loss(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher ‖ student), positions weighed by how well the teacher knows the target, times temperature².

    The weight is 1 / log2(1 + rank of the target in the teacher's list), over the mean of P: a teacher that is wrong is
    not followed (the importance-aware part of DLLM2Rec, Cui et al. 2024, §3.1). Returns the weighed mean, in nats.
    """
    own = teacher.gather(1, target[:, None])
    weight = 1 / torch.log2(1.0 + (teacher >= own).sum(dim=1))
    log_p, log_q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    return temperature**2 * (kl * weight).sum() / weight.sum()


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    return F.log_softmax(logits.float() / temperature, dim=-1)


class _Hard(torch.autograd.Function):
    """The gradient is softmax - onehot, over P."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        rows = torch.arange(len(target), device=target.device)
        grad = F.log_softmax(logits.float(), dim=-1)
        loss = -grad[rows, target].mean()
        grad.exp_()[rows, target] -= 1
        ctx.save_for_backward(grad.div_(len(target)).to(logits.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None


class _Weighed(torch.autograd.Function):
    """The gradient is known in closed form: soft · T · (q_T - p_T) + hard · (q_1 - onehot), over P.

    To that the strata add stratified · T · (q_T - p_T) over their number, each distribution over its stratum's mass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        weights: Weights,
        temperature: float,
        strata: Sequence[Tensor],
    ) -> Tensor:
        soft, hard, stratified = weights
        places = torch.arange(len(target), device=target.device)
        log_p, log_q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
        log_q1 = log_q if temperature == 1 else _log_softmax(student)
        total = -hard * log_q1[places, target].sum()
        p = log_p.exp()
        apart = log_p.sub_(log_q).mul_(p)  # what each item adds to the KL
        total += soft * temperature**2 * apart.sum()
        grad = log_q.exp_()
        of_q = soft * temperature + (hard if temperature == 1 else 0.0)
        if strata:
            kl, more_of_q, of_p = _within(strata, p, grad, apart, stratified * temperature / len(strata))
            total += temperature * kl
            grad.mul_(more_of_q.add_(of_q)).addcmul_(p, of_p.add_(soft * temperature), value=-1)
        else:
            grad.mul_(of_q).sub_(p, alpha=soft * temperature)
        if temperature != 1:
            grad.add_(log_q1.exp_(), alpha=hard)
        grad[places, target] -= hard
        ctx.save_for_backward(grad.div_(len(target)).to(student.dtype))
        return total / len(target)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, *[None] * 5


def _within(
    strata: Sequence[Tensor], p: Tensor, q: Tensor, apart: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The KL within each stratum, summed over positions, and by what the gradient has q and p in it; share of each.

    p, q [P, N]: probabilities; apart: p · log(p / q).
    """
    count = len(strata)
    of = torch.full((p.shape[1],), count, device=p.device)  # the stratum of each item; those of none have the last
    for number, rows in enumerate(strata):
        of[rows] = number
    member = F.one_hot(of).T[:count].float()  # [S, N]: from this side the products take a fifth of the time
    with torch.autocast(p.device.type, enabled=False):
        mass_p, mass_q, sums = ((member @ part.T).T for part in (p, q, apart))
        mass_p, mass_q = mass_p.clamp_min(LEAST_MASS), mass_q.clamp_min(LEAST_MASS)
        kl = (sums / mass_p - (mass_p / mass_q).log()).sum()
    of_q, of_p = (F.pad(share / mass, (0, 1)).index_select(1, of) for mass in (mass_q, mass_p))
    return share * kl, of_q, of_p
