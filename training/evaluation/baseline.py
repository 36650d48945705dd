"""Simple recommenders that a model must beat: popularity, recent popularity, item-kNN, EASE and iALS.

Each takes seconds to train and knows no order of events. A baseline is trained on the training part (recent popularity
goes on counting, as a query of the live table would); its few settings are chosen from a small grid by validation
NDCG@10; then it ranks the judged part once, under the rules by which every model is ranked. item-kNN and iALS come from
the library `implicit`.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from training.evaluation.judge import AskedScorer, Ranking, rank_asked, with_popularity
from training.evaluation.metric import ndcg
from training.evaluation.question import Question, ask, judged_part
from training.evaluation.recent import HALF_LIFE_HOURS, WINDOW_DAYS, decayed_counts, window_counts
from training.progress import Bar, Progress

EASE_MAX_ITEMS = 20_000  # its inverse takes memory with the square of the items and time with the cube
MOST_NEIGHBOURS = 100_000_000  # of all items together; each takes 40 bytes while they are found
NEIGHBOURS = (20, 100, 500)  # that an item keeps
IALS_ROUNDS = 15  # of alternating least squares
VALIDATED = 10_000  # validation requests, at most, that a setting is chosen on
Float32 = NDArray[np.float32]

Setting = Mapping[str, Any]
"""Values of a baseline's settings by name."""

Trained = Callable[[Question], AskedScorer]
"""A trained baseline: given a question, it returns the scorer of that question's users."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The training part of prepared data, as the baselines need it."""

    prepared: Prepared
    has: csr_matrix  # 0/1 [users, N], which user took which item
    popularity: Float32  # training events of each item [N]

    @property
    def n_items(self) -> int:
        """The number of items in the catalogue."""
        return len(self.popularity)


@dataclass(frozen=True, eq=False)
class Baseline:
    """One simple recommender."""

    grid: Sequence[Setting]  # what validation chooses from
    train: Callable[[TrainingData, Setting], Trained]
    max_items: int | None = None  # in a larger catalogue it is left out


def rank_baselines(out: Path, prepared: Prepared, models: Sequence[str], progress: Progress) -> None:
    """Rank the judged part with each named baseline, and write NAME.npz and NAME.json into out.

    One that is already there is kept. models: names of BASELINES.
    """
    data = training_data(prepared)
    for name in models:
        baseline = BASELINES[name]
        if baseline.max_items is not None and data.n_items > baseline.max_items:
            progress.note(f"{name}: left out, {data.n_items:,} items are more than {baseline.max_items:,}")
        elif not (out / f"{name}.json").exists():
            fitting = _fitting(data, baseline)
            with progress.bar(f"{name}: settings", len(fitting.grid) + 1) as bar:
                ranking, about = rank_baseline(data, fitting, bar)
            ranking.save(out / f"{name}.npz")
            (out / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")
            left_out = len(baseline.grid) - len(fitting.grid)
            more = f"; {left_out} settings take too much memory for {data.n_items:,} items" if left_out else ""
            progress.note(f"{name}: {about['setting']}, validation NDCG@10 {about['validation']:.4f}{more}")


def most_neighbours(n_items: int) -> int:
    """Return how many neighbours item-kNN keeps at most, of all items together."""
    fits = [count for count in NEIGHBOURS if count * n_items <= MOST_NEIGHBOURS]
    return min(n_items, max(fits, default=NEIGHBOURS[0])) * n_items


def _fitting(data: TrainingData, baseline: Baseline) -> Baseline:
    """Return a baseline with those of its settings that a catalogue has room for; the first of them always."""
    fits = [one for one in baseline.grid if one.get("neighbours", 0) * data.n_items <= MOST_NEIGHBOURS]
    return replace(baseline, grid=fits or baseline.grid[:1])


def parse_models(text: str) -> list[str]:
    """Return the names in a text such as "popularity,item_knn", each once. Raises InputError for an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in BASELINES:
            raise InputError(f"baselines.models: unknown {name!r}; known: {', '.join(BASELINES)}")
    return list(dict.fromkeys(names))


def rank_baseline(data: TrainingData, baseline: Baseline, bar: Bar | None = None) -> tuple[Ranking, dict[str, Any]]:
    """Choose a baseline's setting on validation and rank the judged part with it. bar: counts the settings.

    Returns the ranking under both rules, and what is said of it: setting, validation (NDCG@10), tried (every setting
    with its validation) and seconds.
    """
    started = monotonic()
    tried: list[dict[str, Any]] = []
    score, setting, trained = max(_try_settings(data, baseline, tried, bar), key=lambda one: one[0])
    question = ask(data.prepared, judged_part(data.prepared))
    ranking = rank_asked(question, trained(question), data.prepared.report["settings"]["max_history"], both_rules=True)
    about = {"setting": dict(setting), "validation": score, "tried": tried, "seconds": monotonic() - started}
    return ranking, about


def training_data(prepared: Prepared) -> TrainingData:
    """Return the training part of prepared data."""
    kept = prepared.part == TRAIN
    shape = (len(prepared.users), len(prepared.items))
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    has = csr_matrix((ones, (prepared.user[kept], prepared.item[kept])), shape=shape)
    popularity = np.bincount(prepared.item[kept], minlength=shape[1]).astype(np.float32)
    has.data[:] = 1  # a repeated pair was summed
    return TrainingData(prepared, has, popularity)


def _try_settings(
    data: TrainingData, baseline: Baseline, tried: list[dict[str, Any]], bar: Bar | None
) -> Iterator[tuple[float, Setting, Trained]]:
    """Yield validation NDCG@10, setting and trained model of each setting in the grid, and note it in tried."""
    question = ask(data.prepared, VAL, limit=VALIDATED)
    longest = data.prepared.report["settings"]["max_history"]
    for setting in baseline.grid:
        trained = baseline.train(data, setting)
        ranking = rank_asked(question, trained(question), longest, with_top=False)
        score = float(ndcg(ranking.ranks, 10).mean())
        tried.append({**setting, "validation": score})
        if bar is not None:
            bar.advance(1)
        yield score, setting, trained


def train_popularity(data: TrainingData, setting: Setting) -> Trained:
    """Score each item with its number of training events, for everybody alike. No settings."""
    return lambda question: lambda places, rows: np.repeat(data.popularity[None], len(places), axis=0)


def train_recent_popularity(data: TrainingData, setting: Setting) -> Trained:
    """Score each item with how often it was taken just before a request, by anybody, in whatever part.

    Setting: window_days or half_life_hours (recent.py). The scorer raises ValueError for a question that does not know
    when it was asked.
    """
    if "window_days" in setting:
        counts = window_counts(data.prepared, setting["window_days"])
    else:
        counts = decayed_counts(data.prepared, setting["half_life_hours"])

    def scorer_of(question: Question) -> AskedScorer:
        asked_ms = question.asked_ms
        if asked_ms is None:
            raise ValueError("recent popularity must know when each question is asked")
        return lambda places, rows: counts(asked_ms[places])

    return scorer_of


def train_item_knn(data: TrainingData, setting: Setting) -> Trained:
    """Score items by their similarity to those of the history (Sarwar et al. 2001).

    Settings: similarity, "cosine" or "bm25" of the users who took two items; neighbours, how many an item keeps.
    """
    kind = {"cosine": CosineRecommender, "bm25": BM25Recommender}[setting["similarity"]]
    model = kind(K=setting["neighbours"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # of its own conversion
        model.fit(data.has, show_progress=False)
    similarity = csr_matrix(model.similarity, dtype=np.float32)
    return partial(with_popularity, scorer=lambda rows: (_taken(rows, data.n_items) @ similarity).toarray())


def train_ease(data: TrainingData, setting: Setting) -> Trained:
    """Score items with a linear model from items to items whose diagonal is zero, in closed form (Steck 2019).

    Setting: ridge, added to the diagonal of the Gram matrix. Raises StageError where that is not positive definite.
    """
    weights = _inverse((data.has.T @ data.has).toarray(), setting["ridge"])
    weights /= -weights.diagonal().copy()
    np.fill_diagonal(weights, 0)
    return partial(with_popularity, scorer=lambda rows: _taken(rows, data.n_items) @ weights)


def _inverse(gram: Float32, ridge: float) -> Float32:
    """Return (gram + ridge)^-1 of a symmetric matrix [N, N]; gram is overwritten.

    LAPACK's Cholesky factorisation is used directly, for torch's inverse is slower: tests/bench/README.md, "EASE
    inverts with LAPACK".
    """
    np.fill_diagonal(gram, gram.diagonal() + ridge)
    factor, failed = spotrf(gram.T, lower=1, overwrite_a=1)
    if failed:
        raise StageError(f"EASE: a Gram matrix with ridge {ridge} is not positive definite")
    inverse, _ = spotri(factor, lower=1, overwrite_c=1)
    for row in range(len(inverse)):  # LAPACK fills the lower triangle only
        inverse[row, row + 1 :] = inverse[row + 1 :, row]
    return inverse.T  # the same numbers in C order: else each sparse product would copy the whole matrix


def train_ials(data: TrainingData, setting: Setting) -> Trained:
    """Score items by a factorisation of what was taken and what was not (Hu et al. 2008).

    A user's factors are computed from the history that is asked about. Settings: factors, ridge, and alpha, the weight
    of a taken item.
    """
    with threadpool_limits(1, "blas"):  # implicit has threads of its own, and warns of others
        model = AlternatingLeastSquares(
            factors=setting["factors"],
            regularization=setting["ridge"],
            alpha=setting["alpha"],
            iterations=IALS_ROUNDS,
            random_state=1,
        )
        model.fit(data.has, show_progress=False)

    def score(rows: torch.Tensor) -> Float32:
        with threadpool_limits(1, "blas"):
            users = model.recalculate_user(np.arange(len(rows)), _taken(rows, data.n_items))
        return users @ model.item_factors.T

    return partial(with_popularity, scorer=score)


def _taken(rows: torch.Tensor, n_items: int) -> csr_matrix:
    """Return which items each history holds, 0/1 [B, n_items]: rows int64 [B, T], padded with -1."""
    user, place = np.nonzero(rows.numpy() >= 0)
    item = rows.numpy()[user, place]
    taken = csr_matrix((np.ones(len(item), dtype=np.float32), (user, item)), shape=(len(rows), n_items))
    taken.data[:] = 1
    return taken


BASELINES: dict[str, Baseline] = {
    "popularity": Baseline([{}], train_popularity),
    "recent_popularity": Baseline(
        [{"window_days": days} for days in WINDOW_DAYS] + [{"half_life_hours": hours} for hours in HALF_LIFE_HOURS],
        train_recent_popularity,
    ),
    "item_knn": Baseline(
        [{"similarity": kind, "neighbours": count} for kind in ("cosine", "bm25") for count in NEIGHBOURS],
        train_item_knn,
    ),
    "ease": Baseline([{"ridge": ridge} for ridge in (200.0, 800.0)], train_ease, EASE_MAX_ITEMS),
    "ials": Baseline(
        [{"factors": 64, "ridge": 0.05, "alpha": alpha} for alpha in (2.0, 10.0)]
        + [{"factors": 128, "ridge": 1.0, "alpha": 10.0}],
        train_ials,
    ),
}
