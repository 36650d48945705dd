"""How much each target counts in the loss, by the weights of events: importance-weighted empirical risk.

A target's loss is multiplied by its importance, whose mean over all training targets is 1, and a batch's sum is divided
by the number of its targets, which is what the sum of their importances is expected to be. Were it divided by that sum
itself, a target would count less beside heavy ones than beside light ones (the estimate would be self-normalised in
every batch, and biased), and several processes would have to agree on the sum first. So each step's gradient is an
unbiased estimate of that of the weighed loss, nothing depends on the unit of the weights, and there are as many steps,
of as many targets, as without weights.

Heavy weights cost precision: n targets of different importance tell as much as (sum of w)² / (sum of w²) alike ones
(Kong 1992). So no target counts more than MOST times the mean one, which leaves at least n / MOST of them. That bound
trades bias for variance (Ionides 2008; Bottou et al. 2013, §4.4); 20 is about the e³ at which Chen et al. 2019, "Top-K
off-policy correction", cut their importance weights. A purchase of weight 20 among 99 views of weight 1 keeps its
weight, and one order of a million pieces does not decide a training.
"""

import numpy as np
from numpy.typing import NDArray

from training.data.event import Events

MOST = 20.0  # times the mean of what counts


def importance_of(events: Events, weight: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
    """Return how much each event counts as a target [n_events]; None where all count alike.

    weight: of each event [n_events]. Over the events that are targets the mean is 1. What weighs 0 or less counts 0,
    and says nothing of what is heavy.
    """
    if weight is None:
        return None
    is_target = events.is_target()
    counted = weight[is_target & (weight > 0)]
    if not len(counted):
        return None
    cut = np.clip(weight, 0.0, most_weight(counted))
    found = cut / cut[is_target].mean()
    is_alike = np.ptp(found[is_target]) < 1e-9
    return None if is_alike else found.astype(np.float32)


def most_weight(weight: NDArray[np.float64]) -> float:
    """Return the bound that is MOST times the mean of the weights once they are cut at it; weight: above 0 [n].

    Where none is so heavy, it is at least the heaviest. With the k heaviest cut at b, b = MOST · (rest + k · b) / n,
    where rest is the sum of the others.
    """
    ordered = np.sort(weight)
    n, rest = len(ordered), np.cumsum(ordered)[::-1]  # rest[k]: of all but the k heaviest
    k = np.arange(-(-n // int(MOST)))  # fewer than n / MOST can be cut
    bound = MOST * rest[k] / (n - MOST * k)
    return float(bound[np.argmax(bound >= ordered[::-1][k])])
