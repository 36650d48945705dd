"""How the models of a run compare: metrics of each, differences between them, and whether the distillation paid.

Everything here works on rankings of the same question, so that every difference is taken over the same users.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.prepared import Prepared
from training.data.split import TRAIN
from training.evaluation.breakdown import by_history, by_popularity
from training.evaluation.judge import Ranking, summarise_ranking
from training.evaluation.metric import (
    CUTOFFS,
    MOST_SHOWN,
    Ranks,
    basket_recall,
    describe_change,
    hit,
    ndcg,
    relative_difference,
)
from training.evaluation.question import Question
from training.evaluation.variety import Features, diversity, item_features, novelty, overlap

Pairs = Sequence[tuple[str, str]]
COMPARED: Pairs = (  # pairs of models whose NDCG@10 is compared, where both were ranked
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
FAILS_AT = 0.0  # a run has failed whose student's relative gain in NDCG@10 over itself alone is at most this

MEANING = {  # what each metric means, for the reader of a report
    "hr@k, recall@k": "share of requests whose held-out item is among the k best of the whole catalogue",
    "ndcg@k": "the same, a hit at place r counting 1 / log2(r + 1)",
    "mrr@k": "the same, a hit at place r counting 1 / r",
    "precision@k, f1@k": "hits over k; harmonic mean of precision and recall",
    "accuracy@1": "share of requests whose held-out item is the first",
    "coverage@k": "share of the catalogue that stands in anybody's k best",
    "gini@k": "how unequally the items are recommended: 0 all equally often, near 1 always the same few",
    "novelty@k": "mean bits of surprise of a recommended item: -log2 of its share of the training events",
    "diversity@10": "mean over pairs of a list of 1 - shared / all features; diversity_by says which features",
    "by_popularity": "by the held-out item: each quintile of items makes a fifth of the training events, 1 sells best",
    "by_history": "by the number of events known before the held-out one",
    "by_request": "by what is known of user and item: cold users have no event before the request, new items none in "
    "the training part; start_of_basket: all requests, knowing only what lies strictly before their instant",
    "of_bar": "NDCG@10 over that of recent popularity, same requests; low and high: 95 % over users",
    "repeats": "seen_ranked: every item may be recommended; seen_left_out: none of the user's history; "
    "new_targets: left out, and only users whose held-out item is not in their history",
    "next_basket": "share of what was held out in one instant that is among the k best of its first request; null if "
    "no basket has two",
    "overlap@k": "share of a user's k best that both models recommend",
}


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What the rankings of a run are measured with, made once."""

    question: Question
    popularity: NDArray[np.float64]  # training events of each item [N]
    features: Features  # what makes two items alike


def make_yardstick(prepared: Prepared, question: Question) -> Yardstick:
    """Return the yardstick for rankings of a question about prepared data."""
    trained = prepared.part == TRAIN
    popularity = np.array([item.popularity for item in prepared.items])
    return Yardstick(
        question, popularity, item_features(prepared.items, prepared.user[trained], prepared.item[trained])
    )


def summarise_quality(rankings: Mapping[str, Ranking], n_items: int, pairs: Pairs = COMPARED) -> dict[str, Any]:
    """Return the metrics of each model by its name, and under "ndcg@10_differences" those between the pairs.

    A difference is named "student / teacher", and has the keys of relative_difference.
    """
    quality: dict[str, Any] = {name: summarise_ranking(ranking, n_items) for name, ranking in rankings.items()}
    quality["ndcg@10_differences"] = {
        f"{ours} / {theirs}": difference_of(rankings[ours], rankings[theirs])
        for ours, theirs in pairs
        if ours in rankings and theirs in rankings
    }
    return quality


def detail(ranking: Ranking, yardstick: Yardstick) -> dict[str, Any]:
    """Return what a ranking's headline metrics leave out: its lists, groups of users, repeats and baskets."""
    question = yardstick.question
    listed = ranking.top[:, :DIVERSITY_AT]
    return {
        **{f"novelty@{k}": novelty(ranking.top[:, :k], yardstick.popularity) for k in CUTOFFS},
        f"diversity@{DIVERSITY_AT}": diversity(listed, yardstick.features),
        "by_popularity": by_popularity(ranking.ranks, question.target, yardstick.popularity),
        "by_history": by_history(ranking.ranks, question.lengths()),
        "repeats": measure_repeats(ranking, question),
        "next_basket": measure_baskets(ranking, question),
    }


def measure_repeats(ranking: Ranking, question: Question) -> dict[str, Any] | None:
    """Return HR@10 and NDCG@10 with seen items ranked, and with them left out; None where only one rule was ranked.

    new_targets: seen items left out, over the users alone whose held-out item is new to them; None where there are
    none.
    """
    if ranking.other is None:
        return None
    ranked, left_out = (ranking.other, ranking) if question.exclude_seen else (ranking, ranking.other)
    is_new = ~question.is_repeat()
    return {
        "seen_ranked": _headline(ranked.ranks),
        "seen_left_out": _headline(left_out.ranks),
        "new_targets": _headline(left_out.ranks[is_new]) if is_new.any() else None,
    }


def measure_baskets(ranking: Ranking, question: Question) -> dict[str, Any] | None:
    """Return basket recall at each cutoff, and how many baskets hold several items; None where none does.

    A basket is what a user took in one instant, asked for by its first held-out event. baskets: how many there are.
    """
    baskets = question.baskets
    if baskets is None:
        return None
    asked, size = np.unique(baskets.owner, return_counts=True)
    several = int((size > 1).sum())
    if not several:
        return None
    found = {k: basket_recall(ranking.top, baskets.rows, baskets.owner, k)[asked] for k in CUTOFFS}
    recalls = {f"recall@{k}": float(recall.mean()) for k, recall in found.items()}
    return {"baskets": len(asked), "of_several_items": several} | recalls


def overlaps(rankings: Mapping[str, Ranking]) -> dict[str, dict[str, float]]:
    """Return for each of the OVERLAPPED pairs that were ranked the share of their lists that agrees, at each cutoff.

    The result is {"student / teacher": {"overlap@10": share, ...}, ...}.
    """
    return {
        f"{ours} / {theirs}": {
            f"overlap@{k}": overlap(rankings[ours].top[:, :k], rankings[theirs].top[:, :k]) for k in CUTOFFS
        }
        for ours, theirs in OVERLAPPED
        if ours in rankings and theirs in rankings
    }


def beside_baselines(rankings: Mapping[str, Ranking], others: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the student's relative difference in NDCG@10 to each peer and baseline, by name, the strongest first.

    others: the names of peers and baselines among the rankings.
    """
    ordered = sorted(others, key=lambda name: -ndcg(rankings[name].ranks, 10).mean())
    return {name: difference_of(rankings["student"], rankings[name]) for name in ordered}


def difference_of(ours: Ranking, theirs: Ranking) -> dict[str, float]:
    """Return the relative difference in NDCG@10 of two rankings of the same question, as relative_difference does."""
    return relative_difference(ndcg(ours.ranks, 10), ndcg(theirs.ranks, 10), ours.users)


def verdict(quality: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the distillation paid, and a sentence for the reader that says so.

    quality: what summarise_quality returned, of teacher, student and student_alone at least.
    """
    gain = quality["ndcg@10_differences"]["student / student_alone"]
    kept = 1 + quality["ndcg@10_differences"]["student / teacher"]["difference"]
    low, high = describe_change(gain["low"]), describe_change(gain["high"])
    numbers = f"{describe_change(gain['difference'])} NDCG@10 (95 % interval {low} to {high})"
    keeps = f"It keeps {kept:.1%} of the teacher's." if kept <= 1 + MOST_SHOWN else "The teacher's is next to nothing."
    if gain["difference"] <= FAILS_AT:
        return False, f"Failed: the distilled student does not beat the same student trained alone: {numbers}. {keeps}"
    if gain["low"] <= 0:
        return True, f"The student is ahead of the same student trained alone, within noise: {numbers}. {keeps}"
    return True, f"Distillation pays: the student beats the same student trained alone by {numbers}. {keeps}"


def _headline(ranks: Ranks) -> dict[str, Any]:
    """Return the number of users, HR@10 and NDCG@10."""
    return {"users": len(ranks), "hr@10": float(hit(ranks, 10).mean()), "ndcg@10": float(ndcg(ranks, 10).mean())}
