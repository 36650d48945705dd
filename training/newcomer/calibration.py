"""Calibrate a network on items that it was not taught: how their scores stand beside those of the others.

A network that was taught without some items gives vectors of them. Their scores, times a scale and plus an offset, take
the place of the true ones among those of all other items. The scale is that under which, with an offset of its own, the
items that users took are likeliest. With it the offset is that under which new items have the share of the places in
lists of K that they have of what was taken: the likeliest offset gives them that share of the probability, of which too
little is at the top, because made vectors tell users apart less than true ones do (tests/bench/README.md, "New items
compete fairly"). The confidence is fitted to the cosine that these vectors have with the true ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.bundle import pad_features
from training.data.event import Int64
from training.newcomer.example import Examples
from training.newcomer.network import ItemNetwork

MOST_REQUESTS = 4096
MOST_SCORES = 1 << 27  # of held items, that scale and offset are fitted to: larger catalogues are asked by fewer users
REQUESTS_AT_ONCE = 32  # whose scores of all other items are in memory
K = 10  # places of a list
FARTHEST = 50.0  # that an offset can be from 0
RESTRAINT = 0.01  # of the confidence's weights


@dataclass(frozen=True, eq=False)
class Calibration:
    """scale: what vectors are multiplied with. offset: added to scores. certainty: see ItemNetwork [4]."""

    scale: float
    offset: float
    certainty: NDArray[np.float32]


def calibrate(
    network: ItemNetwork, examples: Examples, held: Int64, users: NDArray[np.float32], taken: Int64
) -> Calibration:
    """Return the calibration of a network that was taught without the items in rows `held`, ascending.

    users: user vectors float32 [R, D]. taken: the row of the item that each took [R]; of events that the student was
    not trained on, where there are such.
    """
    features = [examples.features[row] for row in held.tolist()]
    vectors, _ = network.encode(features)
    most = min(MOST_REQUESTS, max(1, MOST_SCORES // len(held)))
    scale, offset = _fit_scores(examples, held, vectors, users[:most], taken[:most])
    trust = torch.from_numpy(examples.weights()[held])
    metric = torch.from_numpy(examples.metric())
    mean = network.mean.detach()
    true, made = torch.from_numpy(examples.vectors[held]), torch.from_numpy(vectors)
    likeness = torch.nn.functional.cosine_similarity((true - mean) @ metric, (made - mean) @ metric).clamp(0, 1)
    with torch.no_grad():
        signs = network.signs(torch.from_numpy(pad_features(features)), made)
    return Calibration(scale, offset, _fit_certainty(signs, likeness, trust, scale))


def apply_calibration(network: ItemNetwork, found: Calibration) -> ItemNetwork:
    """Give a network the scale and the certainty that were fitted to one taught without some items, in place."""
    with torch.no_grad():
        network.scale.fill_(found.scale)
        network.certainty.copy_(torch.from_numpy(found.certainty))
    return network


def _fit_scores(
    examples: Examples, held: Int64, vectors: NDArray[np.float32], users: NDArray[np.float32], taken: Int64
) -> tuple[float, float]:
    """Return scale and offset of the scores of the held items, whose made vectors are given."""
    if not len(users):
        return 1.0, 0.0
    known = np.setdiff1d(np.arange(len(examples.vectors)), held)
    is_held = np.isin(taken, held)
    place = torch.from_numpy(np.searchsorted(held, taken).clip(max=len(held) - 1))
    theirs, best = _sum_and_best(users, examples.vectors[known])
    made = torch.from_numpy(users @ vectors.T)  # [R, held]
    own = made.gather(1, place[:, None])[:, 0]
    of_held = torch.from_numpy(is_held)
    fitted = torch.zeros(2, requires_grad=True)  # log of the scale, offset

    def loss() -> Tensor:
        scale, offset = fitted[0].exp(), fitted[1]
        whole = torch.logaddexp(theirs, (made * scale + offset).logsumexp(dim=1))
        # the score of a known item that was taken is the same under every scale and offset
        return (whole - torch.where(of_held, own * scale + offset, 0.0)).mean() + (fitted**2).sum() / len(users)

    _minimise(fitted, loss)
    log_scale, offset = fitted.detach().tolist()
    scale = float(np.exp(log_scale))
    share = float(is_held.mean())
    return scale, fair_offset(best, made * scale, share) if 0 < share < 1 else offset


def _sum_and_best(users: NDArray[np.float32], vectors: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return the log of the sum of exp of each user's scores of all vectors [R], and the K best of them [R, K]."""
    sums, best = [], []
    for some in torch.from_numpy(users).split(REQUESTS_AT_ONCE):
        scores = some @ torch.from_numpy(vectors).T
        sums.append(scores.logsumexp(dim=1))
        best.append(scores.topk(min(K, len(vectors)), dim=1).values)
    return torch.cat(sums), torch.cat(best)


def fair_offset(best: Tensor, new: Tensor, share: float) -> float:
    """Return what must be added to scores of new items so that they have a share of the places in lists of K.

    best: the K best scores of the other items [R, K]. new: [R, new]. share: above 0 and below 1.
    """
    best_new = new.topk(min(K, new.shape[1]), dim=1).values
    is_new = torch.arange(best.shape[1] + best_new.shape[1]) >= best.shape[1]
    n_places = min(K, len(is_new))
    low, high = -FARTHEST, FARTHEST
    for _ in range(40):
        middle = (low + high) / 2
        shown = torch.cat([best, best_new + middle], dim=1).topk(n_places, dim=1).indices
        low, high = (low, middle) if float(is_new[shown].float().mean()) > share else (middle, high)
    return (low + high) / 2


def _fit_certainty(signs: Tensor, likeness: Tensor, trust: Tensor, scale: float) -> NDArray[np.float32]:
    """Return the weights of the signs [n, 4] under which the confidence is nearest to the likeness [n].

    scale: the distance from an ordinary item's vector will be so much greater.
    """
    fitted = torch.zeros(4, requires_grad=True)
    typical = signs.abs().mean(dim=0).clamp(min=1e-6)
    trusted = trust / trust.sum().clamp(min=1e-6)

    def loss() -> Tensor:
        logits = (signs / typical) @ fitted
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, likeness, reduction="none")
        return (trusted * each).sum() + RESTRAINT * (fitted**2).sum()

    _minimise(fitted, loss)
    weights = fitted.detach() / typical
    weights[0] /= scale
    return weights.numpy().astype(np.float32)


def _minimise(fitted: Tensor, loss: Callable[[], Tensor]) -> None:
    """Lower a loss of a few numbers, in place."""
    optimiser = torch.optim.LBFGS([fitted], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(step)
