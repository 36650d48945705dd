"""The losses, as pure functions of logits. Letters: P positions, N items."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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
    return _Distillation.apply(student, teacher, target, alpha, temperature)


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


class _Distillation(torch.autograd.Function):
    """The gradient is known in closed form: alpha · T · (q_T - p_T) + (1 - alpha) · (q_1 - onehot), over P."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, target: Tensor, alpha: float, temperature: float) -> Tensor:
        rows = torch.arange(len(target), device=target.device)
        log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
        log_q = F.log_softmax(student.float() / temperature, dim=-1)
        log_q1 = log_q if temperature == 1 else F.log_softmax(student.float(), dim=-1)
        hard = -log_q1[rows, target].mean()
        p = log_p.exp()
        soft = temperature**2 * (p * log_p.sub_(log_q)).sum() / len(target)
        grad = log_q.exp_() if temperature == 1 else alpha * temperature * log_q.exp_()
        if temperature == 1:
            grad.sub_(p, alpha=alpha)  # alpha · q + (1 - alpha) · q is q
        else:
            grad.sub_(p, alpha=alpha * temperature).add_(log_q1.exp_(), alpha=1 - alpha)
        grad[rows, target] -= 1 - alpha
        ctx.save_for_backward(grad.div_(len(target)).to(student.dtype))
        return alpha * soft + (1 - alpha) * hard

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None, None
