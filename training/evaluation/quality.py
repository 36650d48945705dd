"""How the models of a run compare on the same held-out events, as numbers, for manifest and report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.prepared import Prepared
from training.data.split import TRAIN
from training.evaluation.breakdown import by_history, by_popularity
from training.evaluation.judge import Ranking, describe
from training.evaluation.metric import CUTOFFS, Ranks, basket_recall, hit, ndcg, relative_difference
from training.evaluation.question import Question
from training.evaluation.variety import Features, diversity, item_features, novelty, overlap

Pairs = Sequence[tuple[str, str]]
COMPARED: Pairs = (
    ("student", "student_alone"),
    ("student", "student_smoothed"),
    ("student", "teacher"),
    ("compressed", "student"),
    ("bundle", "student"),
    ("bundle", "student_alone"),
    ("bundle", "teacher"),
    ("teacher", "rectools_sasrec"),
    ("teacher", "popularity"),
)
OVERLAPPED = (("student", "teacher"), ("student_alone", "teacher"), ("bundle", "teacher"), ("bundle", "student"))
DIVERSITY_AT = 10
LOST = 0.0  # a relative NDCG@10 gain at or below it is a failed run

MEANING = {
    "hr@k, recall@k": "share of users whose held-out item is among the k best of the whole catalogue",
    "ndcg@k": "the same, a hit at place r counting 1 / log2(r + 1)",
    "mrr@k": "the same, a hit at place r counting 1 / r",
    "precision@k, f1@k": "hits over k; harmonic mean of precision and recall",
    "accuracy@1": "share of users whose held-out item is the first",
    "coverage@k": "share of the catalogue that stands in anybody's k best",
    "gini@k": "how unequally the items are recommended: 0 all equally often, near 1 always the same few",
    "novelty@k": "mean bits of surprise of a recommended item: -log2 of its share of the training events",
    "diversity@10": "mean over pairs of a list of 1 - shared / all features; diversity_by says which features",
    "by_popularity": "by the held-out item: each quintile of items makes a fifth of the training events, 1 sells best",
    "by_history": "by the number of events known before the held-out one",
    "repeats": "seen_ranked: every item may be recommended; seen_left_out: none of the user's history; "
    "new_targets: left out, and only users whose held-out item is not in their history",
    "next_basket": "share of what was held out in one instant that is among the k best; null if nobody has two",
    "overlap@k": "share of a user's k best that both models recommend",
}


@dataclass(frozen=True)
class Yardstick:
    """What the rankings of a run are measured against, made once."""

    question: Question
    popularity: NDArray[np.float64]  # training events of each item
    features: Features


def make_yardstick(prepared: Prepared, question: Question) -> Yardstick:
    """Return the yardstick of a question about prepared data."""
    trained = prepared.part == TRAIN
    popularity = np.array([item.popularity for item in prepared.items])
    return Yardstick(
        question, popularity, item_features(prepared.items, prepared.user[trained], prepared.item[trained])
    )


def summarise_quality(rankings: Mapping[str, Ranking], n_items: int, pairs: Pairs = COMPARED) -> dict[str, Any]:
    """Return {model: metrics with intervals}, and the paired differences in NDCG@10 of those pairs that are there."""
    quality: dict[str, Any] = {name: describe(ranking, n_items) for name, ranking in rankings.items()}
    quality["ndcg@10_differences"] = {
        f"{ours} / {theirs}": relative_difference(ndcg(rankings[ours].ranks, 10), ndcg(rankings[theirs].ranks, 10))
        for ours, theirs in pairs
        if ours in rankings and theirs in rankings
    }
    return quality


def detail(ranking: Ranking, yardstick: Yardstick) -> dict[str, Any]:
    """Return what the headline metrics leave out: lists, groups of users, both rules of repeats, baskets."""
    question = yardstick.question
    listed = ranking.top[:, :DIVERSITY_AT]
    return {
        **{f"novelty@{k}": novelty(ranking.top[:, :k], yardstick.popularity) for k in CUTOFFS},
        f"diversity@{DIVERSITY_AT}": diversity(listed, yardstick.features),
        "by_popularity": by_popularity(ranking.ranks, question.target, yardstick.popularity),
        "by_history": by_history(ranking.ranks, question.known.lengths()[question.users]),
        "repeats": repeats(ranking, question),
        "next_basket": next_basket(ranking, question),
    }


def repeats(ranking: Ranking, question: Question) -> dict[str, Any] | None:
    """Return headline metrics with seen items ranked and left out; None where only one rule was ranked."""
    if ranking.other is None:
        return None
    ranked, left_out = (ranking.other, ranking) if question.exclude_seen else (ranking, ranking.other)
    is_new = ~question.repeats()
    return {
        "seen_ranked": _headline(ranked.ranks),
        "seen_left_out": _headline(left_out.ranks),
        "new_targets": _headline(left_out.ranks[is_new]) if is_new.any() else None,
    }


def next_basket(ranking: Ranking, question: Question) -> dict[str, Any] | None:
    """Return basket recall, and how many of the users' baskets hold several items; None where none does."""
    baskets = question.baskets
    if baskets is None:
        return None
    several = int((np.bincount(baskets.owner, minlength=len(question.users)) > 1).sum())
    if not several:
        return None
    recalls = {f"recall@{k}": float(basket_recall(ranking.top, baskets.rows, baskets.owner, k).mean()) for k in CUTOFFS}
    return {"users": len(question.users), "of_several_items": several} | recalls


def overlaps(rankings: Mapping[str, Ranking]) -> dict[str, dict[str, float]]:
    """Return {"student / teacher": {"overlap@10": share}} of the pairs that are there."""
    return {
        f"{ours} / {theirs}": {
            f"overlap@{k}": overlap(rankings[ours].top[:, :k], rankings[theirs].top[:, :k]) for k in CUTOFFS
        }
        for ours, theirs in OVERLAPPED
        if ours in rankings and theirs in rankings
    }


def beside_baselines(rankings: Mapping[str, Ranking], others: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return {other: paired difference in NDCG@10 of the student to it}, the strongest first.

    others: the names of peers and baselines among the rankings.
    """
    ordered = sorted(others, key=lambda name: -ndcg(rankings[name].ranks, 10).mean())
    ours = ndcg(rankings["student"].ranks, 10)
    return {name: relative_difference(ours, ndcg(rankings[name].ranks, 10)) for name in ordered}


def verdict(quality: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the distillation paid, and the sentence that says so."""
    gain = quality["ndcg@10_differences"]["student / student_alone"]
    kept = 1 + quality["ndcg@10_differences"]["student / teacher"]["difference"]
    numbers = f"{gain['difference']:+.1%} NDCG@10 (95 % interval {gain['low']:+.1%} to {gain['high']:+.1%})"
    keeps = f"It keeps {kept:.1%} of the teacher's."
    if gain["difference"] <= LOST:
        return False, f"Failed: the distilled student does not beat the same student trained alone: {numbers}. {keeps}"
    if gain["low"] <= 0:
        return True, f"The student is ahead of the same student trained alone, within noise: {numbers}. {keeps}"
    return True, f"Distillation pays: the student beats the same student trained alone by {numbers}. {keeps}"


def _headline(ranks: Ranks) -> dict[str, Any]:
    return {"users": len(ranks), "hr@10": float(hit(ranks, 10).mean()), "ndcg@10": float(ndcg(ranks, 10).mean())}
