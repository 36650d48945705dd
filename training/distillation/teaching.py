"""How a student is taught: the terms of a recipe as the loss that fit takes, against what a teacher offers.

Terms of logits see a piece of the batch's logits beside the teacher's; those of part.py see the whole batch. Soft
labels, over all items and within strata, and the hard loss are one pass.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.prepared import Prepared
from training.data.split import VAL
from training.distillation.batch_term import PARTS, Mutual
from training.distillation.source import Probe, Seen, Source
from training.distillation.validation_term import Feedback, Meta
from training.evaluation.breakdown import QUINTILES, popularity_quintile
from training.evaluation.question import ask
from training.loss.logits import (
    Weights,
    closure_loss,
    confident_loss,
    distillation_loss,
    hard_loss,
    listwise_loss,
    ranking_loss,
    soft_label_loss,
    weighed_loss,
)
from training.model.batch import Batch, history_batches
from training.model.encoder import SequenceModel
from training.model.fit import Loss
from training.model.watch import Watched, watch

TOP, PLACE_DECAY = 20, 10.0  # of the teacher's list in ranking and listwise
CLOSURE_TOP, CLOSURE_NEGATIVES = 50, 200
PROBED = 128  # validation users in one look of meta


@dataclass(frozen=True)
class Recipe:
    """alpha · Σ weight · term + (1 - alpha) · hard. teacher_temperature: 0 is the student's own."""

    terms: Mapping[str, float]
    alpha: float
    temperature: float
    teacher_temperature: float = 0.0


@dataclass(frozen=True)
class Piece:
    """What a term of logits looks at: student and teacher [P, N], target [P]."""

    student: Tensor
    teacher: Tensor
    target: Tensor
    temperature: float


OF_LOGITS: dict[str, Callable[[Piece], Tensor]] = {
    "ranking": lambda seen: ranking_loss(seen.student, seen.teacher, top=TOP, decay=PLACE_DECAY),
    "listwise": lambda seen: listwise_loss(seen.student, seen.teacher, top=TOP),
    "closure": lambda seen: closure_loss(
        seen.student,
        seen.teacher,
        torch.randint(seen.student.shape[1], (CLOSURE_NEGATIVES,), device=seen.student.device),
        top=CLOSURE_TOP,
        temperature=seen.temperature,
    ),
    "confidence": lambda seen: confident_loss(seen.student, seen.teacher, seen.target, temperature=seen.temperature),
}
NEED_LOGITS = frozenset({"kl", "stratified", "meta", "feedback", *OF_LOGITS})


def make_probe(prepared: Prepared, max_history: int) -> Probe:
    """Return what draws validation users anew at each call, with their next items."""
    question = ask(prepared, VAL)
    known = np.flatnonzero(question.target >= 0)
    rng = np.random.default_rng(0)

    def draw() -> tuple[Tensor, Tensor]:
        users = known[rng.integers(0, len(known), PROBED)]
        batches = list(history_batches(question.known, question.users[users], max_history=max_history, size=PROBED))
        places, rows = batches[0]
        return rows, torch.from_numpy(question.target[users[places]])

    return draw


def hard(logits: Tensor, batch: Batch, piece: slice) -> Tensor:
    """Cross-entropy alone, in the form that fit takes."""
    return hard_loss(logits, batch.target[piece].to(logits.device))


def smooth(share: float) -> Loss:
    """Return cross-entropy against the target and, by a share, all items alike."""

    def loss(logits: Tensor, batch: Batch, piece: slice) -> Tensor:
        return F.cross_entropy(logits.float(), batch.target[piece].to(logits.device), label_smoothing=share)

    return loss


def teach(recipe: Recipe, source: Source, model: SequenceModel, seed: int) -> "tuple[Loss, Teaching]":
    """Return loss and extra for fit. What the source lacks must have been refused before: see term.check_terms."""
    if recipe.teacher_temperature:
        source = replace(source, factor=recipe.temperature / recipe.teacher_temperature)
    with torch.random.fork_rng():  # the student's own randomness stays as it is without the term
        torch.manual_seed(seed + 1)
        teaching = Teaching(recipe, source, model).to(model.device)
    return teaching.piece, teaching


class Teaching(nn.Module):
    """A recipe as loss of pieces of logits and as fit's extra."""

    def __init__(self, recipe: Recipe, source: Source, model: SequenceModel) -> None:
        super().__init__()
        self.recipe, self.source = recipe, source
        self._watched = Watched()
        quintile = torch.from_numpy(popularity_quintile(source.popularity))
        strata = [torch.nonzero(quintile == number).flatten() for number in range(QUINTILES)]
        self._strata = [rows.to(model.device) for rows in strata if len(rows)]
        names = [name for name in recipe.terms if name in PARTS]
        self.parts = nn.ModuleDict({name: PARTS[name](source, model) for name in names})

    def piece(self, logits: Tensor, batch: Batch, piece: slice) -> Tensor:
        """The terms of logits and the hard loss, as fit takes them."""
        recipe = self.recipe
        teacher = self.source.logits(batch.event[piece], logits) if NEED_LOGITS & set(recipe.terms) else logits
        target = batch.target[piece].to(logits.device)
        seen = Piece(logits, teacher, target, recipe.temperature)
        loss = self._base(seen)
        parts = dict(self.parts.items())
        for name, weight in recipe.terms.items():
            part = parts.get(name)
            if name in OF_LOGITS:
                loss = loss + recipe.alpha * weight * OF_LOGITS[name](seen)
            elif isinstance(part, Meta):
                loss = loss + recipe.alpha * weight * _soft_and_hard(seen, part.share())
            elif isinstance(part, Feedback):
                soft = soft_label_loss(logits, part.corrected(teacher), temperature=recipe.temperature)
                loss = loss + recipe.alpha * weight * soft
            elif isinstance(part, Mutual):
                loss = loss + part.piece(logits, batch, piece, alpha=recipe.alpha, weight=weight)
        return loss

    @contextmanager
    def watch(self, model: SequenceModel) -> Iterator[None]:
        """As fit's Extra says."""
        if not {"layers", "attention"} & set(self.recipe.terms):
            yield
            return
        with watch(model) as self._watched:
            yield

    def whole(self, model: SequenceModel, batch: Batch, states: Tensor) -> Tensor | None:
        """As fit's Extra says."""
        seen = Seen(model, batch, states, self._watched, self.source, self.recipe.temperature)
        losses = []
        for name, part in self.parts.items():
            loss = part(seen)
            if loss is not None:
                scale = 1.0 if isinstance(part, Mutual) else self.recipe.alpha * self.recipe.terms[name]
                losses.append(scale * loss)
        self._watched = Watched()
        return torch.stack(losses).sum() if losses else None

    def _base(self, seen: Piece) -> Tensor:
        """The soft losses and the hard one in one pass."""
        alpha, terms = self.recipe.alpha, self.recipe.terms
        if not {"kl", "stratified"} & set(terms):
            return (1 - alpha) * hard_loss(seen.student, seen.target)
        weights = Weights(alpha * terms.get("kl", 0.0), 1 - alpha, alpha * terms.get("stratified", 0.0))
        return weighed_loss(
            (seen.student, seen.teacher, seen.target),
            weights,
            temperature=seen.temperature,
            strata=self._strata if weights.stratified else (),
        )


def _soft_and_hard(seen: Piece, alpha: float) -> Tensor:
    return distillation_loss(seen.student, seen.teacher, seen.target, alpha=alpha, temperature=seen.temperature)


Lesson = Callable[[SequenceModel], tuple[Loss, Teaching | None]]  # what fit takes, for a model to be taught
