"""What the setting `diversity` of a request costs and gives: the bundle's lists at several values of it.

The lists are put in order as the service does, by maximal marginal relevance over the item vectors (Carbonell and
Goldstein 1998) of the best 1,000. It is written here in the plainest way, because training imports nothing of the
service but the bundle; a test holds both to the same order.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.judge import AskedScorer
from training.evaluation.metric import ndcg
from training.evaluation.question import Question
from training.evaluation.variety import coverage
from training.progress import Progress

VALUES = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
MOST_DIVERSIFIED = 1000
"""So many of the best items are put into another order, as in the service."""
MOST_REQUESTS = 2000
_K = 10
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


def diversify(vectors: Vectors, scores: NDArray[Any], diversity: float, k: int) -> Rows:
    """Return the places of the first k of some items by maximal marginal relevance.

    vectors: float32 [n, dim]. scores: [n], descending. diversity: 0 to 1.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    spread = scores[0] - scores[-1]
    relevance = (scores - scores[-1]) / spread if spread > 0 else np.ones(len(scores))
    nearest, chosen = np.zeros(len(scores)), list[int]()
    for _ in range(min(k, len(scores))):
        value = (1 - diversity) * relevance - diversity * nearest
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
        nearest = np.maximum(nearest, units @ units[chosen[-1]])
    return np.array(chosen, dtype=np.int64)


def similarity(vectors: Vectors) -> float:
    """Return the mean cosine over all pairs of the items of a list, float32 [k, dim]; 0 for less than two."""
    n = len(vectors)
    if n < 2:
        return 0.0
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return float(((units.sum(axis=0) ** 2).sum() - n) / (n * (n - 1)))


def measure_diversity(
    question: Question, scorer: AskedScorer, vectors: Vectors, max_history: int, progress: Progress | None = None
) -> list[dict[str, float]]:
    """Return NDCG@10, the similarity within lists of ten and the coverage of the catalogue, for each of VALUES.

    Of at most MOST_REQUESTS requests, drawn from those with a history. vectors: of all items, float32 [N, dim]; those
    that users are multiplied with. max_history: the scorer is given at most so many events. progress: shows how far
    it is.
    """
    warm = np.array([len(rows) > 0 for rows in question.histories(np.arange(len(question.users)))], dtype=bool)
    asked = np.flatnonzero(warm)
    if not len(asked):
        return []
    if len(asked) > MOST_REQUESTS:
        asked = np.sort(np.random.default_rng(0).choice(asked, MOST_REQUESTS, replace=False))
    lists: dict[float, list[Rows]] = {value: [] for value in VALUES}
    targets = list[int]()
    with (progress or Progress(is_quiet=True)).bar("lists made more diverse", len(asked)) as bar:
        for places, rows in question.batches(max_history, asked):
            scores = scorer(places, rows)
            for own, seen in zip(scores, question.histories(places), strict=True):
                best = _best(own, seen if question.exclude_seen else seen[:0])
                for value, each in lists.items():
                    each.append(best[diversify(vectors[best], own[best], value, _K)] if len(best) else best)
            targets += question.target[places].tolist()
            bar.advance(len(places))
    return [{"diversity": value} | _describe(each, targets, vectors, question) for value, each in lists.items()]


def _best(scores: NDArray[Any], seen: NDArray[np.int32]) -> Rows:
    """Return the best rows that were not seen, best first; of equally good ones the first."""
    left = np.delete(np.arange(len(scores)), seen)
    values = scores[left]
    if len(left) > MOST_DIVERSIFIED:
        least = np.partition(values, -MOST_DIVERSIFIED)[-MOST_DIVERSIFIED]
        left, values = left[values >= least], values[values >= least]
    return left[np.argsort(-values, kind="stable")[:MOST_DIVERSIFIED]]


def _describe(lists: list[Rows], targets: list[int], vectors: Vectors, question: Question) -> dict[str, float]:
    ranks = [
        int(np.flatnonzero(rows == target)[0]) + 1 if target in rows else _K + 1
        for rows, target in zip(lists, targets, strict=True)
    ]
    return {
        "ndcg@10": float(ndcg(np.array(ranks, dtype=np.int64), _K).mean()),
        "similarity": float(np.mean([similarity(vectors[rows]) for rows in lists])),
        "coverage": coverage(np.concatenate(lists), question.n_items),
        "requests": len(lists),
    }
