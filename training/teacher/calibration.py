"""From a teacher's scores to logits whose softmax is an honest probability, by the likelihood of validation targets.

The scores of a network are logits: one temperature makes their softmax honest. The scores of a ridge regression are
not. Fitted to zeros and ones, they are near probabilities themselves, and their softmax at any temperature is far too
sure of the first few items and says nothing of the rest. So their logarithm is taken as the logit. Below a floor, where
a score says as much as no score, the logarithm goes on as a straight line, which keeps the order of all items.

tests/bench/README.md, "Quality", has what the logarithm brought in likelihood and in the quality of the student.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

SHARPEST, DULLEST = 1e4, 1e-3
PRECISION = 1e-7  # of the logarithm of the sharpness
FLOORS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # as shares of the mean over users of the highest score
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


def log_scores(scores: Tensor, floor: float) -> Tensor:
    """Return log(1 + score / floor) where a score is positive, and score / floor elsewhere.

    The curve rises everywhere, and its slope has no jump at 0.
    """
    shares = scores.float() / floor
    return shares.clamp_min(0.0).log1p_().add_(shares.clamp_max_(0.0))


def best_floor(scores: Float32, target: Int64, shares: Sequence[float] = FLOORS) -> float:
    """Return the floor whose log_scores of scores [U, N], at their best sharpness, make targets [U] likeliest.

    A target of -1 is not in the catalogue and does not count. Returns 1 where there is nothing to choose by.
    """
    known = target >= 0
    highest = float(scores.max(axis=1).mean())
    if not known.any() or highest <= 0:
        return 1.0
    floors = [share * highest for share in shares]
    wanted, values = target[known], torch.from_numpy(scores[known])
    return min(floors, key=lambda floor: _surprise(log_scores(values, floor).numpy(), wanted))


def best_sharpness(logits: Float32, target: Int64, offset: Float32 | None = None) -> float:
    """Return the factor, 1 / temperature, of logits [U, N] that makes the targets [U] likeliest.

    offset: what is added to the logits times the factor [U, N].

    The likelihood is concave in the factor, so its slope has one zero. Brent's method finds it on a logarithmic scale,
    in a third of the passes over [U, N] that bisection takes. Where there is none, the end of the scale is returned.
    """
    known = target >= 0
    values, wanted = torch.from_numpy(logits[known]), torch.from_numpy(target[known])
    given = torch.zeros(1) if offset is None else torch.from_numpy(offset[known])
    chosen = values[torch.arange(len(wanted)), wanted]

    def slope(exponent: float) -> float:
        said = F.softmax(values * float(np.exp(exponent)) + given, dim=-1)
        return float((chosen - (said * values).sum(dim=-1)).mean())

    low, high = float(np.log(DULLEST)), float(np.log(SHARPEST))
    if not slope(low) > 0:
        return DULLEST
    if not slope(high) < 0:
        return SHARPEST
    return float(np.exp(brentq(slope, low, high, xtol=PRECISION)))


def _surprise(logits: Float32, target: Int64) -> float:
    """Return the mean of -log p(target), in nats, at the best sharpness of logits."""
    sharp = torch.from_numpy(logits) * best_sharpness(logits, target)
    return float(F.cross_entropy(sharp, torch.from_numpy(target)))
