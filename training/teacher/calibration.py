"""From scores to probabilities: what makes a teacher's distribution honest, by the likelihood of validation targets.

A network's scores are logits, which one temperature makes honest. A ridge regression's are not: fitted to zeros and
ones, they are probabilities themselves, as far as a linear function can be one, and their softmax at any temperature is
far too sure of the first few and blind to the rest. Their logarithm is what a softmax wants. Below a floor, where a
score is as good as none, it goes on as a straight line, so that the order stays and no item's logit is lost.

Nats a validation target, softmax of the score and of its logarithm: Online Retail 7.03 and 6.64, MovieTweetings 8.61
and 7.54, a simulated world of a million events 6.29 and 5.13, where the student's test NDCG@10 rose from .355 to .398.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

STEPS = 40  # bisections of the log temperature
FLOORS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # as shares of the mean user's highest score
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


def log_scores(scores: Tensor, floor: float) -> Tensor:
    """Return log(1 + score / floor) where a score is positive and score / floor elsewhere: one smooth, rising curve."""
    shares = scores.float() / floor
    return shares.clamp_min(0.0).log1p_().add_(shares.clamp_max_(0.0))


def best_floor(scores: Float32, target: Int64, shares: Sequence[float] = FLOORS) -> float:
    """Return the floor under which the log_scores of scores [U, N], at their best sharpness, make targets likeliest."""
    known = target >= 0
    highest = float(scores.max(axis=1).mean())
    if not known.any() or highest <= 0:
        return 1.0
    floors = [share * highest for share in shares]
    wanted, values = target[known], torch.from_numpy(scores[known])
    return min(floors, key=lambda floor: _surprise(log_scores(values, floor).numpy(), wanted))


def best_sharpness(logits: Float32, target: Int64) -> float:
    """Return the factor (1 / temperature) of logits [U, N] that makes the targets [U] most likely.

    The likelihood is concave in the factor, so its slope is bisected, on a logarithmic scale.
    """
    known = target >= 0
    values, wanted = torch.from_numpy(logits[known]), torch.from_numpy(target[known])
    low, high = np.log(1e-3), np.log(1e4)
    for _ in range(STEPS):
        middle = (low + high) / 2
        factor = torch.tensor(float(np.exp(middle)))
        chosen = values[torch.arange(len(wanted)), wanted]
        slope = (chosen - (F.softmax(values * factor, dim=-1) * values).sum(dim=-1)).mean()
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def _surprise(logits: Float32, target: Int64) -> float:
    """Return the mean of -log p(target), in nats, at the best sharpness."""
    sharp = torch.from_numpy(logits) * best_sharpness(logits, target)
    return float(F.cross_entropy(sharp, torch.from_numpy(target)))
