"""How a student is taught: a recipe of terms as the objective that fit lowers, and the objectives without a teacher.

The terms of logits see a chunk of the batch's logits beside the teacher's; those of batch_term.py see the whole batch.
The soft labels, over all items and within strata, and the hard loss are computed in one pass.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.prepared import Prepared
from training.data.split import VAL
from training.distillation.batch_term import BATCH_TERMS, Mutual
from training.distillation.source import Probe, Seen, Source
from training.distillation.term import TERMS
from training.distillation.validation_term import Feedback, Meta
from training.errors import InputError
from training.evaluation.breakdown import QUINTILES, popularity_quintile
from training.evaluation.question import ask
from training.loss.logits import (
    Weights,
    closure_loss,
    confident_loss,
    distillation_loss,
    hard_loss,
    listwise_loss,
    mean_of,
    ranking_loss,
    soft_label_loss,
    weighed_loss,
)
from training.model.batch import Batch
from training.model.encoder import SequenceModel
from training.model.objective import Lesson, Objective
from training.model.watch import Watched, watch
from training.parallel import cross_entropy
from training.teacher.soft_labels import labels_of
from training.teacher.transformer import learn_hard, learn_in_shards

TOP, PLACE_DECAY = 20, 10.0  # of the teacher's list in ranking and listwise
CLOSURE_TOP, CLOSURE_NEGATIVES = 50, 200
PROBED = 128  # validation users at whom a term looks at once


@dataclass(frozen=True)
class Recipe:
    """How a student is taught: alpha · Σ weight · term + (1 - alpha) · hard loss.

    terms: weights by name, see term.py. teacher_temperature: the teacher's own; 0 stands for the student's.
    """

    terms: Mapping[str, float]
    alpha: float
    temperature: float
    teacher_temperature: float = 0.0


@dataclass(frozen=True, eq=False)
class SeenLogits:
    """What a term of logits looks at: one chunk of positions, student and teacher [P, N], target and importance [P].

    A teacher's label counts as much as the target beside which it stands: both say what is wanted there, and their
    shares of the loss stay as the recipe has them.
    """

    student: Tensor
    teacher: Tensor
    target: Tensor
    temperature: float
    importance: Tensor | None


LOGIT_TERMS: dict[str, Callable[[SeenLogits], Tensor]] = {
    "ranking": lambda seen: ranking_loss(
        seen.student, seen.teacher, top=TOP, decay=PLACE_DECAY, importance=seen.importance
    ),
    "listwise": lambda seen: listwise_loss(seen.student, seen.teacher, top=TOP, importance=seen.importance),
    "closure": lambda seen: closure_loss(
        seen.student,
        seen.teacher,
        torch.randint(seen.student.shape[1], (CLOSURE_NEGATIVES,), device=seen.student.device),
        top=CLOSURE_TOP,
        temperature=seen.temperature,
        importance=seen.importance,
    ),
    "confidence": lambda seen: confident_loss(
        seen.student, seen.teacher, seen.target, temperature=seen.temperature, importance=seen.importance
    ),
}
NEED_LOGITS = frozenset({"kl", "stratified", "meta", "feedback", *LOGIT_TERMS})

learn_alone: Lesson = learn_hard
"""The lesson of a student without a teacher: it learns as the teachers themselves do."""


def make_probe(prepared: Prepared, max_history: int) -> Probe:
    """Return the probe of all validation users, with their newest max_history items."""
    question = ask(prepared, VAL)
    known = np.flatnonzero(question.target >= 0)
    rng = np.random.default_rng(0)

    def draw() -> tuple[Tensor, Tensor]:
        places, rows = next(question.batches(max_history, known[rng.integers(0, len(known), PROBED)]))
        return rows, torch.from_numpy(question.target[places])

    return draw


def learn_smoothed(share: float) -> Lesson:
    """Return the lesson of a student without a teacher whose labels are smoothed.

    Its loss is the cross-entropy with the next item and, by a share, with all items alike (Szegedy et al. 2016).
    """

    def loss(logits: Tensor, batch: Batch, chunk: slice) -> Tensor:
        target, importance = batch.target[chunk].to(logits.device), batch.importance_at(chunk, logits.device)
        if importance is None:
            return F.cross_entropy(logits.float(), target, label_smoothing=share)
        return mean_of(F.cross_entropy(logits.float(), target, label_smoothing=share, reduction="none"), importance)

    def smooth(model: SequenceModel) -> Objective:
        return Objective(loss) if model.shard is None else learn_in_shards(model.shard, share)

    return smooth


def learn_from(source: Source, recipe: Recipe, seed: int) -> Lesson:
    """Return the lesson of a student that is taught. The source must have what the recipe needs: see check_terms.

    seed: of the weights that terms learn. The student's own randomness is the same with and without such a term.
    """
    if recipe.teacher_temperature:
        source = replace(source, factor=recipe.temperature / recipe.teacher_temperature)

    def teach(model: SequenceModel) -> Objective:
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            teaching = Teaching(recipe, source, model).to(model.device)
        return Objective(teaching.chunk_loss, teaching)

    return teach


class Teaching(nn.Module):
    """A recipe at work on one student: its loss of a chunk of logits, and its BatchLoss."""

    def __init__(self, recipe: Recipe, source: Source, model: SequenceModel) -> None:
        super().__init__()
        self.recipe, self.shard = recipe, model.shard
        if self.shard is not None:
            _check_shards(recipe)
            source = replace(source, labels=labels_of(source.labels, self.shard.columns))
        self.source = source
        self._watched = Watched()
        quintile = torch.from_numpy(popularity_quintile(source.popularity))
        strata = [torch.nonzero(quintile == number).flatten() for number in range(QUINTILES)]
        self._strata = [rows.to(model.device) for rows in strata if len(rows)]
        names = [name for name in recipe.terms if name in BATCH_TERMS]
        self.batch_terms = nn.ModuleDict({name: BATCH_TERMS[name](source, model) for name in names})

    def chunk_loss(self, logits: Tensor, batch: Batch, chunk: slice) -> Tensor:
        """Return the mean over a chunk of all terms of logits and the hard loss, in the form that fit takes."""
        recipe = self.recipe
        teacher = self.source.logits(batch.event[chunk], logits) if NEED_LOGITS & set(recipe.terms) else logits
        target = batch.target[chunk].to(logits.device)
        importance = batch.importance_at(chunk, logits.device)
        seen = SeenLogits(logits, teacher, target, recipe.temperature, importance)
        loss = self._soft_and_hard(seen)
        batch_terms = dict(self.batch_terms.items())
        for name, weight in recipe.terms.items():
            term = batch_terms.get(name)
            if name in LOGIT_TERMS:
                loss = loss + recipe.alpha * weight * LOGIT_TERMS[name](seen)
            elif isinstance(term, Meta):
                loss = loss + recipe.alpha * weight * _distillation_loss(seen, term.share())
            elif isinstance(term, Feedback):
                corrected = term.corrected(teacher)
                soft = soft_label_loss(logits, corrected, temperature=recipe.temperature, importance=importance)
                loss = loss + recipe.alpha * weight * soft
            elif isinstance(term, Mutual):
                loss = loss + term.chunk_loss(logits, batch, chunk, alpha=recipe.alpha, weight=weight)
        return loss

    @contextmanager
    def watch(self, model: SequenceModel) -> Iterator[None]:
        """Watch the blocks of model until the end of the context, where a term compares them. See BatchLoss."""
        if not {"layers", "attention"} & set(self.recipe.terms):
            yield
            return
        with watch(model) as self._watched:
            yield

    def batch_loss(self, model: SequenceModel, batch: Batch, states: Tensor) -> Tensor | None:
        """Return the sum of the terms of a whole batch; None where there is none. See BatchLoss."""
        seen = Seen(model, batch, states, self._watched, self.source, self.recipe.temperature)
        losses = []
        for name, term in self.batch_terms.items():
            loss = term(seen)
            if loss is not None:
                scale = 1.0 if isinstance(term, Mutual) else self.recipe.alpha * self.recipe.terms[name]
                losses.append(scale * loss)
        self._watched = Watched()
        return torch.stack(losses).sum() if losses else None

    def _soft_and_hard(self, seen: SeenLogits) -> Tensor:
        """Return the weighed sum of soft labels, strata and hard loss, computed in one pass."""
        alpha, terms, importance = self.recipe.alpha, self.recipe.terms, seen.importance
        if not {"kl", "stratified"} & set(terms):
            if self.shard is None:
                return (1 - alpha) * hard_loss(seen.student, seen.target, importance)
            return (1 - alpha) * cross_entropy.hard_loss(seen.student, seen.target, self.shard, importance=importance)
        weights = Weights(alpha * terms.get("kl", 0.0), 1 - alpha, alpha * terms.get("stratified", 0.0))
        logits = seen.student, seen.teacher, seen.target
        strata = self._strata if weights.stratified else []
        of_all = weighed_loss if self.shard is None else partial(cross_entropy.weighed_loss, shard=self.shard)
        return of_all(logits, weights, temperature=seen.temperature, strata=strata, importance=importance)


def _check_shards(recipe: Recipe) -> None:
    """Raise InputError where a term needs the logits of all items in one process."""
    for name in recipe.terms:
        if not TERMS[name].by_shard:
            known = ", ".join(term for term, about in TERMS.items() if about.by_shard)
            raise InputError(
                f"distill.terms: {name} needs the logits of all items, and the item table lies in shards: teach "
                f"{known}, or raise student.shard_above_mb"
            )


def _distillation_loss(seen: SeenLogits, alpha: float) -> Tensor:
    logits = seen.student, seen.teacher, seen.target
    return distillation_loss(*logits, alpha=alpha, temperature=seen.temperature, importance=seen.importance)
