"""The training loop of teacher and student: chunked loss, early stopping on the validation split, exact resume.

Products run in bfloat16 where the processor multiplies it natively; losses, weights and every evaluation stay float32.

What is validated and kept is the moving average of the weights over the last steps (Polyak and Juditsky 1992), because
it generalises better than the last weights. tests/bench/README.md, "Training", has the measurements of both choices.

The randomness of an epoch follows from the seed and its number, so a training that was stopped and resumed between two
epochs gives the weights of one that was not. A training that was stopped within an epoch repeats that epoch.

Several processes (training/ranks.py) cut the same batches, and each takes its windows of every batch. Their losses are
divided by the targets of the whole batch and their gradients are summed, so a step is that of one process. Weights of
events multiply the loss of their targets (importance.py), and nothing else of a training depends on them.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training import ranks
from training.data.event import Events
from training.machine import keep_freed_memory, return_freed_memory
from training.model.batch import Batch, count_positions, training_batches
from training.model.checkpoint import Checkpoint, load_checkpoint, load_state, save_checkpoint
from training.model.curve import Epoch
from training.model.encoder import SequenceModel
from training.model.given import ALL, Given
from training.model.gradient import backward, clip
from training.model.objective import BatchLoss, Objective
from training.model.warm import Warm
from training.parallel.table import table_of
from training.progress import Progress

WARMUP_STEPS = 100
WARM_SHARE = 0.1  # of the steps of a training that goes on from an earlier one, in which its rate warms up at most
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0
AVERAGE_DECAY = 0.99  # of the weights' moving average, a step
MOST_LOGITS = 400_000_000_000  # of a training: hours on two cores. A large catalogue gets fewer targets


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    learning_rate: float
    batch_positions: int  # targets a step
    epochs: int
    positions: int  # targets in all, of all epochs together
    patience: int  # epochs without a better validation before it stops
    seed: int
    shard_above_mb: float = 0.0  # of an item table, from which on several processes share it; 0: by memory


@dataclass(frozen=True, eq=False)
class Course:
    """What the trainings of a stage share: the events, the schedule, the validation score and who is told.

    validate returns a score of a model, higher being better. Without it a training takes all its epochs and keeps the
    last weights. given: what is added to the logits of all of them. importance: how much each event counts as a target
    [n_events]; None: all alike. warm: where the training goes on from an earlier one.
    """

    events: Events
    schedule: Schedule
    validate: Callable[[SequenceModel], float] | None
    progress: Progress
    given: Given | None = None
    importance: NDArray[np.float32] | None = None
    warm: Warm | None = None

    def count_targets(self, max_history: int) -> int:
        """Return how many targets an epoch has; about so many where it goes on from an earlier training.

        max_history: of the model.
        """
        return count_positions(self.events) if self.warm is None else self.warm.count_targets(self.events, max_history)

    def with_seed(self, seed: int) -> "Course":
        """Return the same course from another seed."""
        return replace(self, schedule=replace(self.schedule, seed=seed))


@dataclass(frozen=True)
class Learner:
    """A model in training, the moving average of its weights, its optimiser and what is lowered."""

    model: SequenceModel
    averaged: SequenceModel
    optimizer: torch.optim.Optimizer
    objective: Objective

    @classmethod
    def start(cls, model: SequenceModel, objective: Objective, learning_rate: float) -> "Learner":
        """Return a learner that has taken no step."""
        batch_loss = objective.batch_loss
        learned = [*model.parameters(), *(batch_loss.parameters() if batch_loss else ())]
        optimizer = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        return cls(model, copy.deepcopy(model).eval(), optimizer, objective)


def fit(model: SequenceModel, objective: Objective, course: Course, checkpoint: Path) -> list[Epoch]:
    """Train model in place, leave it at its best epoch and return the learning curve.

    An item table that lies in shards stays there.

    checkpoint: a file that is written after every epoch, and from which the training goes on where it exists.
    """
    keep_freed_memory()
    objective = with_given(objective, model, course.given)
    course = _within_reach(course, model)
    schedule, batch_loss = course.schedule, objective.batch_loss
    learner = Learner.start(model, objective, schedule.learning_rate)
    averaged, optimizer = learner.averaged, learner.optimizer
    state = load_checkpoint(checkpoint, model, averaged, optimizer, batch_loss) or Checkpoint.fresh(averaged)
    curve = [Epoch(**row) for row in state.curve]
    n_targets = course.count_targets(model.size.max_history)
    while not _is_finished(curve, schedule, n_targets):
        number = len(curve)
        started = monotonic()
        mean_loss = _train_epoch(learner, course, number)
        score = _validate(course, averaged, number)
        return_freed_memory()
        curve.append(Epoch(number, mean_loss, score, monotonic() - started))
        if curve[-1].validation >= max(row.validation for row in curve):
            state.keep_best(averaged)
        state.curve = [asdict(row) for row in curve]
        save_checkpoint(checkpoint, model, averaged, optimizer, state, batch_loss)
        course.progress.note(_describe(curve))
        _log(course.progress, checkpoint, curve[-1])
    load_state(model, state.best)
    ranks.agree(_held_by_all(model))
    model.eval()
    return curve


def _validate(course: Course, averaged: SequenceModel, number: int) -> float:
    """Return the score of a model after an epoch; without a validation a later epoch is the better one."""
    validate = course.validate
    if validate is None:
        return float(number)
    score = validate(averaged)
    return ranks.alone(lambda: score)  # the same to the bit, or one would stop sooner


def with_given(objective: Objective, model: SequenceModel, given: Given | None) -> Objective:
    """Return the objective of logits to which what is given was added."""
    if given is None:
        return objective

    columns = model.shard.columns if model.shard else ALL

    def loss(logits: Tensor, batch: Batch, chunk: slice) -> Tensor:
        return objective.loss(given.add(model, logits, batch.event[chunk], columns), batch, chunk)

    return Objective(loss, objective.batch_loss)


def _within_reach(course: Course, model: SequenceModel) -> Course:
    """Return the course with at most so many targets that their logits over all items take hours, and say so."""
    n_items = model.n_items
    most = max(1, MOST_LOGITS // n_items)
    n_targets = course.count_targets(model.size.max_history)
    wanted = min(course.schedule.positions, course.schedule.epochs * n_targets)
    if course.validate is None or wanted <= most:  # a refit takes the epochs that it was told
        return course
    course.progress.note(
        f"{most:,} targets instead of {wanted:,}: {n_items:,} items make each one dear. With rarely bought items left "
        "out of the file there would be more"
    )
    return replace(course, schedule=replace(course.schedule, positions=most))


def _log(progress: Progress, checkpoint: Path, row: Epoch) -> None:
    """Write an epoch under the names of stage and model, "student/alone/loss"."""
    stage = checkpoint.parent.name.removeprefix(".").removesuffix(".work")
    name = f"{stage}/{checkpoint.stem.removeprefix('checkpoint').strip('.') or 'model'}"
    progress.log.write(f"{name}/loss", row.epoch + 1, row.loss)
    progress.log.write(f"{name}/validation", row.epoch + 1, row.validation)


def _is_finished(curve: list[Epoch], schedule: Schedule, positions: int) -> bool:
    if len(curve) >= schedule.epochs or len(curve) * positions >= schedule.positions:
        return True
    best = max(range(len(curve)), key=lambda i: curve[i].validation, default=0)
    return len(curve) - 1 - best >= schedule.patience


def _train_epoch(learner: Learner, course: Course, number: int) -> float:
    """Train one epoch and return the mean loss of its targets."""
    model, schedule = learner.model, course.schedule
    model.train()
    seed = schedule.seed * 100_003 + number
    torch.manual_seed(seed + (ranks.number() << 40))  # each process draws a dropout of its own
    ranks.agree(_held_by_all(model, learner.averaged, learner.objective.batch_loss))
    size = {"max_history": model.size.max_history, "positions": schedule.batch_positions}
    choose = course.warm.choose if course.warm else None
    batches = training_batches(course.events, **size, seed=seed, choose=choose, importance=course.importance)
    total, seen = 0.0, 0
    n_targets = course.count_targets(model.size.max_history)
    left, warmup = schedule.positions - number * n_targets, _count_warmup(course, n_targets)
    with course.progress.bar(f"epoch {number + 1}", min(left, n_targets)) as bar:
        for batch in batches:
            if seen >= left:
                break
            bar.advance(len(batch.target))
            value = train_step(learner, batch, schedule.learning_rate, warmup)
            total, seen = total + value * len(batch.target), seen + len(batch.target)
    return total / max(seen, 1)


def _count_warmup(course: Course, n_targets: int) -> int:
    """Return in how many steps the rate warms up. n_targets: of an epoch.

    A training that goes on from an earlier one may have fewer steps than the warm-up of a whole one, and would learn
    next to nothing.
    """
    if course.warm is None:
        return WARMUP_STEPS
    steps = course.schedule.epochs * n_targets / course.schedule.batch_positions
    return max(1, min(WARMUP_STEPS, round(WARM_SHARE * steps)))


def train_step(learner: Learner, batch: Batch, learning_rate: float, warmup: int = WARMUP_STEPS) -> float:
    """Move the model one step on a batch, and its average after it; return the mean loss.

    batch: the whole one, in every process that trains. warmup: steps in which the rate rises to what it then is.
    """
    model, optimizer, objective = learner.model, learner.optimizer, learner.objective
    step = _count_steps(optimizer)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * min(1.0, (step + 1) / warmup)
    optimizer.zero_grad(set_to_none=True)
    value = backward(model, batch, objective)
    clip(model, MAX_GRADIENT_NORM)
    if objective.batch_loss:
        torch.nn.utils.clip_grad_norm_(list(objective.batch_loss.parameters()), MAX_GRADIENT_NORM)
    optimizer.step()
    _average(learner.averaged, model, step)
    return value


def _held_by_all(*learned: SequenceModel | BatchLoss | None) -> list[nn.Parameter]:
    """Return the weights that every process has alike: all but an item table in shards."""
    owned = {id(table_of(each)) for each in learned if isinstance(each, SequenceModel) and each.shard}
    return [weight for each in learned if each for weight in each.parameters() if id(weight) not in owned]


def _count_steps(optimizer: torch.optim.Optimizer) -> int:
    return next((int(slots["step"]) for slots in optimizer.state.values()), 0)


@torch.no_grad()
def _average(averaged: SequenceModel, model: SequenceModel, step: int) -> None:
    """Move averaged towards model; the first steps count for more, so that the random start is soon forgotten."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def _describe(curve: list[Epoch]) -> str:
    row = curve[-1]
    best = max(curve, key=lambda other: other.validation)
    return (
        f"epoch {row.epoch + 1}: loss {row.loss:.4f}, validation NDCG@10 {row.validation:.4f} "
        f"(best {best.validation:.4f} at {best.epoch + 1}), {row.seconds:.1f} s"
    )
