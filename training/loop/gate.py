"""The gate: whether a new model takes the place of the live one, from how both ranked the same newest events.

It is a test of non-inferiority: the new model is published where the lower end of the 95 % interval of the relative
difference in NDCG@10, paired and resampled over users, lies above minus the margin. So one that is worse by the margin
is published at most once in forty times. A test that asked for a proven gain would publish almost nothing, because two
models of one week are nearly equal; and what a refresh brings most, the new items, is only asked for later on.
tests/bench/README.md, "The margin of the gate", has how wide the intervals are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metric import relative_difference

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """What the gate says. live, new: NDCG@10 of each model. difference, low, high: relative, with its interval."""

    passes: bool
    sentence: str
    requests: int
    live: float = 0.0
    new: float = 0.0
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def decide(live: Float, new: Float, users: NDArray[np.int64], *, margin: float, least: int) -> Verdict:
    """Return the verdict over NDCG@10 of the live and the new model for each request [U]. users: who asks [U].

    margin: see refresh.margin. least: with fewer requests nothing is published.
    """
    n = len(live)
    if n < least:
        return Verdict(False, f"not published: {n:,} requests that neither model saw; {least:,} are needed", n)
    means = float(live.mean()), float(new.mean())
    if not any(means):
        return Verdict(False, f"not published: neither model finds any of {n:,} items taken", n, *means)
    found = relative_difference(new, live, users)
    difference, low, high = (found[name] for name in ("difference", "low", "high"))
    if means[0] == 0:  # a ratio to nothing
        difference, low, high = 1.0, min(1.0, low), 1.0
    passes = low > -margin
    figures = (
        f"NDCG@10 {means[1]:.4f} against {means[0]:.4f} of the live model, {difference:+.1%} (95 % interval {low:+.1%} "
        f"to {high:+.1%}) over {n:,} requests that neither saw"
    )
    why = f"it is not worse by {margin:.1%} or more" if passes else f"it may be worse by {margin:.1%} or more"
    sentence = f"{'published' if passes else 'not published'}: {figures}; {why}"
    return Verdict(passes, sentence, n, *means, difference, low, high)
