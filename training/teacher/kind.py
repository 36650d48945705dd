"""A kind of teacher as one object: what it is called, where its files lie, and all that a run does with it.

A run meets its teachers through this interface alone. A new kind is a file in this folder that implements it, and a
line in registry.py. A kind never sees the settings of a run: it is handed values (Supplies).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from training.data.event import Events
from training.data.prepared import Prepared
from training.evaluation.given import Given
from training.evaluation.judge import Scorer
from training.model.encoder import SequenceModel, Size
from training.model.fit import Schedule
from training.model.warm import Warm
from training.progress import Progress
from training.teacher.soft_labels import SoftLabels, StateLabels

RANKING = "ranking.npz"  # in the directory of every kind's stage
CURVE = "curve.json"  # in that of a kind that is trained in epochs
TIMED = 50  # histories that are scored to measure a time


@dataclass(frozen=True)
class ModelSettings:
    """How a sequence model is made and trained. keyed: the same as plain settings, for the key of its stage."""

    size: Size
    schedule: Schedule
    keyed: Mapping[str, Any]


@dataclass(frozen=True)
class Supplies:
    """What a run hands to every kind of teacher; each takes what it needs.

    teacher: the settings of the transformers. student_alone: those of the student without a teacher. texts: the file of
    the vectors of the items' texts, where texts are used. given: the trend, where it is part of the score. warm: the
    earlier run from whose teachers training goes on, if there is one.
    """

    prepared: Prepared
    teacher: ModelSettings
    student_alone: ModelSettings
    texts: Path | None
    progress: Progress
    given: Given | None = None
    warm: Warm | None = None


@dataclass(frozen=True, eq=False)
class Member:
    """A trained teacher, opened to be measured and mixed."""

    scorer: Scorer
    max_history: int  # newest items of a history that it reads
    parameters: int
    seconds: float  # that its training took
    time_encoding: Callable[[], float]  # measures the microseconds that one full history takes on one core
    trend_weight: float | None = None  # of the trend in its logits; None where it was trained without


@dataclass(frozen=True)
class Offer:
    """What a teacher offers to a student: soft labels and, where it is a neural one, its states and the model itself.

    The factor of the mix is in the labels and not in the states.
    """

    labels: SoftLabels
    states: StateLabels | None = None
    model: SequenceModel | None = None


@dataclass(frozen=True)
class Kind(ABC):
    """One kind of teacher. `run` is a run directory, `out` the directory that a stage works in."""

    name: str  # in teacher.members, in mix.json and in metrics.json
    place: str  # directory of its stage in the run directory
    title: str  # in reports
    labels_place: str = ""  # directory of the stage that saves its labels; empty where labels need no stage
    is_neural: bool = False  # it can teach its states, layers and item vectors, and start the student's item table
    is_student_alone: bool = False  # it is the student without a teacher, and is reported as that
    reads_texts: bool = False  # it is trained with the vectors of the items' texts, where there are any
    needs_texts: bool = False  # it cannot be trained without them
    trains_together: bool = False  # of several processes all call train; otherwise the first does and the others wait
    colour: str | None = None  # in the pictures of a report; None takes the colour of what models are compared with
    peers: tuple[str, ...] = ()  # names of the rankings in peers/ that a report compares it with

    @abstractmethod
    def settings(self, supplies: Supplies) -> Mapping[str, Any]:
        """Return the settings that it is made with: where they change, its stage runs again."""

    @abstractmethod
    def train(self, out: Path, supplies: Supplies) -> None:
        """Train it on the training part, choose by validation alone, judge it, write all into out with RANKING."""

    @abstractmethod
    def open(self, run: Path) -> Member:
        """Open what train wrote."""

    @abstractmethod
    def offer(self, run: Path, events: Events, factor: float) -> Offer:
        """Open what it offers to a student at every one of the training events, its logits times factor."""

    @abstractmethod
    def refit(self, out: Path, run: Path, supplies: Supplies, factor: float) -> Offer:
        """Train it once more on the events of every part, as it was chosen, and return what it offers at all of them.

        out is shared by all teachers of the refit: file names start with the name of the kind. A second call with the
        same out goes on from what the first one left there.
        """

    def save_labels(self, out: Path, run: Path, events: Events, progress: Progress) -> None:
        """Write into out what offer reads from labels_place. Called only where labels_place is not empty."""
        raise NotImplementedError(f"{self.name} has a labels_place and does not implement save_labels")

    def best_epochs(self, run: Path) -> int | None:
        """Return after how many epochs it was best on validation; None where it is not trained in epochs."""
        return None


def time_scorer(scorer: Scorer, max_history: int, n_items: int) -> float:
    """Return the median microseconds that scoring one full history takes, for a Member that has no encoder."""
    history = torch.from_numpy(np.random.default_rng(0).integers(0, n_items, (1, max_history)))
    return 1e6 * median(_seconds(lambda: scorer(history)) for _ in range(TIMED))


def _seconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started
