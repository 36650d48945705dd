"""Choose on validation how fast the trend forgets, and what a count is smoothed by."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.bundle import TrendRule
from training.data.prepared import Prepared
from training.data.split import VAL
from training.data.trend import counts_before
from training.evaluation.given_weights import evidence_of, fit, surprise
from training.evaluation.metric import ndcg, rank_targets
from training.evaluation.question import Question, ask
from training.parallel.evidence import Form
from training.progress import Bar, Progress

EPSILONS = (0.01, 0.05, 0.2, 1.0)
USERS = 10_000  # of the validation, drawn with a fixed seed
VALUES = 1 << 24  # counts in memory at once


def choose_trend(prepared: Prepared, half_lives_h: Sequence[float], progress: Progress) -> dict[str, Any]:
    """Return half_life_s, epsilon, weight and the trials. half_lives_h: those that are tried, in hours.

    The half-life is that whose counts alone have the highest NDCG@10, epsilon and the weight of the logarithm those
    that make the validation targets likeliest.
    """
    every = ask(prepared, VAL, limit=USERS)
    with progress.bar("half-lives, requests", len(half_lives_h) * len(every.users)) as bar:
        trials = [
            {"half_life_h": hours, "ndcg@10": _quality(prepared, every, 3600.0 * hours, bar)} for hours in half_lives_h
        ]
    half_life_s = 3600.0 * max(trials, key=lambda trial: trial["ndcg@10"])["half_life_h"]
    question = ask(prepared, VAL, limit=max(1, min(USERS, VALUES // len(prepared.items))))
    assert question.asked_ms is not None  # noqa: S101  # made by ask()
    counts = np.concatenate(list(counts_before(prepared, question.asked_ms, half_life_s)))
    known = question.target >= 0
    fitted = []
    for epsilon in EPSILONS:
        evidence = evidence_of(question, np.flatnonzero(known), (None, None, counts[known]))
        form = Form(("trend",), 1, learns_epsilon=False)
        weights = fit(evidence, form, TrendRule(half_life_s, epsilon, 0.0))
        fitted.append((surprise(evidence, weights), epsilon, float(weights.trend[0])))
    _, epsilon, weight = min(fitted)
    return {"half_life_s": half_life_s, "epsilon": epsilon, "weight": weight, "trials": trials}


def _quality(prepared: Prepared, question: Question, half_life_s: float, bar: Bar) -> float:
    """Return NDCG@10 of the counts of a half-life alone."""
    assert question.asked_ms is not None  # noqa: S101  # made by ask()
    ranks, start = [], 0
    for counts in counts_before(prepared, question.asked_ms, half_life_s):
        places = np.arange(start, start + len(counts))
        seen = question.histories(places) if question.exclude_seen else None
        ranks.append(rank_targets(counts, question.target[places], seen))
        start += len(counts)
        bar.advance(len(counts))
    return float(ndcg(np.concatenate(ranks), 10).mean())
