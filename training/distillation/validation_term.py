"""The terms that learn from validation: each moves towards what would lower the validation loss of the next step.

They see the same validation users as early stopping, but more of what those say. The validation score of a student that
was taught so flatters it; compare it on the test split. Letters: P positions, N items, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.distillation.source import Seen, Source, given
from training.loss.logits import hard_loss, soft_label_loss
from training.model.encoder import SequenceModel

EVERY, POSITIONS = 20, 128  # steps between two looks at validation, and positions of the batch in one look
SHARE_RATE = 0.2  # how far a look moves the logit of the share
FEEDBACK_RATE = 0.05  # how far a look moves the value that it moves most, in nats


class Meta(nn.Module):
    """The share of the soft loss against the hard one, moved every few steps to where the validation loss falls.

    A step down the gradient g lowers the validation loss by step · g · g_validation (Ren et al. 2018, §3.2). So the
    share grows while the gradient of the soft loss points more towards that of the validation loss than the gradient of
    the hard loss does. Cosines are compared, because the lengths of the two gradients differ by orders of magnitude.
    """

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        given(source.probe)
        self.logit: Tensor
        self.steps: Tensor
        self.register_buffer("logit", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def share(self) -> float:
        """Return the share of the soft loss as learned so far, between 0 and 1."""
        return float(self.logit.sigmoid())

    def forward(self, seen: Seen) -> None:
        """Count a step; at every EVERY-th look at validation and move the share."""
        self.steps += 1
        if int(self.steps) % EVERY == 0:
            soft, plain, wanted = (_flat(loss, seen.model) for loss in self._losses(seen))
            ahead = F.cosine_similarity(soft, wanted, dim=0) - F.cosine_similarity(plain, wanted, dim=0)
            self.logit += SHARE_RATE * ahead

    def _losses(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Return the soft and the hard loss of some positions, and the hard loss of some validation users."""
        positions = seen.draw_for_logits(POSITIONS)
        importance = seen.importance(positions)
        logits = seen.model.scores(seen.states[positions])
        teacher = seen.source.logits(seen.batch.event[positions], logits)
        soft = soft_label_loss(logits, teacher, temperature=seen.temperature, importance=importance)
        plain = hard_loss(logits, seen.batch.target[positions].to(logits.device), importance)
        return soft, plain, _validation_loss(seen)


class Feedback(nn.Module):
    """The teacher updated by its student's feedback (meta pseudo labels, Pham et al. 2021, §2).

    A teacher whose answers are saved cannot be trained further, so what is learned is its temperature and a correction
    of each item's logit. A step down the gradient g of the soft loss lowers the validation loss by step · g ·
    g_validation. Along the item table, which holds most of a student's weights, that product is the mean over positions
    of

        (softmax(student) - softmax(teacher)) · d,    d = states @ (gradient of the validation loss in the table)ᵀ,

    so the teacher moves its mass from the items of high d, whose logits validation wants lower, to those of low d.
    """

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        given(source.probe)
        self.log_scale: Tensor
        self.offset: Tensor
        self.steps: Tensor
        self.register_buffer("log_scale", torch.zeros(()))
        self.register_buffer("offset", torch.zeros(len(model.items.weight)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def corrected(self, teacher: Tensor) -> Tensor:
        """Return the teacher's logits [P, N] as corrected so far."""
        return teacher * self.log_scale.exp() + self.offset

    def forward(self, seen: Seen) -> None:
        """Count a step; at every EVERY-th look at validation and move the correction."""
        self.steps += 1
        if int(self.steps) % EVERY:
            return
        with (
            parametrize.cached()
        ):  # else a table of unit rows is computed anew at each use, and this one is not in the graph
            (wanted,) = torch.autograd.grad(_validation_loss(seen), [seen.model.items.weight])
        positions = seen.draw_for_logits(POSITIONS)
        states = seen.states[positions].detach().float()
        teacher = seen.source.logits(seen.batch.event[positions], states).float()
        change, importance = states @ wanted.T, seen.importance(positions)
        if importance is not None:
            change = change * importance[:, None]
        moved = feedback_gradient(teacher, change, self.log_scale, self.offset, seen.temperature)
        for value, gradient in zip((self.log_scale, self.offset), moved, strict=True):
            value -= FEEDBACK_RATE * gradient / gradient.abs().max().clamp_min(1e-30)


def feedback_gradient(
    teacher: Tensor, change: Tensor, log_scale: Tensor, offset: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the gradient, in log_scale [] and in offset [N], of the mean over P of softmax(corrected) · change.

    corrected: the teacher's logits [P, N] times exp(log_scale) plus offset, over temperature. change [P, N]: how the
    student's logits change along the gradient of the validation loss.
    """
    scaled = teacher * log_scale.exp()
    share = torch.softmax((scaled + offset) / temperature, dim=-1)
    pull = share * (change - (share * change).sum(dim=-1, keepdim=True)) / (temperature * len(teacher))  # of the logits
    return (pull * scaled).sum(), pull.sum(dim=0)


def _validation_loss(seen: Seen) -> Tensor:
    """Return the hard loss of some validation users at their next items."""
    rows, target = given(seen.source.probe)()
    device = seen.states.device
    return hard_loss(seen.model.scores(seen.model.users(rows.to(device))), target.to(device))


def _flat(loss: Tensor, model: SequenceModel) -> Tensor:
    """Return the gradient of a loss with respect to all weights of model, as one vector."""
    weights = list(model.parameters())
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return torch.cat([(torch.zeros_like(weight) if grad is None else grad).flatten() for weight, grad in pairs])
