"""The teacher stage: a causal transformer, trained with cross-entropy over the full catalogue at every position.

Its item table may start from what a language model says of the items (Harte et al. 2023, "Leveraging Large Language
Models for Sequential Recommendation"), or stay that: then it is a teacher that knows nothing but the texts.
"""

from pathlib import Path

from training.data.event import select_events
from training.data.prepared import Prepared
from training.data.split import TRAIN
from training.evaluation.judge import judge, validation_score
from training.loss.logits import hard_loss
from training.model.checkpoint import save_model
from training.model.curve import save_curve
from training.model.device import choose_device
from training.model.encoder import Size, make_model
from training.model.fit import Schedule, fit
from training.model.item_table import Start
from training.progress import Progress

MODEL = "model.safetensors"
CURVE = "curve.json"
RANKING = "ranking.npz"


def train_teacher(
    out: Path, prepared: Prepared, *, size: Size, schedule: Schedule, start: Start | None, progress: Progress
) -> None:
    """Train, stop early on validation NDCG@10, write model and learning curve into out."""
    model = make_model(len(prepared.items), size, schedule.seed, start).to(choose_device())
    checkpoint = out / "checkpoint.safetensors"
    curve = fit(
        model,
        select_events(prepared.user, prepared.item, prepared.part == TRAIN, len(prepared.users)),
        loss=lambda logits, batch, piece: hard_loss(logits, batch.target[piece].to(logits.device)),
        validate=validation_score(prepared),
        schedule=schedule,
        checkpoint=checkpoint,
        progress=progress,
    )
    save_model(out / MODEL, model)
    save_curve(out / CURVE, curve)
    judge(prepared, model).save(out / RANKING)
    checkpoint.unlink()
