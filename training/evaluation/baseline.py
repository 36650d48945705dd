"""What a recommender must beat: popularity, recent popularity, item-kNN, EASE, iALS; seconds to train, no sequence.

Each is trained on the training part; its few settings come from a tiny grid judged on validation NDCG@10; then the test
users are ranked once, under the rules that every model is ranked by. item-kNN and iALS are `implicit`'s.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
from implicit.utils import ParameterWarning
from numpy.typing import NDArray
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from training.data.prepared import Prepared
from training.data.split import TRAIN, VAL
from training.errors import InputError, StageError
from training.evaluation.judge import AskedScorer, Ranking, rank_asked
from training.evaluation.metric import ndcg
from training.evaluation.question import Question, ask, judged_part
from training.progress import Progress

EASE_MAX_ITEMS = 20_000  # its inverse takes memory with the square of the items and time with the cube
DAY_MS = 86_400_000
Float32 = NDArray[np.float32]
Setting = Mapping[str, Any]
MakeScorer = Callable[[Question], AskedScorer]  # a trained model: scorer of whatever question it is asked


@dataclass(frozen=True)
class Data:
    """The training part. has: 0/1 [users, items]."""

    prepared: Prepared
    has: csr_matrix
    popularity: Float32  # training events of each item

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.popularity)


@dataclass(frozen=True)
class Baseline:
    """One way to recommend. grid: settings to choose from on validation; make: train with one of them."""

    grid: Sequence[Setting]
    make: Callable[[Data, Setting], MakeScorer]
    max_items: int | None = None


def rank_baselines(out: Path, prepared: Prepared, models: Sequence[str], progress: Progress) -> None:
    """Write NAME.npz and NAME.json of each baseline into out; one that is there already is kept."""
    data = training_data(prepared)
    for name in models:
        baseline = BASELINES[name]
        if baseline.max_items is not None and data.n_items > baseline.max_items:
            progress.note(f"{name}: left out, {data.n_items:,} items are more than {baseline.max_items:,}")
        elif not (out / f"{name}.json").exists():
            ranking, about = rank_baseline(data, baseline)
            ranking.save(out / f"{name}.npz")
            (out / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")
            progress.note(f"{name}: {about['setting']}, validation NDCG@10 {about['validation']:.4f}")


def parse_models(text: str) -> list[str]:
    """Return the names in "popularity,item_knn". Raises InputError for one that does not exist."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in BASELINES:
            raise InputError(f"baselines.models: unknown {name!r}; known: {', '.join(BASELINES)}")
    return list(dict.fromkeys(names))


def rank_baseline(data: Data, baseline: Baseline) -> tuple[Ranking, dict[str, Any]]:
    """Choose on validation, rank the judged part. Returns the ranking, and setting, validation score and seconds."""
    started = monotonic()
    score, setting, scorer = max(_tried(data, baseline), key=lambda tried: tried[0])
    question = ask(data.prepared, judged_part(data.prepared))
    ranking = rank_asked(question, scorer(question), data.prepared.report["settings"]["max_history"], both_rules=True)
    return ranking, {"setting": dict(setting), "validation": score, "seconds": monotonic() - started}


def training_data(prepared: Prepared) -> Data:
    """Return the training part of prepared data."""
    kept = prepared.part == TRAIN
    shape = (len(prepared.users), len(prepared.items))
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    has = csr_matrix((ones, (prepared.user[kept], prepared.item[kept])), shape=shape)
    popularity = np.bincount(prepared.item[kept], minlength=shape[1]).astype(np.float32)
    has.data[:] = 1  # a repeated pair was summed
    return Data(prepared, has, popularity)


def _tried(data: Data, baseline: Baseline) -> Iterator[tuple[float, Setting, MakeScorer]]:
    question = ask(data.prepared, VAL)
    longest = data.prepared.report["settings"]["max_history"]
    for setting in baseline.grid:
        scorer = baseline.make(data, setting)
        ranking = rank_asked(question, scorer(question), longest, with_top=False)
        yield float(ndcg(ranking.ranks, 10).mean()), setting, scorer


def make_popularity(data: Data, setting: Setting) -> MakeScorer:
    """The items with most training events, to everybody."""
    return lambda question: lambda places, rows: np.repeat(data.popularity[None], len(places), axis=0)


def make_recent_popularity(data: Data, setting: Setting) -> MakeScorer:
    """The items with most training events in the days before each question: what was popular when it was asked.

    A stronger baseline than one list for all times (Ji et al. 2020). Equals are ordered by popularity at all times.
    """
    kept = data.prepared.part == TRAIN
    order = np.argsort(data.prepared.timestamp_ms[kept], kind="stable")
    time_ms, item = data.prepared.timestamp_ms[kept][order], data.prepared.item[kept][order]
    tie = data.popularity / (data.popularity.max() + 1)

    def of(question: Question) -> AskedScorer:
        if question.asked_ms is None:
            raise ValueError("recent popularity must know when each question is asked")
        now_ms = np.minimum(question.asked_ms, time_ms[-1] + 1)  # after the last training event the window stands still
        stop = np.searchsorted(time_ms, now_ms, side="left")
        start = np.searchsorted(time_ms, now_ms - setting["days"] * DAY_MS, side="left")

        def score(places: NDArray[np.int64], rows: torch.Tensor) -> Float32:
            counts = [np.bincount(item[start[u] : stop[u]], minlength=data.n_items) for u in places]
            return (np.stack(counts) + tie).astype(np.float32)

        return score

    return of


def make_item_knn(data: Data, setting: Setting) -> MakeScorer:
    """Items like those of the history, each known by its nearest neighbours."""
    kind = {"cosine": CosineRecommender, "bm25": BM25Recommender}[setting["similarity"]]
    model = kind(K=setting["neighbours"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # of its own conversion
        model.fit(data.has, show_progress=False)
    similarity = csr_matrix(model.similarity, dtype=np.float32)
    return lambda question: lambda places, rows: (_taken(rows, data.n_items) @ similarity).toarray()


def make_ease(data: Data, setting: Setting) -> MakeScorer:
    """A linear model of items on items with an empty diagonal, in closed form (Steck 2019)."""
    weights = _inverse((data.has.T @ data.has).toarray(), setting["ridge"])
    weights /= -weights.diagonal().copy()
    np.fill_diagonal(weights, 0)
    return lambda question: lambda places, rows: _taken(rows, data.n_items) @ weights


def _inverse(gram: Float32, ridge: float) -> Float32:
    """(gram + ridge)^-1 of a symmetric matrix, in place. LAPACK's own: torch's took 13 times as long on 3,626 items."""
    np.fill_diagonal(gram, gram.diagonal() + ridge)
    factor, failed = spotrf(gram.T, lower=1, overwrite_a=1)
    if failed:
        raise StageError(f"EASE: a Gram matrix with ridge {ridge} is not positive definite")
    inverse, _ = spotri(factor, lower=1, overwrite_c=1)
    for row in range(len(inverse)):  # LAPACK fills the lower triangle only
        inverse[row, row + 1 :] = inverse[row + 1 :, row]
    return inverse.T  # the same numbers in C order: else each sparse product would copy the whole matrix


def make_ials(data: Data, setting: Setting) -> MakeScorer:
    """Matrix factorisation of what was taken and what was not (Hu et al. 2008); a user's factors from the history."""
    with threadpool_limits(1, "blas"):  # implicit has threads of its own, and warns of others
        model = AlternatingLeastSquares(
            factors=setting["factors"],
            regularization=setting["ridge"],
            alpha=setting["alpha"],
            iterations=15,
            random_state=1,
        )
        model.fit(data.has, show_progress=False)

    def score(places: NDArray[np.int64], rows: torch.Tensor) -> Float32:
        with threadpool_limits(1, "blas"):
            users = model.recalculate_user(np.arange(len(places)), _taken(rows, data.n_items))
        return users @ model.item_factors.T

    return lambda question: score


def _taken(rows: torch.Tensor, n_items: int) -> csr_matrix:
    """rows int64 [B, T], -1 padding -> 0/1 [B, n_items]."""
    user, place = np.nonzero(rows.numpy() >= 0)
    item = rows.numpy()[user, place]
    taken = csr_matrix((np.ones(len(item), dtype=np.float32), (user, item)), shape=(len(rows), n_items))
    taken.data[:] = 1
    return taken


BASELINES: dict[str, Baseline] = {
    "popularity": Baseline([{}], make_popularity),
    "recent_popularity": Baseline([{"days": days} for days in (1, 7, 30, 90)], make_recent_popularity),
    "item_knn": Baseline(
        [{"similarity": kind, "neighbours": count} for kind in ("cosine", "bm25") for count in (20, 100, 500)],
        make_item_knn,
    ),
    "ease": Baseline([{"ridge": ridge} for ridge in (200.0, 800.0)], make_ease, EASE_MAX_ITEMS),
    "ials": Baseline(
        [{"factors": 64, "ridge": 0.05, "alpha": alpha} for alpha in (2.0, 10.0)]
        + [{"factors": 128, "ridge": 1.0, "alpha": 10.0}],
        make_ials,
    ),
}
