"""Losses as pure functions of logits [P, N]. Letters: P positions, N items, K places in a list, S strata.

Those that are taught at every step compute value and gradient together (_Hard, _Weighed), because [P, N] is large and
each pass over it costs time. The losses of states, layers and attention maps are in states.py.

Every loss takes the importance of each position [P], by which what the position adds is multiplied; None counts all
alike. The sum is divided by P all the same, and not by the sum of the importances: see model/importance.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_MASS = 1e-30  # of a stratum's probability; where float32 holds less, nothing is taught in it


def mean_of(values: Tensor, importance: Tensor | None) -> Tensor:
    """Return the mean of values [P, ...], those of each position times its importance."""
    if importance is None:
        return values.mean()
    return (values * importance.reshape(-1, *[1] * (values.dim() - 1))).mean()


def sum_of(values: Tensor, importance: Tensor | None) -> Tensor:
    """Return the sum of values [P, ...], those of each position times its importance."""
    if importance is None:
        return values.sum()
    of_each = values if values.dim() == 1 else values.flatten(1).sum(dim=1)
    return (of_each * importance).sum()


def divide_gradient(grad: Tensor, importance: Tensor | None) -> Tensor:
    """Turn the gradient of each position's own loss [P, N] into that of the mean, in place."""
    return grad.div_(len(grad)) if importance is None else grad.mul_((importance / len(grad))[:, None])


def hard_loss(logits: Tensor, target: Tensor, importance: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy over the whole catalogue.

    logits: [P, N]; target: int64 [P], the row of the next item. Returns the mean over P, in nats. Value and gradient
    are those of F.cross_entropy of float32 logits, in half as many passes over [P, N].
    """
    return _Hard.apply(logits, target, importance)


def soft_label_loss(
    student: Tensor, teacher: Tensor, *, temperature: float, importance: Tensor | None = None
) -> Tensor:
    """KL(teacher ‖ student) over the catalogue, scaled by temperature² (Hinton et al. 2015, §2).

    student, teacher: logits [P, N]. Returns the mean over P, in nats.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    if importance is None:
        return temperature**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")
    apart = F.kl_div(log_student, log_teacher, log_target=True, reduction="none")
    return temperature**2 * sum_of(apart, importance) / len(student)


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float,
    temperature: float,
    importance: Tensor | None = None,
) -> Tensor:
    """alpha · temperature² · KL(teacher ‖ student) + (1 - alpha) · cross-entropy, each a mean over P, in nats.

    student, teacher: logits [P, N]; target: int64 [P]. Value and gradient with respect to student are those of
    soft_label_loss and hard_loss, in half as many passes over [P, N].
    """
    seen, weights = (student, teacher, target), Weights(alpha, 1 - alpha)
    return weighed_loss(seen, weights, temperature=temperature, importance=importance)


class Weights(NamedTuple):
    """The factors of soft_label_loss, hard_loss and stratified_loss in their sum."""

    soft: float
    hard: float
    stratified: float = 0.0


def weighed_loss(
    seen: tuple[Tensor, Tensor, Tensor],
    weights: Weights,
    *,
    temperature: float,
    strata: Sequence[Tensor] = (),
    importance: Tensor | None = None,
) -> Tensor:
    """Return the weighed sum of soft_label_loss, hard_loss and stratified_loss, computed together.

    seen: the logits of student and teacher [P, N] and the target int64 [P]. strata: as in stratified_loss; where there
    are none, that loss is left out, whatever its weight. The gradient is with respect to student alone.
    """
    return _Weighed.apply(*seen, _Lesson(weights, temperature, strata, importance))


class _Lesson(NamedTuple):
    """How the losses are weighed, and at which temperature."""

    weights: Weights
    temperature: float
    strata: Sequence[Tensor]
    importance: Tensor | None


def ranking_loss(
    student: Tensor, teacher: Tensor, *, top: int, decay: float, importance: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the teacher's best items, weighed by place (ranking distillation, Tang and Wang 2018, §3.2).

    student, teacher: logits [P, N]; top: how many of the teacher's items. The item at place r, from 0, weighs
    exp(-r / decay), and the weights sum to one. The paper has a logistic loss for each item. Here it is a softmax,
    because beside a softmax hard loss nothing else would fix the offset of the logits. Returns the mean over P, in
    nats.
    """
    best = teacher.topk(min(top, teacher.shape[1]), dim=1).indices  # [P, K]
    weight = torch.softmax(-torch.arange(best.shape[1], device=best.device) / decay, dim=0)
    return -mean_of((_log_softmax(student).gather(1, best) * weight).sum(dim=1), importance)


def listwise_loss(student: Tensor, teacher: Tensor, *, top: int, importance: Tensor | None = None) -> Tensor:
    """-log of the probability that the student draws the teacher's top items in order and before any other, over K.

    student, teacher: logits [P, N]. This is the relaxed permutation probability of DE-RRD (Kang et al. 2020, §3.3.2),
    which leaves the order of the other items open. The others are the whole rest of the catalogue instead of a sample.
    Returns the mean over P, in nats per item.
    """
    best = teacher.topk(min(top, teacher.shape[1]), dim=1).indices  # [P, K]
    scores = student.float()
    chosen = scores.gather(1, best)
    rest = scores.scatter(1, best, -torch.inf).logsumexp(dim=1, keepdim=True)  # [P, 1]
    left = torch.cat([chosen, rest], dim=1).flip(1).logcumsumexp(dim=1).flip(1)[:, :-1]  # of what is not drawn yet
    return mean_of(left - chosen, importance)


def closure_loss(
    student: Tensor,
    teacher: Tensor,
    negatives: Tensor,
    *,
    top: int,
    temperature: float,
    importance: Tensor | None = None,
) -> Tensor:
    """KL(teacher ‖ student) over the top items of either and some negatives, times temperature² (RCE-KD, 2025).

    student, teacher: logits [P, N]; negatives: int64 [M], rows that all positions share. The items that the student
    ranks high are included, because a KL over the teacher's best alone does not see the student's false hits. Returns
    the mean over P, in nats.
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
    return temperature**2 * sum_of(p * (log_p - log_q), importance) / len(student)


def stratified_loss(
    student: Tensor,
    teacher: Tensor,
    strata: Sequence[Tensor],
    *,
    temperature: float,
    importance: Tensor | None = None,
) -> Tensor:
    """The mean over strata of KL(teacher ‖ student) among the items of each, times temperature².

    student, teacher: logits [P, N]; strata: the rows (int64) of items of similar popularity. How popular items compare
    with rare ones is not taught, and so neither is the teacher's popularity bias (UnKD, Chen et al. 2023, §3.2).
    Returns the mean over P, in nats.
    """
    target = torch.zeros(len(student), dtype=torch.int64, device=student.device)  # its weight is 0
    seen, weights = (student, teacher, target), Weights(0.0, 0.0, 1.0)
    return weighed_loss(seen, weights, temperature=temperature, strata=strata, importance=importance)


def confident_loss(
    student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float, importance: Tensor | None = None
) -> Tensor:
    """KL(teacher ‖ student), times temperature², where the positions weigh as well as the teacher knows the target.

    student, teacher: logits [P, N]; target: int64 [P]. The weight is 1 / log2(1 + rank of the target in the teacher's
    list), so that a teacher is followed less where it is wrong (the importance-aware part of DLLM2Rec, Cui et al. 2024,
    §3.1). Returns the weighed mean over P, in nats; by its own weight, and not by the importance, it is divided.
    """
    own = teacher.gather(1, target[:, None])
    weight = 1 / torch.log2(1.0 + (teacher >= own).sum(dim=1))
    log_p, log_q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    return temperature**2 * sum_of(kl * weight, importance) / weight.sum()


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    return F.log_softmax(logits.float() / temperature, dim=-1)


class _Hard(torch.autograd.Function):
    """hard_loss. The gradient is importance · (softmax - onehot) / P."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, importance: Tensor | None) -> Tensor:
        rows = torch.arange(len(target), device=target.device)
        grad = F.log_softmax(logits.float(), dim=-1)
        loss = -mean_of(grad[rows, target], importance)
        grad.exp_()[rows, target] -= 1
        ctx.save_for_backward(divide_gradient(grad, importance).to(logits.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None


class _Weighed(torch.autograd.Function):
    """weighed_loss. Its gradient is importance · (soft · T · (q_T - p_T) + hard · (q_1 - onehot)) / P.

    q and p are the softmax of student and teacher, T the temperature. Each of the S strata adds
    importance · stratified · T · (q_T - p_T) / S / P for its own items, where both distributions are divided by their
    sum over them.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, target: Tensor, lesson: _Lesson) -> Tensor:
        (soft, hard, stratified), temperature, strata, importance = lesson
        places = torch.arange(len(target), device=target.device)
        log_p, log_q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
        log_q1 = log_q if temperature == 1 else _log_softmax(student)
        total = -hard * sum_of(log_q1[places, target], importance)
        p = log_p.exp()
        apart = log_p.sub_(log_q).mul_(p)  # what each item adds to the KL
        total += soft * temperature**2 * sum_of(apart, importance)
        grad = log_q.exp_()
        of_q = soft * temperature + (hard if temperature == 1 else 0.0)
        if strata:
            share = stratified * temperature / len(strata)
            kl, more_of_q, of_p = _within(strata, p, grad, apart, share)
            total += temperature * (share * sum_of(kl, importance))
            grad.mul_(more_of_q.add_(of_q)).addcmul_(p, of_p.add_(soft * temperature), value=-1)
        else:
            grad.mul_(of_q).sub_(p, alpha=soft * temperature)
        if temperature != 1:
            grad.add_(log_q1.exp_(), alpha=hard)
        grad[places, target] -= hard
        ctx.save_for_backward(divide_gradient(grad, importance).to(student.dtype))
        return total / len(target)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None


def _within(
    strata: Sequence[Tensor], p: Tensor, q: Tensor, apart: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the KL within each of the strata [P, S], and two factors [P, N].

    The first factor times q minus the second times p is the gradient of share times the sum of these with respect to
    logits / temperature. p, q [P, N]: the probabilities of teacher and student; apart [P, N]: p · log(p / q).
    """
    count = len(strata)
    of = torch.full((p.shape[1],), count, device=p.device)  # the stratum of each item; count: of none
    for number, rows in enumerate(strata):
        of[rows] = number
    member = F.one_hot(of).T[:count].float()  # [S, N], transposed because the products then take a fifth of the time
    with torch.autocast(p.device.type, enabled=False):
        mass_p, mass_q, sums = ((member @ part.T).T for part in (p, q, apart))
        mass_p, mass_q = mass_p.clamp_min(LEAST_MASS), mass_q.clamp_min(LEAST_MASS)
        kl = sums / mass_p - (mass_p / mass_q).log()
    of_q, of_p = (F.pad(share / mass, (0, 1)).index_select(1, of) for mass in (mass_q, mass_p))
    return kl, of_q, of_p
