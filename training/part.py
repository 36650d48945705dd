"""The terms that look at a whole batch: states, layers, maps, vectors; and the two that learn beside the student.

Each is a module, for most learn something: a projector to the teacher's width, a share, a second student. None of it is
kept with the student. Letters: P positions, D width.

Two choices. Adversarial perturbs states instead of training a discriminator of lists: the worst shift is known in
closed form, where a second network needs a schedule of its own and gives a gradient only while it is neither too good
nor too bad. Meta learns the share of the soft loss from one-step look-ahead; a teacher that is updated by its student's
feedback would have to be trained beside it, and a linear one cannot be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.encoder import SequenceModel
from training.fit import CHUNK_LOGITS, autocast
from training.losses import distillation_loss, hard_loss, soft_label_loss
from training.representation import attention_loss, hint_loss, layer_loss, relation_loss, worst_perturbation
from training.sequences import Batch
from training.soft_labels import SoftLabels, StateLabels
from training.watch import Watched, spread, watch

RELATED = 128  # positions of a batch whose users and items are compared
PERTURBED = 256  # positions of a batch whose states are perturbed
PERTURBATION = 0.1  # of a state's length
META_EVERY, META_RATE, META_POSITIONS = 20, 0.2, 128

Given = TypeVar("Given")
Probe = Callable[[], tuple[Tensor, Tensor]]  # -> rows int64 [B, T] and the next item [B] of some validation users


@dataclass(frozen=True)
class Source:
    """What a student may be taught from. states, model: of the transformer, where it is among the teachers.

    factor: of the teacher's logits, where its temperature is another than the student's.
    """

    labels: SoftLabels
    popularity: NDArray[np.float64]  # training events of each item [N]
    states: StateLabels | None = None
    model: SequenceModel | None = None
    probe: Probe | None = None
    factor: float = 1.0

    def logits(self, event: Tensor, like: Tensor) -> Tensor:
        """Return the teacher's logits after events [P], computed as those like are."""
        with torch.no_grad(), autocast(like.device.type):
            logits = self.labels.logits(event)
            return logits if self.factor == 1 else logits * self.factor


@dataclass
class Seen:
    """A batch as the student saw it. states [P, D]; student: what was watched inside it."""

    model: SequenceModel
    batch: Batch
    states: Tensor
    student: Watched
    source: Source
    temperature: float

    @cached_property
    def teacher(self) -> Watched:
        """The teacher on the same batch, nothing dropped, no gradient."""
        model = _given(self.source.model)
        with torch.no_grad(), watch(model.eval()) as watched:
            model.states(self.batch.rows.to(self.states.device))
        return watched

    @cached_property
    def real(self) -> Tensor:
        """Which places hold an item [B, T], on the device."""
        return self.batch.real.to(self.states.device)

    def sample(self, count: int) -> Tensor:
        """Return at most so many of the positions, drawn anew each time, in order [M]."""
        return torch.randperm(len(self.states))[:count].sort().values

    def teacher_states(self, positions: Tensor | None = None) -> Tensor:
        """Return the transformer's own states at positions (None: all) [M, D_teacher]."""
        event = self.batch.event if positions is None else self.batch.event[positions]
        states = _given(self.source.states).states[event.numpy()]
        return torch.from_numpy(states).to(self.states.device, torch.float32)


class Hint(nn.Module):
    """The last state, through a projector."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        self.projector = nn.Linear(model.size.dim, _given(source.states).items.shape[1])

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over the batch."""
        return hint_loss(self.projector(seen.states), seen.teacher_states())


class Layers(nn.Module):
    """Every block's output, each through a projector, the student's spread evenly over the teacher's."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        teacher = _given(source.model).size
        blocks = len(model.size.blocks)
        self.pairs = spread(blocks, len(teacher.blocks))
        self.projectors = nn.ModuleList(nn.Linear(model.size.dim, teacher.dim, bias=False) for _ in range(blocks))

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over layers and batch."""
        pairs = zip(self.projectors, seen.student.blocks, self.pairs, strict=True)
        losses = [
            layer_loss(projector(ours[seen.real]), seen.teacher.blocks[place][seen.real])
            for projector, ours, place in pairs
        ]
        return torch.stack(losses).mean()


class Maps(nn.Module):
    """Attention maps, the student's attentions spread evenly over the teacher's."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over maps and batch."""
        ours, theirs = seen.student.maps(), seen.teacher.maps()
        pairs = zip(ours, spread(len(ours), len(theirs)), strict=True)
        return torch.stack([attention_loss(maps, theirs[place], seen.real) for maps, place in pairs]).mean()


class Relations(nn.Module):
    """Distances among some users' states and their next items' vectors."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over pairs."""
        positions = seen.sample(RELATED)
        rows = seen.batch.target[positions].unique().to(seen.states.device)
        student = torch.cat([seen.states[positions].float(), seen.model.items.weight[rows]])
        items = _given(seen.source.states).items[rows].float()
        return relation_loss(student, torch.cat([seen.teacher_states(positions), items]))


class Adversarial(nn.Module):
    """Soft labels at the nearby state where the student is most wrong."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over some positions."""
        items = seen.model.items.weight
        positions = seen.sample(max(1, min(PERTURBED, CHUNK_LOGITS // len(items))))
        states = seen.states[positions]
        teacher = seen.source.logits(seen.batch.event[positions], states)
        with torch.no_grad():
            shift = worst_perturbation(seen.model.scores(states), teacher, items, share=PERTURBATION)
        moved = states + shift * states.detach().norm(dim=1, keepdim=True)
        return soft_label_loss(seen.model.scores(moved), teacher, temperature=seen.temperature)


class Meta(nn.Module):
    """The share of the soft loss against the hard one, moved every few steps to where validation loss falls.

    A step down the gradient g lowers validation loss by step · g · g_validation (Ren et al. 2018, §3.2), so the share
    grows while the soft loss' gradient points more the way of validation's than the hard one's: cosines, for the two
    differ in length by orders. The users of the probe are those that early stopping watches.
    """

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        _given(source.probe)
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
        if int(self.steps) % META_EVERY == 0:
            soft, plain, wanted = (_flat(loss, seen.model) for loss in self._losses(seen))
            ahead = F.cosine_similarity(soft, wanted, dim=0) - F.cosine_similarity(plain, wanted, dim=0)
            self.logit += META_RATE * ahead

    def _losses(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """The soft and the hard loss of some positions, and the hard loss of validation users."""
        device = seen.states.device
        positions = seen.sample(max(1, min(META_POSITIONS, CHUNK_LOGITS // len(seen.model.items.weight))))
        logits = seen.model.scores(seen.states[positions])
        soft = soft_label_loss(
            logits, seen.source.logits(seen.batch.event[positions], logits), temperature=seen.temperature
        )
        rows, target = _given(seen.source.probe)()
        ahead = seen.model.scores(seen.model.users(rows.to(device)))
        plain = hard_loss(logits, seen.batch.target[positions].to(device))
        return soft, plain, hard_loss(ahead, target.to(device))


class Mutual(nn.Module):
    """A second student of the same size that starts elsewhere; each learns from the other's present answers."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        self.peer = SequenceModel(len(model.items.weight), model.size)
        self._states: tuple[Tensor, Tensor] | None = None

    def piece(self, logits: Tensor, batch: Batch, piece: slice, *, alpha: float, weight: float) -> Tensor:
        """The student's loss towards the peer, and the peer's own towards target and student."""
        if piece.start == 0:
            states = self.peer.states(batch.rows.to(logits.device))[batch.real.to(logits.device)]
            self._states = states, states.detach().requires_grad_()  # differentiated once, in forward
        other = self.peer.scores(_given(self._states)[1][piece])
        target = batch.target[piece].to(logits.device)
        taught = alpha * weight * soft_label_loss(logits, other.detach(), temperature=1.0)
        whole = alpha * weight + 1 - alpha
        share = alpha * weight / whole
        return taught + whole * distillation_loss(other, logits.detach(), target, alpha=share, temperature=1.0)

    def forward(self, seen: Seen) -> Tensor:
        """Hand the peer's gradient from its states to its encoder; adds nothing to the value."""
        states, leaf = _given(self._states)
        self._states = None
        surrogate = (states * _given(leaf.grad)).sum()
        return surrogate - surrogate.detach()


PARTS: dict[str, Callable[[Source, SequenceModel], nn.Module]] = {
    "hint": Hint,
    "layers": Layers,
    "attention": Maps,
    "relations": Relations,
    "adversarial": Adversarial,
    "meta": Meta,
    "mutual": Mutual,
}


def _flat(loss: Tensor, model: SequenceModel) -> Tensor:
    """The gradient of a loss with respect to the whole model, as one vector."""
    weights = list(model.parameters())
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return torch.cat([(torch.zeros_like(weight) if grad is None else grad).flatten() for weight, grad in pairs])


def _given(part: Given | None) -> Given:
    if part is None:
        raise ValueError("the recipe was not checked: its source lacks what a term needs")
    return part
