"""How the models of a run compare on the same held-out events, as numbers, for manifest and report."""

from collections.abc import Mapping
from typing import Any

from training.evaluation import Ranking, describe
from training.ranking import ndcg, relative_difference

COMPARED = (("student", "student_alone"), ("student", "teacher"), ("compressed", "student"), ("teacher", "popularity"))
LOST = 0.0  # a relative NDCG@10 gain at or below it is a failed run


def summarise_quality(rankings: Mapping[str, Ranking], n_items: int) -> dict[str, Any]:
    """Return {model: metrics with intervals} and the paired differences in NDCG@10 between them."""
    quality: dict[str, Any] = {name: describe(ranking, n_items) for name, ranking in rankings.items()}
    quality["ndcg@10_differences"] = {
        f"{ours} / {theirs}": relative_difference(ndcg(rankings[ours].ranks, 10), ndcg(rankings[theirs].ranks, 10))
        for ours, theirs in COMPARED
        if ours in rankings and theirs in rankings
    }
    return quality


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
