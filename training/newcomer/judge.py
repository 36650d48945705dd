"""Judge an item network on items that were held out whole, beside what needs no network.

Each request is one event of a held-out item, and the held-out items alone are ranked, so that the ranks tell how well
new items are told apart. The rivals: chance; the number of training events of the most popular value among an item's
attributes; and the mean vector of the known items whose texts are nearest. Equal scores are put in a random order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from service.bundle import ItemText
from training.data.event import Int64
from training.evaluation.metric import Float, bootstrap_interval, hit, ndcg, rank_targets, relative_difference
from training.evaluation.question import Question
from training.model.encoder import SequenceModel
from training.newcomer.holding import Held
from training.newcomer.making import Made, users_of
from training.newcomer.text import BUCKETS

NEIGHBOURS = 10  # known items whose vectors are averaged
SHOWN_TO = 4096  # requests that tell how often new items are shown
SHOWN_AT_ONCE = 32
K = 10
RANKED_AT_ONCE = 1 << 20  # scores
Scores = NDArray[np.float32]


def judge_newcomers(
    held: Held, model: SequenceModel, made: Made, features: Sequence[Int64], texts: Sequence[ItemText]
) -> dict[str, Any]:
    """Return the table of the report: models by name, requests, items, confidence, shown. See the module.

    model: trained on held.known. made: its item network. features, texts: of all items, the held-out ones too.
    """
    question = held.ask()
    users = users_of(model, question)
    vectors, confidences = made.network.encode([features[row] for row in held.rows.tolist()])
    table = model.items.weight.detach().cpu().numpy()
    scores = {
        "encoder": users @ vectors.T,
        "text_neighbour": users @ neighbour_vectors(features, held, table).T,
        "popular_in_category": category_scores(held, texts),
        "random": np.zeros(len(held.rows), dtype=np.float32),
    }
    ranks = {name: _ranks(each, question.target) for name, each in scores.items() if each is not None}
    return {
        "held_out": len(held.rows),
        "requests": len(question.users),
        "users": len(np.unique(question.users)),
        "models": _rows(ranks, question),
        "confidence": _by_confidence(ranks["encoder"], confidences[question.target]),
        "shown": _shown(held, model, vectors, made.offset),
        "data": held.whole.report["fingerprint"],
        **made.about,
    }


def neighbour_vectors(features: Sequence[Int64], held: Held, table: Scores) -> Scores:
    """Return the mean vector of the NEIGHBOURS known items of most similar text, for each held-out item [n, D].

    Similar by the cosine of the features, each weighed by its rarity. table: vectors of the known items.
    """
    known, new = (_matrix([features[row] for row in rows.tolist()]) for rows in (held.known_rows, held.rows))
    rarity = np.log((1 + known.shape[0]) / (1 + known.sum(axis=0)))
    known, new = (_unit(matrix @ diags_array(rarity)) for matrix in (known, new))
    found = np.zeros((new.shape[0], table.shape[1]), dtype=np.float32)
    k = min(NEIGHBOURS, known.shape[0])
    for start in range(0, new.shape[0], 256):
        likeness = (new[start : start + 256] @ known.T).toarray()
        near = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        weight = np.take_along_axis(likeness, near, axis=1)
        weight = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
        found[start : start + 256] = np.einsum("nk,nkd->nd", weight, table[near])
    return found


def category_scores(held: Held, texts: Sequence[ItemText]) -> Scores | None:
    """Return the training events of the most popular value of each held-out item's attributes [n].

    None where no item has an attribute.
    """
    counts: dict[tuple[str, str], float] = {}
    for row, item in zip(held.known_rows.tolist(), held.known.items, strict=True):
        for pair in _pairs(texts[row]):
            counts[pair] = counts.get(pair, 0.0) + item.popularity
    if not counts:
        return None
    best = [max((counts.get(pair, 0.0) for pair in _pairs(texts[row])), default=0.0) for row in held.rows.tolist()]
    return np.array(best, dtype=np.float32)


def _pairs(text: ItemText) -> list[tuple[str, str]]:
    return [(name, value) for name, values in text.attributes.items() for value in values]


def _matrix(features: Sequence[Int64]) -> csr_array:
    """Return which item has which feature, float32 [n, 1 + BUCKETS]."""
    columns = np.concatenate([*features, np.zeros(0, dtype=np.int64)])
    starts = np.concatenate([[0], np.cumsum([len(row) for row in features])])
    return csr_array((np.ones(len(columns), dtype=np.float32), columns, starts), shape=(len(features), 1 + BUCKETS))


def _unit(matrix: csr_array) -> csr_array:
    length = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    return csr_array(diags_array(1 / np.maximum(length, 1e-9)) @ matrix)


def _ranks(scores: Scores, target: Int64) -> Int64:
    """Return the ranks of targets among scores [U, n], or [n] for everybody; equal scores in a random order."""
    rng = np.random.default_rng(0)
    found = []
    at_once = max(1, RANKED_AT_ONCE // scores.shape[-1])
    for start in range(0, len(target), at_once):
        own = target[start : start + at_once]
        block = scores[start : start + at_once] if scores.ndim == 2 else np.repeat(scores[None], len(own), axis=0)
        order = np.lexsort((rng.random(block.shape), block), axis=1)
        place = np.argsort(order, axis=1).astype(np.float32)
        found.append(rank_targets(place, own))
    return np.concatenate([*found, np.zeros(0, dtype=np.int64)])


def _rows(ranks: Mapping[str, Int64], question: Question) -> dict[str, Any]:
    """Return NDCG and HR at K of each model with intervals, and how far the encoder is ahead of it."""
    ours = ndcg(ranks["encoder"], K)
    rows = {}
    for name, own in ranks.items():
        values: Float = ndcg(own, K)
        rows[name] = {
            f"ndcg@{K}": float(values.mean()),
            f"ndcg@{K}_interval": list(bootstrap_interval(values, question.users)),
            f"hr@{K}": float(hit(own, K).mean()),
        }
        if name != "encoder":
            rows[name]["encoder_ahead"] = relative_difference(ours, values, question.users)
    return rows


def _by_confidence(ranks: Int64, confidences: Scores) -> list[dict[str, float]]:
    """Return the encoder's NDCG at K for the less and the more certain half of the requests."""
    order = np.argsort(confidences, kind="stable")
    return [
        {"confidence": float(confidences[half].mean()), f"ndcg@{K}": float(ndcg(ranks[half], K).mean())}
        for half in np.array_split(order, 2)
        if len(half)
    ]


def _shown(held: Held, model: SequenceModel, vectors: Scores, offset: float) -> dict[str, float]:
    """Return the share of places in lists of K that new items get in the whole catalogue, and of what users took."""
    question = held.ask_all(SHOWN_TO)
    warm = np.flatnonzero(question.lengths() > 0)  # a user without a history has no taste, and is answered otherwise
    users = users_of(model, question, warm)
    known = model.items.weight.detach().cpu().numpy()
    n_new = n_places = 0
    for some in np.array_split(users, -(-len(users) // SHOWN_AT_ONCE)) if len(users) else ():
        both = np.concatenate([some @ known.T, some @ vectors.T + offset], axis=1)
        best = np.argpartition(-both, min(K, both.shape[1]) - 1, axis=1)[:, :K]
        n_new, n_places = n_new + int((best >= len(known)).sum()), n_places + best.size
    return {
        "places": n_new / max(1, n_places),
        "taken": float((question.target[warm] >= 0).sum() / max(1, len(warm))),
        "items": len(held.rows) / (len(held.rows) + len(held.known_rows)),
    }
