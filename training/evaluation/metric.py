"""Ranking quality over the whole catalogue: no sampled negatives, one relevant item a user.

Everything follows from the rank of the held-out item, 1 the best. Equal scores count against the model, so a constant
model gets the last place instead of the first. Intervals are percentile bootstraps over users; differences are paired.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Ranks = NDArray[np.int64]

CUTOFFS = (5, 10, 20)
BOOTSTRAPS = 2000


def rank_targets(scores: NDArray[Any], target: NDArray[np.int64], seen: Sequence[NDArray[Any]] | None = None) -> Ranks:
    """Return the rank of each target. scores [B, N] is written to: seen rows get minus infinity.

    A target that is not in the catalogue (-1), or was seen and so cannot be recommended, ranks below every item and
    every cutoff, so that it is a miss in a catalogue smaller than a list too. Raises ValueError for scores that are not
    finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores contain NaN or infinity")
    for i, rows in enumerate(seen or ()):
        scores[i, rows] = -np.inf
    own = scores[np.arange(len(target)), np.maximum(target, 0)]
    possible = (target >= 0) & np.isfinite(own)
    at_least = (scores >= own[:, None]).sum(axis=1)
    return np.where(possible, at_least, max(scores.shape[1], *CUTOFFS) + 1).astype(np.int64)


def hit(ranks: Ranks, k: int) -> Float:
    """Recall@k of each user, which with one relevant item is the hit rate."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: Ranks, k: int) -> Float:
    """NDCG@k of each user: 1 / log2(rank + 1) within k (Järvelin and Kekäläinen 2002), the ideal being 1."""
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def reciprocal_rank(ranks: Ranks, k: int) -> Float:
    """1 / rank within k, else 0; its mean is MRR@k."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def precision(ranks: Ranks, k: int) -> Float:
    """Share of the k that is relevant."""
    return hit(ranks, k) / k


def f1(ranks: Ranks, k: int) -> Float:
    """Harmonic mean of precision@k and recall@k."""
    return hit(ranks, k) * 2 / (k + 1)


METRICS: dict[str, Callable[[Ranks, int], Float]] = {
    "hr": hit,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
    "precision": precision,
    "f1": f1,
}


def summarise(ranks: Ranks) -> dict[str, float]:
    """Return every metric at every cutoff, "hr@10": mean over users. Recall@k equals hr@k; accuracy@1 equals hr@1."""
    means = {f"{name}@{k}": float(metric(ranks, k).mean()) for k in CUTOFFS for name, metric in METRICS.items()}
    recalls = {f"recall@{k}": means[f"hr@{k}"] for k in CUTOFFS}
    return means | recalls | {"accuracy@1": float(hit(ranks, 1).mean())}


def basket_recall(top: NDArray[Any], basket: NDArray[Any], owner: NDArray[np.int64], k: int) -> Float:
    """Share of each user's basket that is among the k best [U].

    top: rows [U, at least k]; basket: rows that were held out together; owner: whose each is, its place in top.
    """
    found = (top[owner, :k] == basket[:, None]).any(axis=1)
    size = np.bincount(owner, minlength=len(top))
    return np.bincount(owner, weights=found, minlength=len(top)) / np.maximum(size, 1)


def bootstrap_interval(values: Float, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean over users (Efron 1979)."""
    means = _resampled_means(values, seed)
    edge = (1 - level) / 2
    low, high = np.quantile(means, [edge, 1 - edge])
    return float(low), float(high)


def relative_difference(ours: Float, theirs: Float, *, seed: int = 0) -> dict[str, float]:
    """Paired bootstrap of mean(ours) / mean(theirs) - 1 over the same users: difference, low, high (95 %)."""
    both = _resampled_means(np.stack([ours, theirs], axis=1), seed)
    ratio = both[:, 0] / np.maximum(both[:, 1], 1e-12) - 1
    low, high = np.quantile(ratio, [0.025, 0.975])
    return {
        "difference": float(ours.mean() / max(theirs.mean(), 1e-12) - 1),
        "low": float(low),
        "high": float(high),
    }


def _resampled_means(values: Float, seed: int) -> Float:
    """values [U] or [U, M] -> means of BOOTSTRAPS resamples of users [BOOTSTRAPS] or [BOOTSTRAPS, M]."""
    rng = np.random.default_rng(seed)
    return np.stack([values[rng.integers(0, len(values), len(values))].mean(axis=0) for _ in range(BOOTSTRAPS)])


PerRun = Sequence[NDArray[np.float64]]  # [users] of each run


Pool = Callable[[PerRun], NDArray[np.float64]]


def _mean_over_seeds(per_run: PerRun) -> NDArray[np.float64]:
    return np.mean(np.stack(per_run), axis=0)


def pooled_difference(ours: PerRun, theirs: PerRun, pool: Pool = _mean_over_seeds) -> dict[str, Any]:
    """Relative difference of two models, each [users] a run: paired bootstrap over users of their means over seeds.

    Returns difference, low, high (95 %), and each seed's own difference. pool: how the runs become one value a user.
    """
    per_seed = [float(own.mean() / max(other.mean(), 1e-12) - 1) for own, other in zip(ours, theirs, strict=True)]
    return {**relative_difference(pool(ours), pool(theirs)), "per_seed": per_seed}
