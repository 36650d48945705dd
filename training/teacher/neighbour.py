"""The neighbours' table: for each item of a history, the few items that it speaks for most, and how much.

It is cut from a linear model, whose matrix is sparse in truth and not of low rank, or from what the teachers say of
histories of one item where there is no linear model. The matrix of a large catalogue is never whole in memory.

Letters: N items, M neighbours of each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.prepared import Prepared
from training.data.split import VAL
from training.evaluation.given import to_neighbours, to_sparse
from training.evaluation.judge import Scorer, rank
from training.evaluation.metric import ndcg, rank_targets
from training.evaluation.question import Question, ask
from training.progress import Progress
from training.teacher.calibration import best_sharpness
from training.teacher.linear_model import LinearModel

WIDTHS = (5, 10, 20, 40)
DECAYS = (0.5, 0.7, 0.85, 0.95)
ENOUGH = 0.995  # of the best NDCG@10: the narrowest table that has it is taken
BLOCK = 1024  # rows at once
USERS = 2_000  # of the validation, drawn with a fixed seed
VALUES = 1 << 24  # scores in memory at once
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Blocks = Iterator[tuple[Int64, Int64, Float32]]


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix [N, N] in blocks: of each item of a history, how much it speaks for each. What is in no block is 0."""

    n_rows: int  # of all blocks
    blocks: Blocks  # yields some rows [R] and columns [C] with what stands there [R, C]


def linear_rows(model: LinearModel) -> Matrix:
    """Return the matrix of a linear model; items that it does not cover are in no block."""

    def blocks() -> Blocks:
        for start in range(0, len(model.rows), BLOCK):
            own = slice(start, start + BLOCK)
            yield model.rows[own], model.rows, model.weights[own].astype(np.float32)

    return Matrix(len(model.rows), blocks())


def response_rows(score: Scorer, n_items: int) -> Matrix:
    """Return what a scorer says of histories of one item, less what it says on average of a sample of them."""

    def blocks() -> Blocks:
        sample = np.random.default_rng(0).choice(n_items, min(n_items, BLOCK), replace=False)
        usual = score(torch.from_numpy(sample[:, None])).mean(axis=0)
        for start in range(0, n_items, BLOCK):
            rows = np.arange(start, min(start + BLOCK, n_items))
            yield rows, np.arange(n_items), score(torch.from_numpy(rows[:, None])) - usual

    return Matrix(n_items, blocks())


def strongest(matrix: Matrix, n_items: int, width: int, progress: Progress) -> tuple[NDArray[np.int32], Float32]:
    """Return rows and weights [N, M] of the largest entries of each row, by absolute value, the largest first.

    Entries of 0 are no neighbours: their row is -1.
    """
    width = min(width, n_items)
    rows, weights = np.full((n_items, width), -1, dtype=np.int32), np.zeros((n_items, width), dtype=np.float32)
    with progress.bar("neighbours of items", matrix.n_rows) as bar:
        for own, columns, block in matrix.blocks:
            n_found = min(width, len(columns))
            found = torch.from_numpy(np.abs(block)).topk(n_found, dim=1).indices.numpy()
            values = np.take_along_axis(block, found, axis=1)
            weights[own, :n_found] = values
            rows[own, :n_found] = np.where(values == 0, -1, columns[found])
            bar.advance(len(own))
    return rows, weights


def choose_table(
    prepared: Prepared,
    matrix: Matrix,
    depth: int,
    progress: Progress,
    trend: Callable[[Question], Float32] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return the neighbours, and the width, decay, depth and weight of highest validation NDCG@10, with the trials.

    depth: of the history. trend: returns log(count + e) of a question [U, N]. The weight makes the table's logits
    honest, beside the trend where there is one. ndcg@10 is that of the two together.
    """
    n_items = len(prepared.items)
    rows, weights = strongest(matrix, n_items, WIDTHS[-1], progress)
    question = ask(prepared, VAL, limit=max(1, min(USERS, VALUES // n_items)))
    trials = list[dict[str, float]]()
    widths = sorted({min(width, n_items) for width in WIDTHS})
    with progress.bar("tables of neighbours", len(widths) * len(DECAYS)) as bar:
        for width in widths:
            score_by = _table_scorer(to_sparse(to_neighbours(rows[:, :width], weights[:, :width])), n_items)
            for decay in DECAYS:
                trials.append({"width": width, "decay": decay, "ndcg@10": _quality(question, score_by(decay), depth)})
                bar.advance(1)
    best = max(trial["ndcg@10"] for trial in trials)
    good = [trial for trial in trials if trial["ndcg@10"] >= ENOUGH * best]
    chosen = min(good, key=lambda trial: (trial["width"], -trial["ndcg@10"]))
    width, decay = int(chosen["width"]), float(chosen["decay"])
    neighbours = to_neighbours(rows[:, :width].copy(), weights[:, :width])
    scores = np.zeros((len(question.users), n_items), dtype=np.float32)
    score = _table_scorer(to_sparse(neighbours), n_items)(decay)
    for places, history in question.batches(depth):
        scores[places] = score(history)
    base = None if trend is None else _honest(trend(question), question)
    weight = best_sharpness(scores, question.target, base)
    whole = np.float32(weight) * scores + (0 if base is None else base)
    seen = question.histories(np.arange(len(question.users))) if question.exclude_seen else None
    together = float(ndcg(rank_targets(whole, question.target, seen), 10).mean())
    return neighbours, {"decay": decay, "depth": depth, "weight": weight, "ndcg@10": together, "trials": trials}


def _honest(logs: Float32, question: Question) -> Float32:
    return logs * np.float32(best_sharpness(logs, question.target))


def _quality(question: Question, score: Scorer, depth: int) -> float:
    return float(ndcg(rank(question, score, depth, with_top=False).ranks, 10).mean())


def _table_scorer(table: Any, n_items: int) -> Any:
    """Return the maker of a scorer by a table alone, for a decay."""

    def make(decay: float) -> Scorer:
        def score(rows: torch.Tensor) -> Float32:
            history = rows.numpy()
            place, column = np.nonzero(history >= 0)
            age = history.shape[1] - 1 - column
            steps = (decay**age).astype(np.float32)
            features = type(table)((steps, (place, history[place, column])), shape=(len(history), n_items))
            said: Float32 = (features @ table).toarray().astype(np.float32)
            return said

        return score

    return make
