"""Who is asked what: the users, histories and held-out items of a split, and a model's ranking of them.

The history is everything known before the held-out event; where the data shows no repeat consumption, items in it are
not recommended. That is the default of `exclude_seen` when the bundle is served, so a report's figures and the
service's answers are the same thing. What is reported is ranked under the opposite rule too, so that nobody has to take
the rule on trust.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.data.prepared import Prepared
from training.data.split import VAL
from training.evaluation.metric import CUTOFFS, bootstrap_interval, hit, ndcg, rank_targets, summarise
from training.evaluation.question import Int64, Question, ask, judged_part
from training.evaluation.variety import coverage, gini
from training.model.batch import history_batches
from training.model.encoder import SequenceModel

AT_ONCE = 256
Scorer = Callable[[torch.Tensor], NDArray[np.float32]]  # rows int64 [B, T], -1 padding the left -> scores [B, N]
AskedScorer = Callable[[Int64, torch.Tensor], NDArray[np.float32]]  # places in the question [B], rows -> scores [B, N]


@dataclass(frozen=True)
class Ranking:
    """A model's answer: rank of each target [U], and the best rows of each user [U, max cutoff].

    other: the same under the opposite rule about seen items, where it was asked for.
    """

    ranks: Int64
    top: NDArray[np.int32]
    other: "Ranking | None" = None

    def save(self, path: Path) -> None:
        """Write as .npz."""
        arrays: dict[str, NDArray[Any]] = {"ranks": self.ranks, "top": self.top}
        if self.other is not None:
            arrays |= {"other_ranks": self.other.ranks, "other_top": self.other.top}
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes a flag for one of them

    @classmethod
    def load(cls, path: Path) -> "Ranking":
        """Read what save wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            other = cls(arrays["other_ranks"], arrays["other_top"]) if "other_ranks" in arrays else None
            return cls(arrays["ranks"], arrays["top"], other)


def score_all(question: Question, scorer: Scorer, max_history: int) -> NDArray[np.float32]:
    """Score the whole catalogue for every user: [U, N], in the order of question.users."""
    scores = np.empty((len(question.users), question.n_items), dtype=np.float32)
    for places, rows in history_batches(question.known, question.users, max_history=max_history, size=AT_ONCE):
        scores[places] = scorer(rows)
    return scores


def rank(
    question: Question, scorer: Scorer, max_history: int, *, with_top: bool = True, both_rules: bool = False
) -> Ranking:
    """Score the whole catalogue for every user and rank the targets. with_top: False leaves top empty.

    both_rules: rank with seen items and without, the question's rule first and the opposite one as `other`.
    """
    return rank_asked(
        question, lambda places, rows: scorer(rows), max_history, with_top=with_top, both_rules=both_rules
    )


def rank_asked(
    question: Question, scorer: AskedScorer, max_history: int, *, with_top: bool = True, both_rules: bool = False
) -> Ranking:
    """As rank, for a scorer that must know who is asked, not only the history."""
    best = min(max(CUTOFFS), question.n_items) if with_top else 0
    rules = (False, True) if both_rules else (question.exclude_seen,)  # leaving out comes last: it writes into scores
    answers = {rule: _blank(len(question.users), best) for rule in rules}
    for places, rows in history_batches(question.known, question.users, max_history=max_history, size=AT_ONCE):
        scores = scorer(places, rows)
        seen = question.seen(question.users[places]) if True in rules else None
        for rule, answer in answers.items():
            answer.ranks[places] = rank_targets(scores, question.target[places], seen if rule else None)
            answer.top[places] = best_rows(scores, best)
    own, other = answers[question.exclude_seen], answers.get(not question.exclude_seen)
    return Ranking(own.ranks, own.top, other)


def _blank(n_users: int, best: int) -> Ranking:
    return Ranking(np.zeros(n_users, dtype=np.int64), np.zeros((n_users, best), dtype=np.int32))


def best_rows(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return the k rows of highest score, best first. scores [B, N] -> [B, k]."""
    return torch.from_numpy(scores).topk(k, dim=1).indices.numpy()


def model_scorer(model: SequenceModel) -> Scorer:
    """Score with a torch model, in float32."""

    @torch.no_grad()
    def score(rows: torch.Tensor) -> NDArray[np.float32]:
        return model.scores(model.users(rows.to(model.device))).cpu().numpy()

    return score


def judge(prepared: Prepared, model: SequenceModel) -> Ranking:
    """Rank the judged part with a model. Called once a model is final: nothing is chosen by it."""
    return judge_scorer(prepared, model_scorer(model), model.size.max_history)


def judge_scorer(prepared: Prepared, scorer: Scorer, max_history: int) -> Ranking:
    """Rank the judged part with whatever scores histories of at most max_history events. See judge."""
    return rank(ask(prepared, judged_part(prepared)), scorer, max_history, both_rules=True)


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
    ginis = {f"gini@{k}": gini(ranking.top[:, :k], n_items) for k in CUTOFFS}
    intervals = {"ndcg@10_interval": [low, high], "hr@10_interval": [hr_low, hr_high]}
    return summarise(ranking.ranks) | covered | ginis | intervals | {"users": len(ranking.ranks)}
