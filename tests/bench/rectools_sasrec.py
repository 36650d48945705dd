"""RecTools' SASRec on a run's own data, ranked by our rules, so that the run's report shows it as a row.

    python3.11 -m venv /tmp/rectools
    /tmp/rectools/bin/pip install torch==2.13.0 'rectools[torch]' polars orjson rich safetensors scipy
    /tmp/rectools/bin/python tests/bench/rectools_sasrec.py --run runs/shop --minutes 9      (again until it is done)
    python -m training report --out runs/shop

A venv of its own, because rectools pins numpy < 2. Width, depth, heads, dropout, length and loss (softmax over the
whole catalogue) are the run's own teacher's unless told otherwise; learning rate, batch, initialisation and optimiser
are RecTools' defaults. It trains on exactly the training part: RecTools keeps only the newest events of a long history,
so longer ones are cut into windows and none is lost. Epochs are chosen on validation NDCG@10 with the teacher's
patience; the test users are ranked once, at the end. Writes RUN/peers/rectools_sasrec.npz and .json; JSON on the last
line.
"""

import argparse
import json
import logging
import os
import platform
import resource
import sys
import tomllib
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from training.data.event import Events, select_events
from training.data.prepared import load_prepared
from training.data.split import TRAIN, VAL
from training.evaluation.judge import rank
from training.evaluation.metric import ndcg
from training.evaluation.question import ask, judged_part

NAME = "rectools_sasrec"


@dataclass(frozen=True)
class Setting:
    """What is trained. batch: windows a step."""

    dim: int
    layers: int
    heads: int
    dropout: float
    max_history: int
    epochs: int
    patience: int
    seed: int
    learning_rate: float
    batch: int
    precision: str


def main() -> None:
    """Train until the patience, the epochs or the minutes run out; when done, rank and write."""
    arguments = parse_arguments()
    setting = read_setting(arguments)
    prepared = load_prepared(arguments.run / "prepared")
    work = arguments.run / "peers" / f".{NAME}.work"
    work.mkdir(parents=True, exist_ok=True)
    seed_everything(setting.seed)
    model = make_model(setting, make_dataset(prepared, setting.max_history))
    watch = Watch(prepared, model, setting, work, stop_at=monotonic() + 60 * arguments.minutes)
    train(model, setting, watch, work)
    if watch.is_done():
        print(json.dumps(finish(arguments.run, prepared, model, setting, watch)))
    else:
        print(json.dumps({"done": False, "epochs": len(watch.curve), "run": "the same command again"}))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run directory with prepared/ and config.toml")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop between epochs before that; resumable")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="RecTools' default")
    parser.add_argument("--batch", type=int, default=128, help="windows a step; RecTools' default")
    parser.add_argument("--precision", default="32-true", help="Lightning's: 32-true or bf16-mixed")
    for name in ("dim", "layers", "heads", "max-history", "epochs", "patience", "seed"):
        parser.add_argument(f"--{name}", type=int, help="default: the run's teacher's")
    parser.add_argument("--dropout", type=float, help="default: the run's teacher's")
    return parser.parse_args()


def read_setting(arguments: argparse.Namespace) -> Setting:
    """Return the setting of the command line; what it leaves out is that of the run's teacher (config.toml)."""
    teacher = tomllib.loads((arguments.run / "config.toml").read_text())["teacher"]
    teacher.setdefault("layers", teacher["blocks"].split(",").count("attention"))
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    return Setting(**{name: given.get(name, teacher.get(name)) for name in Setting.__dataclass_fields__})


def make_dataset(prepared, max_history: int) -> Dataset:
    """Return the training events as windows of max_history inputs and their targets; each target is in one window."""
    kept = prepared.part == TRAIN
    events = select_events(prepared.user, prepared.item, kept, len(prepared.users))
    return windows_of(prepared.user[kept], prepared.item[kept], events, max_history)


def windows_of(user: np.ndarray, item: np.ndarray, events: Events, max_history: int) -> Dataset:
    """Return events as RecTools reads them, each window as a user of its own. Only the order of events counts."""
    place = np.arange(len(user)) - events.offset[user]
    length = events.lengths()[user]
    from_end = length - 1 - place
    window = from_end // max_history
    shared = (from_end % max_history == 0) & (from_end > 0)  # a window's oldest input is the older one's last target
    frame = pd.DataFrame({"user": user, "window": window, "item": item, "place": place})
    again = frame[shared].assign(window=frame["window"][shared] - 1)
    frame = pd.concat([again, frame]).sort_values(["user", "window", "place"], kind="stable")
    names = frame["user"].astype(str) + "/" + frame["window"].astype(str)
    return Dataset.construct(
        pd.DataFrame(
            {
                Columns.User: names,
                Columns.Item: frame["item"],
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(frame["place"], unit="s"),
            }
        )
    )


def make_model(setting: Setting, dataset: Dataset) -> SASRecModel:
    """Return RecTools' model, built for the data and not trained."""
    model = SASRecModel(
        n_factors=setting.dim,
        n_blocks=setting.layers,
        n_heads=setting.heads,
        dropout_rate=setting.dropout,
        session_max_len=setting.max_history,
        loss="softmax",
        lr=setting.learning_rate,
        batch_size=setting.batch,
    )
    model._build_model_from_dataset(dataset)
    return model


def train(model: SASRecModel, setting: Setting, watch: "Watch", work: Path) -> None:
    """Train from where the last call stopped."""
    last = work / "last.ckpt"
    resumed = watch.load()
    model.lightning_model.is_fitted = resumed  # else RecTools would draw the weights anew over the loaded ones
    if not watch.is_done():
        trainer = Trainer(
            max_epochs=setting.epochs,
            precision=setting.precision,
            callbacks=[watch],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(
            model.lightning_model,
            model.data_preparator.get_dataloader_train(),
            ckpt_path=str(last) if resumed else None,
        )


class Watch(Callback):
    """Validates after each epoch, keeps the best weights and a checkpoint, stops on patience or time."""

    def __init__(self, prepared, model: SASRecModel, setting: Setting, work: Path, *, stop_at: float) -> None:
        self.question = ask(prepared, VAL)
        self.model, self.setting, self.work, self.stop_at = model, setting, work, stop_at
        self.curve: list[dict[str, float]] = []
        self.peak_mb = 0.0
        self._started = monotonic()

    def load(self) -> bool:
        """Read what an earlier call left; returns whether there was any. Exits where it was of another setting."""
        path = self.work / "state.json"
        if not path.exists():
            return False
        state = json.loads(path.read_text())
        if state["setting"] != asdict(self.setting):
            sys.exit(f"{self.work} holds a training with {state['setting']}: give the same options, or delete it")
        self.curve, self.peak_mb = state["curve"], state["peak_mb"]
        return True

    def is_done(self) -> bool:
        """Return whether the epochs or the patience are used up."""
        best = max(range(len(self.curve)), key=lambda n: self.curve[n]["validation"], default=0)
        return len(self.curve) >= self.setting.epochs or len(self.curve) - 1 - best >= self.setting.patience

    def on_train_epoch_start(self, trainer, module) -> None:
        """Start the clock of the epoch."""
        self._started = monotonic()

    def on_train_epoch_end(self, trainer, module) -> None:
        """Validate, keep the best weights, and decide whether to stop."""
        trained = monotonic() - self._started
        self.peak_mb = max(self.peak_mb, peak_mb())
        score = float(
            ndcg(
                rank(self.question, scorer(self.model, self.question.n_items), self.setting.max_history).ranks, 10
            ).mean()
        )
        module.train()
        self.curve.append({"validation": score, "seconds": trained})
        if score >= max(row["validation"] for row in self.curve):
            torch.save(module.torch_model.state_dict(), self.work / "best.pt")
        took = monotonic() - self._started
        print(f"epoch {len(self.curve)}: validation NDCG@10 {score:.4f}, {trained:.1f} s", file=sys.stderr, flush=True)
        if self.is_done() or monotonic() + took > self.stop_at:
            trainer.should_stop = True

    def on_train_end(self, trainer, module) -> None:
        """Leave a checkpoint and the curve for the next call."""
        trainer.save_checkpoint(self.work / "last.ckpt")
        state = {"setting": asdict(self.setting), "curve": self.curve, "peak_mb": self.peak_mb}
        (self.work / "state.json").write_text(json.dumps(state))


def scorer(model: SASRecModel, n_items: int):
    """Return a scorer of histories that ranks as RecTools recommends.

    Histories are padded to the full length, and items that it was not trained on come last.
    """
    network = model.lightning_model.torch_model.eval()
    known = model.data_preparator.get_known_item_ids().astype(
        np.int64
    )  # rows, in the order of RecTools' numbers from 1
    number = np.zeros(n_items + 1, dtype=np.int64)  # of row + 1; 0: padding, and items not trained on
    number[known + 1] = np.arange(1, len(known) + 1)
    longest = model.session_max_len
    with torch.no_grad():
        table = network.item_model.get_all_embeddings()

    @torch.no_grad()
    def score(rows: torch.Tensor) -> np.ndarray:
        sessions = torch.zeros((len(rows), longest), dtype=torch.int64)
        sessions[:, longest - rows.shape[1] :] = torch.from_numpy(number[rows.numpy() + 1])
        own = (network.encode_sessions({"x": sessions}, table)[:, -1] @ table[1:].T).float().numpy()
        scores = np.full((len(rows), n_items), own.min() - 1, dtype=np.float32)
        scores[:, known] = own
        return scores

    return score


def finish(run: Path, prepared, model: SASRecModel, setting: Setting, watch: Watch) -> dict[str, object]:
    """Rank the judged users with the best weights and write both files."""
    network = model.lightning_model.torch_model
    network.load_state_dict(torch.load(watch.work / "best.pt", weights_only=True))
    score = scorer(model, len(prepared.items))
    ranking = rank(ask(prepared, judged_part(prepared)), score, setting.max_history, both_rules=True)
    ranking.save(run / "peers" / f"{NAME}.npz")
    about = {
        "title": f"RecTools {version('rectools')} SASRec, {setting.dim} wide",
        "data": prepared.report["fingerprint"],
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "seconds": sum(row["seconds"] for row in watch.curve),
        "peak_mb": round(watch.peak_mb),
        "epochs": len(watch.curve),
        "validation": max(row["validation"] for row in watch.curve),
        "ndcg@10": float(ndcg(ranking.ranks, 10).mean()),
        "setting": asdict(setting),
        "versions": {name: version(name) for name in ("rectools", "torch", "numpy", "pytorch-lightning")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    (run / "peers" / f"{NAME}.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def peak_mb() -> float:
    """Return the most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    main()
