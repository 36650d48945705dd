"""The terms that look at a whole batch: states, layers, attention maps, vectors; and a second student.

Each is a module, because most of them learn something: a projector to the teacher's width, a second student. Nothing of
it is kept with the student. The terms that learn from validation are in validation_term.py. Letters: P positions,
D width.

The adversarial term shifts states instead of training a discriminator of lists. The worst shift is known in closed
form, whereas a second network needs a schedule of its own and gives a useful gradient only while it is neither much
better nor much worse than the student.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.distillation.source import Seen, Source, given
from training.distillation.validation_term import Feedback, Meta
from training.loss.logits import distillation_loss, soft_label_loss
from training.loss.states import attention_loss, hint_loss, layer_loss, relation_loss, worst_perturbation
from training.model.batch import Batch
from training.model.encoder import SequenceModel
from training.model.watch import spread

RELATED = 128  # positions of a batch whose users and items are compared
SHIFTED = 256  # positions of a batch whose states are shifted
SHIFT = 0.1  # of a state's length


class Hint(nn.Module):
    """The distance of the student's last state, through a projector, from the teacher's."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        self.projector = nn.Linear(model.size.dim, given(source.states).items.shape[1])

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over the positions of a batch."""
        return hint_loss(self.projector(seen.states), seen.teacher_states(), seen.importance())


class Layers(nn.Module):
    """The distance of every block's output, through a projector each, from that of one of the teacher's blocks.

    The student's blocks are spread evenly over the teacher's.
    """

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        teacher = given(source.model).size
        blocks = len(model.size.blocks)
        self.pairs = spread(blocks, len(teacher.blocks))
        self.projectors = nn.ModuleList(nn.Linear(model.size.dim, teacher.dim, bias=False) for _ in range(blocks))

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over the student's blocks and the positions of a batch."""
        pairs = zip(self.projectors, seen.student.blocks, self.pairs, strict=True)
        losses = [
            layer_loss(projector(ours[seen.real]), seen.teacher.blocks[place][seen.real], seen.importance())
            for projector, ours, place in pairs
        ]
        return torch.stack(losses).mean()


class AttentionMaps(nn.Module):
    """The distance of attention maps from the teacher's, the student's attentions spread evenly over its."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over the student's attentions and the positions of a batch."""
        ours, theirs = seen.student.maps(), seen.teacher.maps()
        pairs = zip(ours, spread(len(ours), len(theirs)), strict=True)
        losses = [attention_loss(maps, theirs[place], seen.real, seen.importance()) for maps, place in pairs]
        return torch.stack(losses).mean()


class Relations(nn.Module):
    """The difference in the distances among some users' states and their next items' vectors."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over the pairs of states and vectors of some positions."""
        positions = seen.draw(RELATED)
        rows, place = seen.batch.target[positions].to(seen.states.device).unique(return_inverse=True)
        student = torch.cat([seen.states[positions].float(), seen.model.items.weight[rows]])
        items = given(seen.source.states).items[rows].float()
        teacher = torch.cat([seen.teacher_states(positions), items])
        return relation_loss(student, teacher, _with_items(seen.importance(positions), place, len(rows)))


class Adversarial(nn.Module):
    """The soft label loss at the nearby state where the student is furthest from the teacher."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()

    def forward(self, seen: Seen) -> Tensor:
        """Return the mean over some positions."""
        items = seen.model.items.weight
        positions = seen.draw_for_logits(SHIFTED)
        states = seen.states[positions]
        teacher = seen.source.logits(seen.batch.event[positions], states)
        with torch.no_grad():
            shift = worst_perturbation(seen.model.scores(states), teacher, items, share=SHIFT)
        moved = states + shift * states.detach().norm(dim=1, keepdim=True)
        scores, importance = seen.model.scores(moved), seen.importance(positions)
        return soft_label_loss(scores, teacher, temperature=seen.temperature, importance=importance)


class Mutual(nn.Module):
    """A second student of the same size, started from other weights; each learns from the other's present answers."""

    def __init__(self, source: Source, model: SequenceModel) -> None:
        super().__init__()
        self.peer = SequenceModel(len(model.items.weight), model.size)
        self._states: tuple[Tensor, Tensor] | None = None

    def chunk_loss(self, logits: Tensor, batch: Batch, chunk: slice, *, alpha: float, weight: float) -> Tensor:
        """Return the student's loss towards the peer, plus the peer's own towards the targets and the student.

        The chunks of a batch must come in order: the first one computes the peer's states.
        """
        if chunk.start == 0:
            states = self.peer.states(batch.rows.to(logits.device))[batch.real.to(logits.device)]
            self._states = states, states.detach().requires_grad_()  # differentiated once, in forward
        other = self.peer.scores(given(self._states)[1][chunk])
        target, importance = batch.target[chunk].to(logits.device), batch.importance_at(chunk, logits.device)
        taught = soft_label_loss(logits, other.detach(), temperature=1.0, importance=importance)
        whole = alpha * weight + 1 - alpha
        own = distillation_loss(
            other, logits.detach(), target, alpha=alpha * weight / whole, temperature=1.0, importance=importance
        )
        return alpha * weight * taught + whole * own

    def forward(self, seen: Seen) -> Tensor:
        """Return a loss whose value is 0 and whose gradient is the peer's, from its states back through its encoder."""
        states, leaf = given(self._states)
        self._states = None
        surrogate = (states * given(leaf.grad)).sum()
        return surrogate - surrogate.detach()


def _with_items(importance: Tensor | None, place: Tensor, count: int) -> Tensor | None:
    """Return the importance of some positions and, after it, of their targets: the mean of each one's [M + count].

    place: of the target of each position among the different ones [M].
    """
    if importance is None:
        return None
    of_items = importance.new_zeros(count).index_add_(0, place, importance) / torch.bincount(place, minlength=count)
    return torch.cat([importance, of_items])


BATCH_TERMS: dict[str, Callable[[Source, SequenceModel], nn.Module]] = {
    "hint": Hint,
    "layers": Layers,
    "attention": AttentionMaps,
    "relations": Relations,
    "adversarial": Adversarial,
    "meta": Meta,
    "feedback": Feedback,
    "mutual": Mutual,
}
"""The terms that have a module, each with what makes it for a source and a student."""
