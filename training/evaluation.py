"""Who is asked what: the users, histories and held-out items of a split, and a model's ranking of them.

The history is everything known before the held-out event; where the data shows no repeat consumption, items in it are
not recommended. That is the default of `exclude_seen` when the bundle is served, so a report's figures and the
service's answers are the same thing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.encoder import SequenceModel
from training.interactions import TEST, VAL, Prepared
from training.ranking import CUTOFFS, bootstrap_interval, coverage, hit, ndcg, rank_targets, summarise
from training.sequences import Events, history_batches, select_events

AT_ONCE = 256
Int64 = NDArray[np.int64]
Scorer = Callable[[torch.Tensor], NDArray[np.float32]]  # rows int64 [B, T], -1 padding the left -> scores [B, N]


@dataclass(frozen=True)
class Question:
    """Users with a history, and the row that each took next (-1: not in the catalogue)."""

    known: Events
    users: Int64
    target: Int64
    exclude_seen: bool
    n_items: int

    def seen(self, users: Int64) -> list[NDArray[np.int32]]:
        """The rows of each user's whole history."""
        return [self.known.item[self.known.offset[u] : self.known.offset[u + 1]] for u in users]


@dataclass(frozen=True)
class Ranking:
    """A model's answer: rank of each target [U], and the best rows of each user [U, max cutoff]."""

    ranks: Int64
    top: NDArray[np.int32]

    def save(self, path: Path) -> None:
        """Write as .npz."""
        np.savez(path, ranks=self.ranks, top=self.top)

    @classmethod
    def load(cls, path: Path) -> "Ranking":
        """Read what save wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["ranks"], arrays["top"])


def ask(prepared: Prepared, part: int, *, exclude_seen: bool | None = None, limit: int | None = None) -> Question:
    """Return the question of a part (1 validation, 2 test): each user's first event of it, given all events before.

    exclude_seen: None takes the data's own rule. limit: at most so many users, drawn with a fixed seed.
    """
    n_users = len(prepared.users)
    known = select_events(prepared.user, prepared.item, prepared.part < part, n_users)
    target = np.full(n_users, -1, dtype=np.int64)
    place = np.flatnonzero(prepared.part == part)[::-1]  # reversed, so that the first event is written last
    target[prepared.user[place]] = prepared.item[place]
    users = np.flatnonzero((target >= 0) & (known.lengths() > 0))
    if limit is not None and len(users) > limit:
        users = np.sort(np.random.default_rng(0).choice(users, limit, replace=False))
    rule = not prepared.report["repeat_consumption"] if exclude_seen is None else exclude_seen
    return Question(known, users, target[users], rule, len(prepared.items))


def rank(question: Question, scorer: Scorer, max_history: int, *, with_top: bool = True) -> Ranking:
    """Score the whole catalogue for every user and rank the targets. with_top: False leaves top empty."""
    ranks = np.zeros(len(question.users), dtype=np.int64)
    best = min(max(CUTOFFS), question.n_items) if with_top else 0
    top = np.zeros((len(question.users), best), dtype=np.int32)
    for places, rows in history_batches(question.known, question.users, max_history=max_history, size=AT_ONCE):
        scores = scorer(rows)
        seen = question.seen(question.users[places]) if question.exclude_seen else None
        ranks[places] = rank_targets(scores, question.target[places], seen)
        top[places] = best_rows(scores, best)
    return Ranking(ranks, top)


def best_rows(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return the k rows of highest score, best first. scores [B, N] -> [B, k]."""
    return torch.from_numpy(scores).topk(k, dim=1).indices.numpy()


def model_scorer(model: SequenceModel) -> Scorer:
    """Score with a torch model, in float32."""

    @torch.no_grad()
    def score(rows: torch.Tensor) -> NDArray[np.float32]:
        return model.scores(model.users(rows.to(model.device))).cpu().numpy()

    return score


def judged_part(prepared: Prepared) -> int:
    """Return the part that reports are about: test, or validation where nothing was held out for testing."""
    return TEST if bool((prepared.part == TEST).any()) else VAL


def judge(prepared: Prepared, model: SequenceModel) -> Ranking:
    """Rank the judged part with a model. Called once a model is final: nothing is chosen by it."""
    return rank(ask(prepared, judged_part(prepared)), model_scorer(model), model.size.max_history)


def popularity_scorer(prepared: Prepared) -> Scorer:
    """Score every user with the items' counts in the training part."""
    counts = np.array([item.popularity for item in prepared.items], dtype=np.float32)
    return lambda rows: np.repeat(counts[None, :], len(rows), axis=0)


def validation_score(prepared: Prepared) -> Callable[[SequenceModel], float]:
    """Return what early stopping watches: NDCG@10 over all validation users."""
    question = ask(prepared, VAL)

    def score(model: SequenceModel) -> float:
        ranking = rank(question, model_scorer(model), model.size.max_history, with_top=False)
        return float(ndcg(ranking.ranks, 10).mean())

    return score


def describe(ranking: Ranking, n_items: int) -> dict[str, Any]:
    """Return the metrics of a ranking with intervals for the headline ones."""
    low, high = bootstrap_interval(ndcg(ranking.ranks, 10))
    hr_low, hr_high = bootstrap_interval(hit(ranking.ranks, 10))
    covered = {f"coverage@{k}": coverage(ranking.top[:, :k], n_items) for k in CUTOFFS}
    intervals = {"ndcg@10_interval": [low, high], "hr@10_interval": [hr_low, hr_high]}
    return summarise(ranking.ranks) | covered | intervals | {"users": len(ranking.ranks)}
