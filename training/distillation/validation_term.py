"""The terms that learn from validation: what a step would do to the validation loss moves them.

They see no more of the validation users than early stopping does, but they see it too: a validation score of such a
student flatters it, so compare it on the test split. Letters: P positions, N items, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from training.distillation.source import Seen, Source, given
from training.loss.logits import hard_loss, soft_label_loss
from training.model.encoder import SequenceModel

EVERY, POSITIONS = 20, 128  # steps between two looks, and positions of the batch in one
SHARE_RATE = 0.2
FEEDBACK_RATE = 0.05  # of the largest correction, in nats, a look


class Meta(nn.Module):
    """The share of the soft loss against the hard one, moved every few steps to where validation loss falls.

    A step down the gradient g lowers validation loss by step · g · g_validation (Ren et al. 2018, §3.2), so the share
    grows while the soft loss' gradient points more the way of validation's than the hard one's: cosines, for the two
    differ in length by orders. The users of the probe are those that early stopping watches.
    """

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        given(source.probe)
        self.logit: Tensor
        self.steps: Tensor
        self.register_buffer("logit", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def share(self) -> float:
        """Return alpha as learned so far."""
        return float(self.logit.sigmoid())

    def forward(self, seen: Seen) -> None:
        """Look ahead, every few steps."""
        self.steps += 1
        if int(self.steps) % EVERY == 0:
            soft, plain, wanted = (_flat(loss, seen.model) for loss in self._losses(seen))
            ahead = F.cosine_similarity(soft, wanted, dim=0) - F.cosine_similarity(plain, wanted, dim=0)
            self.logit += SHARE_RATE * ahead

    def _losses(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """The soft and the hard loss of some positions, and the hard loss of validation users."""
        positions = seen.sample_logits(POSITIONS)
        logits = seen.model.scores(seen.states[positions])
        soft = soft_label_loss(
            logits, seen.source.logits(seen.batch.event[positions], logits), temperature=seen.temperature
        )
        plain = hard_loss(logits, seen.batch.target[positions].to(logits.device))
        return soft, plain, _validation_loss(seen)


class Feedback(nn.Module):
    """The teacher updated by its student's feedback (meta pseudo labels, Pham et al. 2021, §2).

    A teacher whose answers are saved cannot be trained again; what is learned is its temperature and a correction of
    each item's logit. A step down the soft loss' gradient g lowers the validation loss by step · g · g_validation.
    Along the item table, which holds most of a student's weights, that product is the mean over positions of

        (softmax(student) - softmax(teacher)) · d,    d = states @ (gradient of the validation loss in the table)ᵀ,

    so the teacher moves its mass from the items of high d, which validation wants lower, to those of low d.
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
        """Return the teacher's logits [P, N] as moved so far."""
        return teacher * self.log_scale.exp() + self.offset

    def forward(self, seen: Seen) -> None:
        """Look ahead, every few steps."""
        self.steps += 1
        if int(self.steps) % EVERY:
            return
        with parametrize.cached():  # rows of length 1 are made anew at each look, and would not be in the graph
            (wanted,) = torch.autograd.grad(_validation_loss(seen), [seen.model.items.weight])
        positions = seen.sample_logits(POSITIONS)
        states = seen.states[positions].detach().float()
        teacher = seen.source.logits(seen.batch.event[positions], states).float()
        moved = feedback_gradient(teacher, states @ wanted.T, self.log_scale, self.offset, seen.temperature)
        for value, gradient in zip((self.log_scale, self.offset), moved, strict=True):
            value -= FEEDBACK_RATE * gradient / gradient.abs().max().clamp_min(1e-30)


def feedback_gradient(
    teacher: Tensor, change: Tensor, log_scale: Tensor, offset: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The gradient of the mean over P of softmax(corrected teacher / temperature) · change.

    teacher: logits [P, N]; change [P, N]: of the student's logits along the gradient of the validation loss. Returns
    that in log_scale [] and in offset [N].
    """
    scaled = teacher * log_scale.exp()
    share = torch.softmax((scaled + offset) / temperature, dim=-1)
    pull = share * (change - (share * change).sum(dim=-1, keepdim=True)) / (temperature * len(teacher))  # in the logits
    return (pull * scaled).sum(), pull.sum(dim=0)


def _validation_loss(seen: Seen) -> Tensor:
    """The hard loss of some validation users at their next items."""
    rows, target = given(seen.source.probe)()
    device = seen.states.device
    return hard_loss(seen.model.scores(seen.model.users(rows.to(device))), target.to(device))


def _flat(loss: Tensor, model: SequenceModel) -> Tensor:
    """The gradient of a loss with respect to the whole model, as one vector."""
    weights = list(model.parameters())
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return torch.cat([(torch.zeros_like(weight) if grad is None else grad).flatten() for weight, grad in pairs])
