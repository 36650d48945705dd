"""The linear sequence model: the next item as a linear function of the decayed history, in closed form.

    x_t = Σ_d decay^d · onehot(item_{t-d}), over the newest items        p = x_t · W / popularity^discount
    W = argmin ‖X W - Y‖² + penalty · ‖W‖²                               (ridge; SLIT of Choi et al. 2021, WWW)

Y is the next item, or the next few with a decay of their own, which helps where a basket's order means nothing. A
full-rank item-to-item matrix knows what a narrow dot product cannot hold, and takes seconds. p is near a probability,
so what it scores, and teaches, is its logarithm (see calibration). Catalogues above MAX_ITEMS
are modelled for their most popular items; the others score 0. Decay, penalty, discount and Y are chosen on validation,
on the TUNED most popular items, where a solution takes a second.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from training.data.event import Events, select_events
from training.data.prepared import Prepared
from training.data.split import TRAIN, VAL
from training.evaluation.judge import Ranking, Scorer, rank, score_all
from training.evaluation.metric import ndcg
from training.evaluation.question import Question, ask, judged_part
from training.progress import Progress
from training.teacher.calibration import best_floor, log_scores

MAX_ITEMS = 20_000
TUNED = 4_000
USERS, FLOOR_USERS = 3_000, 1_000  # of the validation, drawn with a fixed seed
MAX_HISTORY = 50
LEAST_DECAY = 0.01  # an item that counts for less is left out
BLOCK = 2048  # columns of a product at once

DECAYS = (0.5, 0.7, 0.85, 0.95)
FUTURES = ((1, 1.0), (5, 0.8))  # how many next items are the target, and their decay
PENALTIES = (10.0, 50.0, 250.0)
DISCOUNTS = (0.0, 0.25, 0.5)

WEIGHTS, SETTING, RANKING = "weights.npy", "linear.json", "ranking.npz"
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """What is chosen on validation."""

    decay: float
    future: int
    future_decay: float
    penalty: float
    discount: float
    floor: float = 1.0  # of log_scores

    @property
    def max_history(self) -> int:
        """How many of the newest items count."""
        return min(MAX_HISTORY, 1 + int(np.log(LEAST_DECAY) / np.log(self.decay)))


START = Setting(0.85, 1, 1.0, 50.0, 0.0)


@dataclass(frozen=True)
class LinearModel:
    """weights [M, M] between the covered rows [M]; a catalogue of N items, N ≥ M.

    A row of weights is contiguous, for rows are what is gathered: with columns so, 12,609 items took 2 s a history.
    """

    weights: NDArray[np.float16]
    rows: NDArray[np.int64]
    n_items: int
    setting: Setting
    seconds: float = 0.0  # that choosing and solving took

    def scorer(self) -> Scorer:
        """Score histories: rows int64 [B, T], -1 padding the left -> logits [B, N]."""
        predict, floor = self.predictor(), self.setting.floor
        return lambda rows: log_scores(torch.from_numpy(predict(rows)), floor).numpy()

    def predictor(self) -> Scorer:
        """As scorer, before the logarithm."""
        weights = self.weights.astype(np.float32)

        def predict(rows: torch.Tensor) -> Float32:
            features = _features(rows.numpy(), self.setting, self.n_items)
            scores = np.zeros((len(rows), self.n_items), dtype=np.float32)
            scores[:, self.rows] = features[:, self.rows] @ weights
            return scores

        return predict


def train_linear(out: Path, prepared: Prepared, progress: Progress) -> None:
    """Choose the setting on validation, solve for the whole catalogue, write weights and ranking into out."""
    n_items, started = len(prepared.items), monotonic()
    events = select_events(prepared.user, prepared.item, prepared.part == TRAIN, len(prepared.users))
    tuned = covered_rows(events, n_items, TUNED)
    setting, trials = choose_setting(events, ask(prepared, VAL, limit=USERS), tuned, progress)
    model = fit_linear(events, n_items, covered_rows(events, n_items), setting)
    model = with_best_floor(model, ask(prepared, VAL, limit=FLOOR_USERS))
    progress.note(f"linear model: {model.setting}, over {min(n_items, MAX_ITEMS):,} items")
    model = replace(model, seconds=monotonic() - started)
    save_linear(out, model, trials)
    judge_linear(prepared, model).save(out / RANKING)


def with_best_floor(model: LinearModel, question: Question) -> LinearModel:
    """Return the model with the floor that makes its logits most honest."""
    scores = score_all(question, model.predictor(), model.setting.max_history)
    return replace(model, setting=replace(model.setting, floor=best_floor(scores, question.target)))


def covered_rows(events: Events, n_items: int, count: int = MAX_ITEMS) -> NDArray[np.int64]:
    """Return the rows of the most popular items, in the order of rows."""
    popularity = np.bincount(events.item, minlength=n_items)
    return np.sort(np.argsort(-popularity, kind="stable")[:count])


def judge_linear(prepared: Prepared, model: LinearModel) -> Ranking:
    """Rank the judged part."""
    question = ask(prepared, judged_part(prepared))
    return rank(question, model.scorer(), model.setting.max_history, both_rules=True)


@dataclass(frozen=True)
class Problem:
    """The products that a solution needs, for one decay: gram XᵀX [M, M], target XᵀY [M, M] by future."""

    gram: Float32
    target: dict[tuple[int, float], Float32]
    popularity: Float32
    rows: NDArray[np.int64]
    n_items: int

    @classmethod
    def build(
        cls, events: Events, n_items: int, rows: NDArray[np.int64], decay: float, futures: Sequence[tuple[int, float]]
    ) -> "Problem":
        """Multiply the histories of events with themselves and with what came next."""
        has_next = np.ones(len(events.item), dtype=bool)
        has_next[events.offset[1:][events.lengths() > 0] - 1] = False
        max_history = replace(START, decay=decay).max_history
        history = decayed_history(events, n_items, decay, max_history)[has_next][:, rows]
        target = {
            (count, fading): _product(history, _decayed_future(events, n_items, fading, count)[has_next][:, rows])
            for count, fading in futures
        }
        popularity = np.bincount(events.item, minlength=n_items)[rows].astype(np.float32) + 1
        return cls(_product(history, history), target, popularity, rows, n_items)

    def solve(self, setting: Setting) -> LinearModel:
        """(gram + penalty · 1)⁻¹ target / popularity^discount."""
        ridge = self.gram.copy()
        ridge[np.diag_indices_from(ridge)] += setting.penalty
        factor = scipy.linalg.cho_factor(ridge, overwrite_a=True, check_finite=False)
        target = self.target[setting.future, setting.future_decay]
        weights = scipy.linalg.cho_solve(factor, target, check_finite=False) / self.popularity**setting.discount
        return LinearModel(weights.astype(np.float16, order="C"), self.rows, self.n_items, setting)  # LAPACK's is F


def fit_linear(events: Events, n_items: int, rows: NDArray[np.int64], setting: Setting) -> LinearModel:
    """Solve for the given rows of the catalogue."""
    future = (setting.future, setting.future_decay)
    return Problem.build(events, n_items, rows, setting.decay, [future]).solve(setting)


def choose_setting(
    events: Events, question: Question, rows: NDArray[np.int64], progress: Progress
) -> tuple[Setting, list[dict[str, float]]]:
    """Return the setting of highest validation NDCG@10 on the given rows, and every trial.

    One thing after the other: the decay first, then target and penalty, then the discount.
    """
    trials: list[dict[str, float]] = []

    def score(setting: Setting, problem: Problem) -> float:
        model = problem.solve(setting)
        ranking = rank(question, model.scorer(), setting.max_history, with_top=False)
        trials.append(asdict(setting) | {"ndcg@10": float(ndcg(ranking.ranks, 10).mean())})
        bar.advance(1)
        return trials[-1]["ndcg@10"]

    with progress.bar("linear model", len(DECAYS) + len(FUTURES) * len(PENALTIES) + len(DISCOUNTS)) as bar:
        attempts = (
            (score(start, problem), start, problem)
            for start in (replace(START, decay=decay) for decay in DECAYS)
            for problem in [Problem.build(events, question.n_items, rows, start.decay, FUTURES)]
        )
        _, setting, problem = max(attempts, key=lambda attempt: attempt[0])
        grid = [
            replace(setting, future=future, future_decay=decay, penalty=penalty)
            for future, decay in FUTURES
            for penalty in PENALTIES
        ]
        setting = max(grid, key=lambda one: score(one, problem))
        setting = max((replace(setting, discount=one) for one in DISCOUNTS), key=lambda one: score(one, problem))
    return setting, trials


def save_linear(out: Path, model: LinearModel, trials: list[dict[str, float]]) -> None:
    """Write a model and how it was chosen."""
    np.save(out / WEIGHTS, model.weights)
    np.save(out / "rows.npy", model.rows)
    about = {
        "n_items": model.n_items,
        "setting": asdict(model.setting),
        "seconds": model.seconds,
        "trials": trials,
    }
    (out / SETTING).write_text(json.dumps(about, indent=1) + "\n")


def load_linear(out: Path) -> LinearModel:
    """Read what save_linear wrote."""
    about = json.loads((out / SETTING).read_text())
    weights, rows = np.load(out / WEIGHTS), np.load(out / "rows.npy")
    return LinearModel(weights, rows, about["n_items"], Setting(**about["setting"]), about["seconds"])


def decayed_history(events: Events, n_items: int, decay: float, max_history: int) -> csr_matrix:
    """Return x after each event [n_events, n_items]."""
    age_of_first = np.arange(len(events.item)) - np.repeat(events.offset[:-1], events.lengths())
    return _shifted_sum(events.item, age_of_first, n_items, decay, range(max_history), -1)


def _decayed_future(events: Events, n_items: int, decay: float, count: int) -> csr_matrix:
    """Return y of each event [n_events, n_items]: the next items of the same user."""
    left = np.repeat(events.offset[1:], events.lengths()) - 1 - np.arange(len(events.item))
    return _shifted_sum(events.item, left, n_items, decay, range(1, count + 1), 1)


def _shifted_sum(
    item: NDArray[np.int32], room: NDArray[np.int64], n_items: int, decay: float, shifts: range, direction: int
) -> csr_matrix:
    """Sum decay^i · onehot(item at a distance of shifts[i]) where there is room for it."""
    places = [np.flatnonzero(room >= shift) for shift in shifts]
    columns = [item[place + direction * shift] for place, shift in zip(places, shifts, strict=True)]
    values = [np.full(len(place), decay**power, dtype=np.float32) for power, place in enumerate(places)]
    where = (np.concatenate(places), np.concatenate(columns))
    return csr_matrix((np.concatenate(values), where), shape=(len(item), n_items))


def _product(left: csr_matrix, right: csr_matrix) -> Float32:
    """leftᵀ right, dense, in blocks of columns: the sparse result of the whole would be larger than the dense one."""
    out = np.empty((left.shape[1], right.shape[1]), dtype=np.float32)
    transposed, columns = left.T.tocsr(), right.tocsc()
    for start in range(0, right.shape[1], BLOCK):
        piece = slice(start, start + BLOCK)
        out[:, piece] = (transposed @ columns[:, piece]).toarray()
    return out


def _features(rows: NDArray[np.int64], setting: Setting, n_items: int) -> csr_matrix:
    """Histories [B, T] -> x [B, n_items]."""
    newest = rows[:, -setting.max_history :]
    user, place = np.nonzero(newest >= 0)
    age = newest.shape[1] - 1 - place
    values = (setting.decay**age).astype(np.float32)
    return csr_matrix((values, (user, newest[user, place])), shape=(len(rows), n_items))
