"""Choose how items that go with others are weighed, and judge it: which item was taken in the same basket or session?

A pair is a held-out event and the event of the same user before it, of another item and at most SESSION_S earlier: the
next item of a basket or of a session. Every item but the anchor is ranked. The weights (service/bundle/similar.py) are
those of the highest NDCG@10 on validation, changed one at a time, and are scaled so that the score is as likely as can
be, so that it is made of logits. They are judged beside each part alone, and beside how often training saw the two
items in one session.

Letters: P pairs, N items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from service.bundle import LARGEST_WEIGHT, ItemTable, Relations, SimilarRule, usual_rule
from training.data.event import Int64
from training.data.prepared import Prepared
from training.data.split import TRAIN, VAL
from training.data.trend import LiveCounts, live_counts
from training.evaluation.given_weights import fit
from training.evaluation.metric import bootstrap_interval, hit, ndcg, rank_targets, relative_difference
from training.evaluation.question import judged_part, most_asked
from training.parallel.evidence import Evidence, Form
from training.progress import Bar, Progress

Float32 = NDArray[np.float32]
Encode = Callable[[Int64], Float32]
"""Makes of items, rows [P], the vectors of histories of one of them each, float32 [P, dim]."""
PARTS = ("next", "neighbours", "angle", "trend")
SESSION_S = 86_400
TOGETHER = 10  # events of a session that an event is counted with, before and after it
SHARES = (0.0, 0.25, 0.5, 1.0)  # of each part, which alone is as likely as can be
LEAST_PAIRS = 100  # with fewer nothing is chosen
VALUES = 1 << 23  # scores of one part in memory
MOST_VALUES = 1 << 27  # the same, where fewer would be too few pairs to choose by
FITTED = 1 << 21  # of them, that a factor is fitted to; those of LEAST_PAIRS at least
MOST_JUDGED = 10_000
SWEEPS = 2  # over all parts
AT_ONCE = 256  # pairs that are judged together, where there are few items


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which item was taken after which: each [P]. asked_ms: when."""

    user: Int64
    anchor: Int64
    target: Int64
    asked_ms: Int64

    def some(self, rows: slice) -> "Pairs":
        """Return some of them."""
        return Pairs(self.user[rows], self.anchor[rows], self.target[rows], self.asked_ms[rows])


class Parts:
    """What each part of the score says of the items, with a weight of 1, where the table has it."""

    def __init__(self, prepared: Prepared, table: ItemTable, encode: Encode) -> None:
        rule = None if table.parts is None else table.parts.rule
        self._table, self._dense, self._encode = table, table.dense(), encode
        self._trend = None if rule is None else rule.trend
        self._live: LiveCounts | None = None
        if self._trend is not None:
            self._live = live_counts(prepared, self._trend.half_life_s)
        has = {"neighbours": rule is not None and rule.neighbours is not None, "trend": self._trend is not None}
        self.names = [name for name in PARTS if has.get(name, True)]
        self._near = Relations(table, SimilarRule(0.0, 1.0, 0.0, 0.0))
        self._angle = Relations(table, SimilarRule(0.0, 0.0, 1.0, 0.0))

    def of(self, pairs: Pairs) -> dict[str, Float32]:
        """Return the scores of every item [P, N] by part."""
        nothing = np.zeros(self._dense.shape[1], dtype=np.float32)
        found = {
            "next": self._encode(pairs.anchor) @ self._dense.T,
            "angle": np.stack([self._angle.direction([row], nothing) for row in pairs.anchor]) @ self._dense.T,
        }
        if "neighbours" in self.names:
            found["neighbours"] = np.zeros(found["next"].shape, dtype=np.float32)
            for own, row in zip(found["neighbours"], pairs.anchor, strict=True):
                np.add.at(own, *self._near.speak([int(row)]))
        if self._trend is not None and self._live is not None:
            found["trend"] = self._trend.log(self._live.before(pairs.asked_ms))
        return {name: found[name] for name in self.names}


def pairs_of(prepared: Prepared, part: int, most: int) -> Pairs:
    """Return the pairs of a part of the data, at most so many, drawn with a fixed seed."""
    user, item, at_ms = prepared.user, prepared.item, prepared.timestamp_ms
    is_next = (user[1:] == user[:-1]) & (item[1:] != item[:-1]) & (np.diff(at_ms) <= 1000 * SESSION_S)
    place = 1 + np.flatnonzero(is_next & (prepared.part[1:] == part))
    if len(place) > most:
        place = np.sort(np.random.default_rng(0).choice(place, most, replace=False))
    return Pairs(
        user[place].astype(np.int64), item[place - 1].astype(np.int64), item[place].astype(np.int64), at_ms[place]
    )


def most_chosen(n_items: int) -> int:
    """Return how many pairs the weights are chosen on at most."""
    return min(MOST_JUDGED, max(1, VALUES // n_items, min(LEAST_PAIRS, MOST_VALUES // n_items)))


def judge_similar(
    prepared: Prepared, table: ItemTable, encode: Encode, progress: Progress | None = None
) -> dict[str, Any]:
    """Return the field `similar` of a manifest, what was tried on validation, and how it does on the judged part.

    table: the items' vectors and the parts of the score. progress: shows what is judged.
    """
    n_items, progress = len(prepared.items), progress or Progress(is_quiet=True)
    parts, chosen = Parts(prepared, table, encode), pairs_of(prepared, VAL, most_chosen(n_items))
    is_enough = len(chosen.user) >= LEAST_PAIRS
    rule, tried = _choose(parts, chosen) if is_enough else (usual_rule(table.parts), [])
    judged = pairs_of(prepared, judged_part(prepared), min(MOST_JUDGED, most_asked(n_items)))
    about = {"similar": rule.to_json(), "session_s": SESSION_S, "tried": tried, "pairs": len(judged.user)}
    if not len(judged.user):
        return about | {"models": {}}
    with progress.bar("pairs judged", len(judged.user)) as bar:
        return about | {"models": _judge(parts, judged, rule, count_together(prepared), bar)}


def count_together(prepared: Prepared) -> csr_array:
    """Return how often training saw two items in one session [N, N]."""
    of_part = prepared.part == TRAIN
    user, item, at_ms = prepared.user[of_part], prepared.item[of_part], prepared.timestamp_ms[of_part]
    n_items = len(prepared.items)
    counts = csr_array((n_items, n_items), dtype=np.float32)
    for step in range(1, min(TOGETHER, len(user) - 1) + 1):
        near = (user[step:] == user[:-step]) & (at_ms[step:] - at_ms[:-step] <= 1000 * SESSION_S)
        near &= item[step:] != item[:-step]
        places = item[:-step][near], item[step:][near]
        counts = counts + csr_array((np.ones(near.sum(), dtype=np.float32), places), shape=(n_items, n_items))
    return csr_array(counts + counts.T)


def _choose(parts: Parts, pairs: Pairs) -> tuple[SimilarRule, list[dict[str, float]]]:
    """Return the rule of the highest NDCG@10, and what was tried: shares of each part, the best first.

    It begins with the best part alone, and changes one share at a time. What a vector says always counts a little: an
    item that joins later has no neighbours, nor have the rare ones of a large catalogue.
    """
    scores = parts.of(pairs)
    scale = {name: _honest(own, pairs) for name, own in scores.items()}
    scaled = {name: own * np.float32(scale[name]) for name, own in scores.items()}
    tried: dict[tuple[float, ...], float] = {}

    def quality(shares: Mapping[str, float]) -> float:
        key = tuple(shares.values())
        if key not in tried:
            tried[key] = float(ndcg(_rank(_sum(scaled, shares), pairs), 10).mean())
        return tried[key]

    alone = [{name: float(name == own) for name in scaled} for own in scaled if own != "trend"]
    best = max(alone, key=quality)
    for name in [*scaled] * SWEEPS:
        others = [best | {name: share} for share in SHARES]
        best = max((each for each in others if each["next"] or each["angle"]), key=quality)
    largest = max(best[name] * scale[name] for name in scaled)  # where all targets come first no factor is too large
    factor = min(_honest(_sum(scaled, best), pairs), 0.999 * LARGEST_WEIGHT / largest)
    weights = {name: factor * best[name] * scale[name] for name in scaled}
    listed = [dict(zip(scaled, key, strict=True)) | {"ndcg@10": gain} for key, gain in tried.items()]
    listed.sort(key=lambda trial: -trial["ndcg@10"])
    return replace(SimilarRule(0.0, 0.0, 0.0, 0.0), **weights), listed


def _judge(parts: Parts, pairs: Pairs, rule: SimilarRule, together: csr_array, bar: Bar) -> dict[str, Any]:
    """Return hr@10 and ndcg@10 of the mix, of its parts and of co-occurrence, and by how much the mix is ahead.

    Items that training saw together equally often are ranked by how often they were seen with any.
    """
    popularity = np.asarray(together.sum(axis=0)).ravel()
    popularity = (popularity / max(1.0, float(popularity.sum()))).astype(np.float32)
    ranks: dict[str, list[Int64]] = {name: [] for name in ("mix", *parts.names, "together")}
    at_once = min(AT_ONCE, max(8, VALUES // together.shape[1]))
    for first in range(0, len(pairs.user), at_once):
        some = pairs.some(slice(first, first + at_once))
        scores = parts.of(some)
        scores["together"] = together[some.anchor].toarray() + popularity
        scores["mix"] = _sum(scores, rule.to_json(), parts.names)
        for name, own in ranks.items():
            own.append(_rank(scores[name], some))
        bar.advance(len(some.user))
    whole = {name: np.concatenate(own) for name, own in ranks.items()}
    return {name: _row(own, whole["mix"], pairs.user, is_mix=name == "mix") for name, own in whole.items()}


def _row(ranks: Int64, mix: Int64, users: Int64, *, is_mix: bool) -> dict[str, Any]:
    gains = ndcg(ranks, 10)
    row: dict[str, Any] = {
        "hr@10": float(hit(ranks, 10).mean()),
        "ndcg@10": float(gains.mean()),
        "ndcg@10_interval": bootstrap_interval(gains, users),
    }
    return row if is_mix else row | {"mix_ahead": relative_difference(ndcg(mix, 10), gains, users)}


def _sum(scores: Mapping[str, Float32], weights: Mapping[str, float], names: Sequence[str] | None = None) -> Float32:
    """Return the weighed sum of the parts [P, N]."""
    total = np.zeros_like(next(iter(scores.values())))
    for name in scores if names is None else names:
        if weights[name]:
            total += np.float32(weights[name]) * scores[name]
    return total


def _rank(scores: Float32, pairs: Pairs) -> Int64:
    """Return the rank of each target among all items but the anchor [P]."""
    return rank_targets(scores.copy(), pairs.target, list(pairs.anchor[:, None]))


def _honest(scores: Float32, pairs: Pairs) -> float:
    """Return the factor of scores [P, N] that makes the targets likeliest, above 0."""
    n_fitted = max(LEAST_PAIRS, FITTED // scores.shape[1])
    scores, pairs = scores[:n_fitted], pairs.some(slice(n_fitted))
    spread = max(float(scores.std()), 1e-9)
    hidden = torch.zeros(scores.shape, dtype=torch.bool)
    hidden[torch.arange(len(scores)), torch.from_numpy(pairs.anchor)] = True
    evidence = Evidence(
        torch.from_numpy(pairs.target),
        torch.zeros(len(scores)),
        hidden,
        torch.from_numpy(scores / np.float32(spread)),
        None,
        None,
    )
    return float(fit(evidence, Form(("taste",), 1), None).log_taste.exp()[0]) / spread
