"""The teachers that are sequence models: trained with cross-entropy over the whole catalogue at every position.

The transformer's item table may start from what a language model says of the items' texts (Harte et al. 2023,
"Leveraging Large Language Models for Sequential Recommendation"). The text teacher's table stays that: it knows nothing
but the texts. The twin is the student itself, trained without a teacher (born-again networks, Furlanello et al. 2018):
with it among the teachers, no mix is weaker on validation than the student alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from training.data.event import Events
from training.evaluation.given import trend_weight_of
from training.evaluation.judge import model_scorer
from training.evaluation.trained import Files, open_course, open_refit_course, train_and_save, train_or_load
from training.export.graph import export_encoder
from training.export.onnx_student import time_encoder
from training.loss.logits import hard_loss
from training.model.batch import Batch
from training.model.checkpoint import load_model
from training.model.curve import best_epochs, load_curve
from training.model.device import choose_device
from training.model.encoder import SequenceModel, count_parameters, make_model
from training.model.item_table import Start, start_table
from training.model.objective import Objective
from training.parallel import cross_entropy
from training.parallel.shard import Shard
from training.progress import Progress
from training.teacher.kind import CURVE, RANKING, Kind, Member, ModelSettings, Offer, Supplies
from training.teacher.soft_labels import load_soft_labels, save_soft_labels

MODEL = "model.safetensors"
COLOUR = "#94a3b8"


def hard(logits: Tensor, batch: Batch, chunk: slice) -> Tensor:
    """Return the cross-entropy with the next items of a chunk, in the form that fit takes."""
    return hard_loss(logits, batch.target[chunk].to(logits.device), batch.importance_at(chunk, logits.device))


def learn_hard(model: SequenceModel) -> Objective:
    """Make the objective of a model without a teacher: cross-entropy with the next item."""
    shard = model.shard
    if shard is None:
        return Objective(hard)
    return learn_in_shards(shard)


def learn_in_shards(shard: Shard, smoothing: float = 0.0) -> Objective:
    """Return the objective of cross-entropy where the items lie in shards. smoothing: see cross_entropy.hard_loss."""

    def loss(logits: Tensor, batch: Batch, chunk: slice) -> Tensor:
        device = logits.device
        target, importance = batch.target[chunk].to(device), batch.importance_at(chunk, device)
        return cross_entropy.hard_loss(logits, target, shard, smoothing, importance)

    return Objective(loss)


def files_in(stage: Path) -> Files:
    """Return the files of a sequence model's stage."""
    return Files(stage / MODEL, stage / CURVE, stage / RANKING, stage / "checkpoint.safetensors", stage / "score.json")


@dataclass(frozen=True)
class SequenceTeacher(Kind):
    """A teacher that is a sequence model. See Kind for its methods."""

    trains_together: bool = True

    def settings(self, supplies: Supplies) -> Mapping[str, Any]:
        """Return the section of the settings that it is made from."""
        return self._model_settings(supplies).keyed

    def train(self, out: Path, supplies: Supplies) -> None:
        """Train, stop early on validation NDCG@10, write model, learning curve and ranking."""
        schedule = self._model_settings(supplies).schedule
        warm = None if self.needs_texts else supplies.warm  # whitened anew, texts are not where they were
        course = open_course(supplies.prepared, schedule, supplies.progress, supplies.given, warm)
        model = self._make(supplies)
        if warm:
            warm.start(model, f"{self.place}/{MODEL}")
        train_and_save(model, learn_hard, course, supplies.prepared, files_in(out))

    def open(self, run: Path) -> Member:
        """Open the model; what is timed is its encoder through onnxruntime."""
        stage = run / self.place
        model = load_model(stage / MODEL)
        size = model.size
        return Member(
            model_scorer(model.to(choose_device())),
            size.max_history,
            count_parameters(model),
            sum(row.seconds for row in load_curve(stage / CURVE)),
            lambda: time_encoder(export_encoder(model.cpu()), dim=size.dim, max_history=size.max_history),
            trend_weight_of(model) if size.has_trend else None,
        )

    def save_labels(self, out: Path, run: Path, events: Events, progress: Progress) -> None:
        """Write the model's state after every event, and its item table."""
        save_soft_labels(out, load_model(run / self.place / MODEL).to(choose_device()), events, progress)

    def offer(self, run: Path, events: Events, factor: float) -> Offer:
        """Open the saved states and, of a neural kind, the model."""
        model = load_model(run / self.place / MODEL).to(choose_device()) if self.is_neural else None
        return self._offer(run / self.labels_place, model, factor)

    def best_epochs(self, run: Path) -> int:
        """Return after how many epochs validation NDCG@10 was highest."""
        return best_epochs(load_curve(run / self.place / CURVE))

    def refit(self, out: Path, run: Path, supplies: Supplies, factor: float) -> Offer:
        """Train for as many epochs as were best, and save the states after all events."""
        schedule = self._model_settings(supplies).schedule
        epochs = self.best_epochs(run)
        course = open_refit_course(supplies.prepared, schedule, epochs, supplies.progress, supplies.given)
        model = train_or_load(out / f"{self.name}.safetensors", self._make(supplies), learn_hard, course)
        labels = out / self.name
        labels.mkdir(exist_ok=True)
        save_soft_labels(labels, model, course.events, supplies.progress)
        return self._offer(labels, model if self.is_neural else None, factor)

    def _model_settings(self, supplies: Supplies) -> ModelSettings:
        return supplies.student_alone if self.is_student_alone else supplies.teacher

    def _make(self, supplies: Supplies) -> SequenceModel:
        """Return the untrained model, its item table started from the texts where it reads them."""
        settings = self._model_settings(supplies)
        start = None
        if self.reads_texts and supplies.texts is not None:
            vectors = np.load(supplies.texts)
            start = Start(start_table(vectors, settings.size.dim, is_frozen=self.needs_texts), self.needs_texts)
        return make_model(len(supplies.prepared.items), settings.size, settings.schedule.seed, start).to(
            choose_device()
        )

    def _offer(self, labels: Path, model: SequenceModel | None, factor: float) -> Offer:
        device = choose_device()
        states = None if model is None else load_soft_labels(labels, device)
        return Offer(load_soft_labels(labels, device, factor), states, model)


TRANSFORMER = SequenceTeacher(
    "transformer",
    "teacher",
    "Transformer alone",
    labels_place="soft_labels",
    is_neural=True,
    reads_texts=True,
    colour=COLOUR,
    peers=("rectools_sasrec",),
)
TEXT = SequenceTeacher(
    "text",
    "text_teacher",
    "Transformer over texts alone",
    labels_place="text_labels",
    is_neural=True,
    reads_texts=True,
    needs_texts=True,
    colour=COLOUR,
)
TWIN = SequenceTeacher(
    "twin", "twin", "Student alone in the teacher", labels_place="twin_labels", is_student_alone=True
)
