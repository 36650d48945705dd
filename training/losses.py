"""The losses, as pure functions of logits. Letters: P positions, N items."""

import torch.nn.functional as F
from torch import Tensor


def hard_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy over the whole catalogue.

    logits [P, N], target int64 [P]: the row of the next item. Returns the mean over P, in nats.
    """
    return F.cross_entropy(logits.float(), target)


def soft_label_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher ‖ student) over the catalogue, scaled by temperature² (Hinton et al. 2015, §2).

    student, teacher: logits [P, N]. Returns the mean over P, in nats.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def distillation_loss(student: Tensor, teacher: Tensor, target: Tensor, *, alpha: float, temperature: float) -> Tensor:
    """alpha · temperature² · KL(teacher ‖ student) + (1 - alpha) · cross-entropy."""
    soft = soft_label_loss(student, teacher, temperature=temperature)
    return alpha * soft + (1 - alpha) * hard_loss(student, target)
