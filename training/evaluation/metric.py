"""How good a ranking is: the usual metrics, their intervals over users, and differences between models.

Every metric follows from the rank of the one held-out item of each request, 1 the best, in the whole catalogue: there
are no sampled negatives. Items with the same score as the held-out one count as better, so a model that scores all
items alike gets the last rank and not the first. Intervals are percentile bootstraps over users, each with all their
requests; a difference between two models is taken over the same requests.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Ranks = NDArray[np.int64]  # [U]

PerRun = Sequence[Float]
"""A metric of one model in several runs: the values of its users [U] in each run."""

Pool = Callable[[PerRun], Float]
"""How the runs become one value a user: their mean for runs of the same users, np.concatenate for runs of others."""

CUTOFFS = (5, 10, 20)
MOST_SHOWN = 9.0  # of relative differences
BOOTSTRAPS = 2000  # resamples of the users that an interval is read from
RESAMPLED_AT_ONCE = 200  # of them, where users have several requests


def rank_targets(scores: NDArray[Any], target: NDArray[np.int64], seen: Sequence[NDArray[Any]] | None = None) -> Ranks:
    """Return the rank of each user's target row [B] among scores [B, N].

    seen: rows of each user that may not be recommended; their scores are overwritten with minus infinity. A target that
    is not in the catalogue (-1), or is seen and so cannot be recommended, ranks below every item and every cutoff, so
    that it is a miss in a catalogue smaller than a list too. Raises ValueError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores contain NaN or infinity")
    for i, rows in enumerate(seen or ()):
        scores[i, rows] = -np.inf
    own = scores[np.arange(len(target)), np.maximum(target, 0)]
    possible = (target >= 0) & np.isfinite(own)
    at_least = (scores >= own[:, None]).sum(axis=1)
    return np.where(possible, at_least, worst_rank(scores.shape[1])).astype(np.int64)


def worst_rank(n_items: int) -> int:
    """Return the rank of a target that cannot be recommended."""
    return max(n_items, *CUTOFFS) + 1


def hit(ranks: Ranks, k: int) -> Float:
    """Return whether each target is among the k best, 0 or 1 [U]: recall@k, which is the hit rate for one target."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: Ranks, k: int) -> Float:
    """Return NDCG@k of each user [U]: 1 / log2(rank + 1) within k, else 0 (Järvelin and Kekäläinen 2002)."""
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def reciprocal_rank(ranks: Ranks, k: int) -> Float:
    """Return 1 / rank of each target within k, else 0 [U]; its mean is MRR@k."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def precision(ranks: Ranks, k: int) -> Float:
    """Return the share of each user's k best that is the target, 1 / k or 0 [U]."""
    return hit(ranks, k) / k


def f1(ranks: Ranks, k: int) -> Float:
    """Return the harmonic mean of precision@k and recall@k of each user [U]."""
    return hit(ranks, k) * 2 / (k + 1)


METRICS: dict[str, Callable[[Ranks, int], Float]] = {
    "hr": hit,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
    "precision": precision,
    "f1": f1,
}


def summarise_ranks(ranks: Ranks) -> dict[str, float]:
    """Return every metric at every cutoff by name, such as "hr@10": its mean over users.

    With one target a user, recall@k equals hr@k and accuracy@1 equals hr@1; all are there, for readers look for them.
    """
    means = {f"{name}@{k}": float(metric(ranks, k).mean()) for k in CUTOFFS for name, metric in METRICS.items()}
    recalls = {f"recall@{k}": means[f"hr@{k}"] for k in CUTOFFS}
    return means | recalls | {"accuracy@1": float(hit(ranks, 1).mean())}


def basket_recall(top: NDArray[Any], basket: NDArray[Any], owner: NDArray[np.int64], k: int) -> Float:
    """Return the share of each user's basket that is among the k best [U].

    top: best rows [U, at least k]. basket: rows of all users that were held out together [I]. owner: whose each is,
    a place in top [I].
    """
    found = (top[owner, :k] == basket[:, None]).any(axis=1)
    size = np.bincount(owner, minlength=len(top))
    return np.bincount(owner, weights=found, minlength=len(top)) / np.maximum(size, 1)


def bootstrap_interval(
    values: Float, users: Ranks | None = None, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return low and high of the percentile interval of the mean of values [U] (Efron 1979).

    users: whose each value is [U], because those of one user are resampled together; None: each is of another user.
    """
    means = _resampled_means(values, seed, users)
    edge = (1 - level) / 2
    low, high = np.quantile(means, [edge, 1 - edge])
    return float(low), float(high)


def relative_difference(ours: Float, theirs: Float, users: Ranks | None = None, *, seed: int = 0) -> dict[str, float]:
    """Return mean(ours) / mean(theirs) - 1 of two models over the same requests [U], with its 95 % interval.

    The keys are difference, low and high. Users are resampled in pairs: both models on the same ones. users: as
    bootstrap_interval.
    """
    both = _resampled_means(np.stack([ours, theirs], axis=1), seed, users)
    ratio = both[:, 0] / np.maximum(both[:, 1], 1e-12) - 1
    low, high = np.quantile(ratio, [0.025, 0.975])
    return {"difference": _ratio(ours, theirs), "low": float(low), "high": float(high)}


def describe_change(difference: float) -> str:
    """Return a relative difference as text; beside next to nothing, a percentage would say nothing either."""
    return f"{difference:+.1%}" if difference < MOST_SHOWN else f"over {1 + MOST_SHOWN:.0f} times"


def mean_over_seeds(per_run: PerRun) -> Float:
    """Return each user's mean over runs of the same users [U]."""
    return np.mean(np.stack(per_run), axis=0)


def pooled_difference(
    ours: PerRun, theirs: PerRun, pool: Pool = mean_over_seeds, users: Ranks | None = None
) -> dict[str, Any]:
    """Return the relative difference of two models over several runs: that of their pooled values, and each run's own.

    The keys are those of relative_difference, and per_seed with a number for each run. users: whose each pooled value
    is, as bootstrap_interval.
    """
    per_seed = [_ratio(own, other) for own, other in zip(ours, theirs, strict=True)]
    return {**relative_difference(pool(ours), pool(theirs), users), "per_seed": per_seed}


def _ratio(ours: Float, theirs: Float) -> float:
    """Return mean(ours) / mean(theirs) - 1; a mean of zero counts as a very small one."""
    return float(ours.mean() / max(theirs.mean(), 1e-12) - 1)


def _resampled_means(values: Float, seed: int, users: Ranks | None = None) -> Float:
    """Return the means of BOOTSTRAPS resamples of users: values [U] or [U, M] -> [BOOTSTRAPS] or [BOOTSTRAPS, M]."""
    if users is not None:
        return resampled_by_user(values, users, seed)
    rng = np.random.default_rng(seed)
    return np.stack([values[rng.integers(0, len(values), len(values))].mean(axis=0) for _ in range(BOOTSTRAPS)])


def resampled_by_user(values: Float, users: Ranks, seed: int = 0) -> Float:
    """Return the means of BOOTSTRAPS resamples of users, each of whom brings all their values.

    values [U] or [U, M] -> [BOOTSTRAPS] or [BOOTSTRAPS, M]. users: whose each value is [U].
    """
    _, owner = np.unique(users, return_inverse=True)
    counts = np.bincount(owner).astype(np.float64)
    n_users = len(counts)
    sums = np.zeros((n_users, *values.shape[1:]))
    np.add.at(sums, owner, values)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(0, BOOTSTRAPS, RESAMPLED_AT_ONCE):
        drawn = [np.bincount(rng.integers(0, n_users, n_users), minlength=n_users) for _ in range(RESAMPLED_AT_ONCE)]
        times = np.stack(drawn).astype(np.float64)  # [RESAMPLED_AT_ONCE, n_users]
        means.append(((times @ sums).T / (times @ counts)).T)
    return np.concatenate(means)
