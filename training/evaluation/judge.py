"""Rank the catalogue for everybody who is asked about, with any model that gives scores; say how good the ranking is.

A model takes part as a scorer: a function from histories to a score for every item. What is reported is ranked twice,
with the items of a user's history and without them, so that a reader can see how much depends on that rule.

Processes that train together share the requests, or, where a model lies in shards, the items of each request. Every one
calls what one process would, and gets the same ranking; inside ranks.alone one ranks by itself.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import ranks
from training.data.event import Int64
from training.data.prepared import Prepared
from training.data.split import VAL
from training.evaluation.metric import (
    CUTOFFS,
    bootstrap_interval,
    hit,
    ndcg,
    rank_targets,
    summarise_ranks,
    worst_rank,
)
from training.evaluation.question import Question, ask, judged_part
from training.evaluation.variety import coverage, gini
from training.model.encoder import SequenceModel
from training.model.given import ALL
from training.parallel.ranking import best_in_shards, best_of, rank_in_shards
from training.parallel.shard import Shard
from training.progress import Progress

Found = TypeVar("Found")

Scorer = Callable[[Tensor], NDArray[np.float32]]
"""A model of histories alone: rows int64 [B, T], padded on the left with -1, to scores [B, N].

Users without a history are given the popularity of the training part instead of its scores.
"""

AskedScorer = Callable[[Int64, Tensor], NDArray[np.float32]]
"""A model that must know who is asked when: places in Question.users [B], and a Scorer's histories, to scores [B, N].

It is made for one question, whose asked_ms and gap it may read; for the counts of the trend at question.asked_ms there
is training.data.trend.live_counts. Every request is its own, those of users without a history too.
"""


@dataclass(frozen=True, eq=False)
class Ranking:
    """A model's answer to a question of U requests.

    ranks: the rank of each target, 1 the best, int64 [U]. top: the best item rows of each request, best first
    [U, at most max(CUTOFFS)]. other: the same under the opposite rule about seen items; None where it was not asked.
    start: the ranks at the start of the basket; None where no event ties in time, or where it was not asked. users: who
    asks [U]; None where nobody asks twice.
    """

    ranks: Int64
    top: NDArray[np.int32]
    other: "Ranking | None" = None
    start: Int64 | None = None
    users: Int64 | None = None

    def save(self, path: Path) -> None:
        """Write the ranking as .npz."""
        arrays: dict[str, NDArray[Any]] = {"ranks": self.ranks, "top": self.top}
        if self.other is not None:
            arrays |= {"other_ranks": self.other.ranks, "other_top": self.other.top}
        arrays |= {
            name: values for name, values in (("start", self.start), ("users", self.users)) if values is not None
        }
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes a flag for one of them

    @classmethod
    def load(cls, path: Path) -> "Ranking":
        """Read a ranking that save wrote. Raises FileNotFoundError where there is none."""
        with np.load(path, allow_pickle=False) as arrays:
            other = cls(arrays["other_ranks"], arrays["other_top"]) if "other_ranks" in arrays else None
            start, users = (arrays.get(name) for name in ("start", "users"))
            return cls(arrays["ranks"], arrays["top"], other, start, users)


def score_all(question: Question, scorer: Scorer, max_history: int) -> NDArray[np.float32]:
    """Return the scores of every item for every request of a question [U, N], in the order of question.users.

    max_history: the scorer is given at most so many of a user's newest events.
    """
    scores = np.empty((len(question.users), question.n_items), dtype=np.float32)
    asked = with_popularity(question, scorer)
    for places, rows in question.batches(max_history):
        scores[places] = asked(places, rows)
    return scores


def with_popularity(question: Question, scorer: Scorer, columns: slice = ALL) -> AskedScorer:
    """Return a scorer that gives the logarithm of popularity to those who have no history.

    columns: the items that it scores.
    """

    def score(places: Int64, rows: Tensor) -> NDArray[np.float32]:
        scores = scorer(rows)
        cold = (rows[:, -1] < 0).numpy()
        if question.popularity is not None and cold.any():
            scores = np.where(cold[:, None], np.log1p(question.popularity[columns])[None], scores)
        return scores

    return score


def rank(
    question: Question, scorer: Scorer, max_history: int, *, with_top: bool = True, both_rules: bool = False
) -> Ranking:
    """Score the whole catalogue for every request and return the ranking of the targets.

    max_history: the scorer is given at most so many of a user's newest events; what counts as seen is the whole
    history. with_top: False leaves `top` empty, which is faster. both_rules: rank with seen items and without, and at
    the start of the basket too; the result follows the question's rule, and its `other` the opposite one. Raises
    ValueError for scores that are not finite.
    """
    asked = with_popularity(question, scorer)
    return rank_asked(question, asked, max_history, with_top=with_top, both_rules=both_rules)


def rank_asked(
    question: Question,
    scorer: AskedScorer,
    max_history: int,
    *,
    with_top: bool = True,
    both_rules: bool = False,
    shard: Shard | None = None,
) -> Ranking:
    """Rank as rank does, with a scorer that is also told which requests of the question it scores.

    shard: the items whose scores the scorer gives; None: all.
    """
    best = min(max(CUTOFFS), question.n_items) if with_top else 0
    rules = (False, True) if both_rules else (question.exclude_seen,)  # leaving out comes last: it writes into scores
    answers = {rule: _blank(len(question.users), best) for rule in rules}

    def work(batch: tuple[Int64, Tensor]) -> list[tuple[Int64, NDArray[np.int64]]]:
        places, scores = batch[0], scorer(*batch)
        seen = question.histories(places) if True in rules else None
        found = []
        for rule in rules:
            own = _ranks_of(scores, question, places, seen if rule else None, shard)
            found.append((own, best_rows(scores, best) if shard is None else best_in_shards(scores, best, shard)))
        return found

    for (places, _), found in _shared(question.batches(max_history), work, shard):
        for answer, (rank_of, top) in zip(answers.values(), found, strict=True):
            answer.ranks[places], answer.top[places] = rank_of, top
    own, other = answers[question.exclude_seen], answers.get(not question.exclude_seen)
    start = _rank_at_start(question, scorer, max_history, own.ranks, shard) if both_rules else None
    return Ranking(own.ranks, own.top, other, start, _who_asks(question))


def _shared(
    batches: Iterable[tuple[Int64, Tensor]], work: Callable[[tuple[Int64, Tensor]], Found], shard: Shard | None
) -> Iterator[tuple[tuple[Int64, Tensor], Found]]:
    """Yield each batch and what was made of it: by one of the processes, or by all where each has some items alone."""
    return ranks.by_turns(batches, work) if shard is None else ((batch, work(batch)) for batch in batches)


def _ranks_of(
    scores: NDArray[np.float32],
    question: Question,
    places: Int64,
    seen: list[NDArray[np.int32]] | None,
    shard: Shard | None,
) -> Int64:
    if shard is None:
        return rank_targets(scores, question.target[places], seen)
    return rank_in_shards(scores, question.target[places], shard, worst_rank(question.n_items), seen)


def mean_ndcg(question: Question, scorer: AskedScorer, max_history: int, shard: Shard | None = None) -> float:
    """Return the mean NDCG@10 of a question. shard: the items whose scores the scorer gives; None: all."""
    return float(ndcg(rank_asked(question, scorer, max_history, with_top=False, shard=shard).ranks, 10).mean())


def columns_of(model: SequenceModel) -> slice:
    """Return the items that this process scores with a model."""
    return model.shard.columns if model.shard else ALL


@contextmanager
def shown(
    progress: Progress | None, question: Question, scorer: AskedScorer, shard: Shard | None = None
) -> Iterator[AskedScorer]:
    """Yield a scorer that moves a bar on by the requests that were scored. progress: None shows nothing."""
    if progress is None:
        yield scorer
        return
    at_once = ranks.sharing() if shard is None else 1  # the other processes score as many meanwhile
    with progress.bar("requests ranked", len(question.users)) as bar:

        def watched(places: Int64, rows: Tensor) -> NDArray[np.float32]:
            scores = scorer(places, rows)
            bar.advance(at_once * len(places))
            return scores

        yield watched


def _rank_at_start(
    question: Question, scorer: AskedScorer, max_history: int, known: Int64, shard: Shard | None
) -> Int64 | None:
    """Return the ranks at the start of the basket, None where no event ties. known: those with the ties known."""
    if question.opening is None:
        return None
    start, found = question.at_start(), known.copy()
    inside = np.flatnonzero(question.opening < question.stops())

    def work(batch: tuple[Int64, Tensor]) -> Int64:
        seen = start.histories(batch[0]) if question.exclude_seen else None
        return _ranks_of(scorer(*batch), start, batch[0], seen, shard)

    for (places, _), own in _shared(start.batches(max_history, inside), work, shard):
        found[places] = own
    return found


def _who_asks(question: Question) -> Int64 | None:
    """Return the users of the requests [U], None where each asks once."""
    return question.users if len(np.unique(question.users)) < len(question.users) else None


def _blank(n_users: int, best: int) -> Ranking:
    """Return a ranking of zeros to be filled in, with `best` places in each list."""
    return Ranking(np.zeros(n_users, dtype=np.int64), np.zeros((n_users, best), dtype=np.int32))


def best_rows(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return the k rows of highest score of each user, best first: scores [B, N] -> rows [B, k].

    Of equal scores those of the lowest rows come first.
    """
    return best_of(scores, k)[1]


def model_scorer(model: SequenceModel) -> Scorer:
    """Return the scorer of a torch model, which computes in float32 on the model's device.

    Of a model whose item table lies in shards it scores the items of its own.
    """

    @torch.no_grad()
    def score(rows: Tensor) -> NDArray[np.float32]:
        return model.scores(model.users(rows.to(model.device))).cpu().numpy()

    return score


def judge(prepared: Prepared, model: SequenceModel) -> Ranking:
    """Rank the judged part with a model, under both rules. Call it once a model is final: nothing is chosen by it."""
    question = ask(prepared, judged_part(prepared))
    asked = with_popularity(question, model_scorer(model), columns_of(model))
    return rank_asked(question, asked, model.size.max_history, both_rules=True, shard=model.shard)


def judge_scorer(prepared: Prepared, scorer: Scorer, max_history: int) -> Ranking:
    """Rank the judged part as judge does, with a scorer that is given at most max_history of a user's events."""
    return rank(ask(prepared, judged_part(prepared)), scorer, max_history, both_rules=True)


def popularity_scorer(prepared: Prepared) -> Scorer:
    """Return a scorer that gives everybody the items' numbers of training events."""
    counts = np.array([item.popularity for item in prepared.items], dtype=np.float32)
    return lambda rows: np.repeat(counts[None, :], len(rows), axis=0)


def validation_score(prepared: Prepared, progress: Progress | None = None) -> Callable[[SequenceModel], float]:
    """Return the function by which models are chosen: a model's mean NDCG@10 over the validation part, as ask() has it.

    progress: where each call shows how far it is. Processes that train together all call the function.
    """
    question = ask(prepared, VAL)

    def score(model: SequenceModel) -> float:
        asked = with_popularity(question, model_scorer(model), columns_of(model))
        with shown(progress, question, asked, model.shard) as scorer:
            return mean_ndcg(question, scorer, model.size.max_history, model.shard)

    return score


def summarise_ranking(ranking: Ranking, n_items: int) -> dict[str, Any]:
    """Return the metrics of a ranking by name: accuracy, coverage and Gini at each cutoff, users and requests.

    NDCG@10 and HR@10 have their 95 % intervals beside them, as [low, high].
    """
    low, high = bootstrap_interval(ndcg(ranking.ranks, 10), ranking.users)
    hr_low, hr_high = bootstrap_interval(hit(ranking.ranks, 10), ranking.users)
    covered = {f"coverage@{k}": coverage(ranking.top[:, :k], n_items) for k in CUTOFFS}
    ginis = {f"gini@{k}": gini(ranking.top[:, :k], n_items) for k in CUTOFFS}
    intervals = {"ndcg@10_interval": [low, high], "hr@10_interval": [hr_low, hr_high]}
    n_users = len(ranking.ranks) if ranking.users is None else len(np.unique(ranking.users))
    asked = {"users": n_users, "requests": len(ranking.ranks)}
    return summarise_ranks(ranking.ranks) | covered | ginis | intervals | asked
