"""Fit the few weights of a score to validation requests by maximum likelihood: a and w by the gap, b and epsilon.

Training positions are mostly bursts of heavy users and requests are not, so the weights that a model was trained with
are not those that it is asked with. The forms that a score can have are compared by what two halves of the requests say
of each other, so a part, or a weight by the gap, that brings nothing is left out.

A target that no weights bring near the top says nothing of how the top is ordered, but the plain likelihood is ruled by
such targets: it may give up the first ten places to lift a target from the five thousandth to the five hundredth. So
log(p + floor), by which a small chance counts little, is tried beside log p, and NDCG@10 of each half with the weights
of the other chooses. tests/bench/README.md, "Weights of a score", says what it brings.

Letters: U requests, N items, K knots.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.bundle import Gap, ScoreRule, TrendRule
from training.data.event import Int64
from training.evaluation.given import Given, keep_parts
from training.evaluation.judge import Scorer
from training.evaluation.metric import ndcg
from training.evaluation.question import Question
from training.progress import Progress

VALUES = 1 << 26  # scores of one part in memory
AT_ONCE = 1 << 19  # of these are worked on together: what is made of them stays in the processor's cache
KNOTS = 5
LEAST_REQUESTS = 100  # for each knot
FLOORS = (0.0, 0.02)  # under the chance of a target; one that is tenth has about the second
LEAST_FITTED = 20  # with fewer requests nothing is fitted
PENALTY = 5.0  # of the squared difference of neighbouring weights, divided by the number of requests
STEPS = 12
HIDDEN = -1e9  # the score of an item that may not be recommended
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """What a score may consist of. parts: names. knots: how many weights by the gap, 1: constants."""

    parts: tuple[str, ...]
    knots: int
    learns_epsilon: bool = True


@dataclass(frozen=True)
class Evidence:
    """The parts of the scores of U requests [U, N], each with a weight of 1; None where a part is not there."""

    target: Tensor  # int64 [U]
    gap: Tensor  # [U]
    hidden: Tensor | None  # bool [U, N]
    taste: Tensor | None
    neighbours: Tensor | None
    counts: Tensor | None

    @classmethod
    def of(
        cls,
        question: Question,
        places: Int64,
        *,
        counts: Float32 | None,
        rule: ScoreRule | None,
        taste: Float32 | None = None,
        neighbours: Float32 | None = None,
    ) -> "Evidence":
        """Return what the requests at some places say, of arrays [U, N] in their order."""
        hidden = None
        if question.exclude_seen:
            hidden = torch.zeros((len(places), question.n_items), dtype=torch.bool)
            for row, seen in enumerate(question.histories(places)):
                hidden[row, torch.from_numpy(seen.astype(np.int64))] = True
            hidden[torch.arange(len(places)), torch.from_numpy(question.target[places])] = False
        assert question.gap is not None  # noqa: S101  # made by ask()
        gap = question.gap[places]
        typical = np.nanmedian(gap) if np.isfinite(gap).any() else 0.0
        parts = [None if part is None else torch.from_numpy(part) for part in (taste, neighbours, counts)]
        return cls(
            torch.from_numpy(question.target[places]),
            torch.from_numpy(np.where(np.isnan(gap), typical, gap)).float(),
            hidden,
            *parts,
        )

    def some(self, rows: slice) -> "Evidence":
        """Return every second request, or any other slice."""
        return Evidence(*(None if part is None else part[rows] for part in self._fields()))  # type: ignore[arg-type]

    def pieces(self) -> "Iterator[Evidence]":
        """Return the requests some at a time."""
        parts = [part for part in (self.taste, self.neighbours, self.counts) if part is not None]
        rows = max(1, AT_ONCE // parts[0].shape[1])
        return (self.some(slice(at, at + rows)) for at in range(0, len(self.target), rows))

    def _fields(self) -> Sequence[Tensor | None]:
        return self.target, self.gap, self.hidden, self.taste, self.neighbours, self.counts


@dataclass(frozen=True)
class Fitted:
    """The weights that were found: at each knot, and those of all requests."""

    form: Form
    knots: Tensor  # [K]
    log_taste: Tensor  # [K]
    trend: Tensor  # [K]
    neighbours: Tensor  # []
    log_epsilon: Tensor  # []

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the whole scores [U, N]."""
        total: Tensor | float = 0.0
        hats = _hats(evidence.gap, self.knots)
        if "taste" in self.form.parts and evidence.taste is not None:
            total = (hats @ self.log_taste.exp())[:, None] * evidence.taste
        if "neighbours" in self.form.parts and evidence.neighbours is not None:
            total = total + self.neighbours * evidence.neighbours
        if "trend" in self.form.parts and evidence.counts is not None:
            total = total + (hats @ self.trend)[:, None] * (evidence.counts + self.log_epsilon.exp()).log()
        assert isinstance(total, Tensor)  # noqa: S101  # a form has a part
        return total if evidence.hidden is None else total.masked_fill(evidence.hidden, HIDDEN)


def fit(evidence: Evidence, form: Form, trend: TrendRule | None, floor: float = 0.0) -> Fitted:
    """Return the weights of a form that make the targets likeliest. floor: 0 gives the plain likelihood."""
    knots = _knots(evidence.gap, form.knots)
    epsilon = 1.0 if trend is None else trend.epsilon
    learned = [torch.zeros(len(knots)), torch.full((len(knots),), 0.5), torch.ones(()), torch.tensor(np.log(epsilon))]
    learned = [part.float().requires_grad_() for part in learned]
    fitted = Fitted(form, knots, *learned)
    tuned = learned if form.learns_epsilon else learned[:3]
    optimizer = torch.optim.LBFGS(tuned, lr=1.0, max_iter=STEPS, history_size=8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        rough = learned[0].diff().square().sum() + learned[1].diff().square().sum()
        away = (learned[3] - float(np.log(epsilon))).square()
        loss = PENALTY / len(evidence.target) * (rough + away)
        loss.backward()
        total = loss.detach()
        for piece in evidence.pieces():
            loss = _surprises(piece, fitted, floor).sum() / len(evidence.target)
            loss.backward()
            total += loss.detach()
        return total

    optimizer.step(closure)
    return Fitted(form, knots, *(part.detach() for part in learned))


@torch.no_grad()
def surprise(evidence: Evidence, fitted: Fitted, floor: float = 0.0) -> float:
    """Return the mean of -log(p(target) + floor), in nats."""
    return sum(float(_surprises(piece, fitted, floor).sum()) for piece in evidence.pieces()) / len(evidence.target)


@torch.no_grad()
def gain(evidence: Evidence, fitted: Fitted) -> float:
    """Return the NDCG@10 of the targets; equal scores count against them."""
    ranks = []
    for piece in evidence.pieces():
        scores = fitted.scores(piece)
        ranks.append((scores >= scores.gather(1, piece.target[:, None])).sum(dim=1))
    return float(ndcg(torch.cat(ranks).numpy(), 10).mean())


def _surprises(evidence: Evidence, fitted: Fitted, floor: float) -> Tensor:
    likelihood = -F.cross_entropy(fitted.scores(evidence), evidence.target, reduction="none")
    if floor == 0:
        return -likelihood
    return -torch.logaddexp(likelihood, torch.full_like(likelihood, float(np.log(floor))))


def fit_rule(
    question: Question, score: Scorer, given: Given, max_history: int, progress: Progress
) -> tuple[ScoreRule, dict[str, Any]]:
    """Return the rule that answers a validation question best with a model's taste, and what was compared.

    The parts that given has may be left out of it. Where there is nothing to fit to, the weights stay 1.
    """
    rule = given.parts.rule
    warm = _warm(question)
    if len(warm) < LEAST_FITTED:
        return rule, {"requests": len(warm)}
    evidence = _collect(question, warm, score, given, max_history)
    knots = int(np.clip(len(warm) // LEAST_REQUESTS, 1, KNOTS))
    halves = evidence.some(slice(0, None, 2)), evidence.some(slice(1, None, 2))
    ways = [halves, halves[::-1]]
    chosen, trials, forms = list[_Trial](), list[dict[str, Any]](), _forms(rule, knots)
    with progress.bar("weights of the score", len(FLOORS) * len(forms)) as bar:
        for floor in FLOORS:
            tried = []
            for form in forms:
                tried.append(_try(form, floor, ways, rule.trend))
                bar.advance(1)
            chosen.append(min(tried, key=lambda trial: trial.surprise))
            trials += [trial.to_json() for trial in tried]
    best = max(chosen, key=lambda trial: trial.gain)
    fitted = fit(evidence, best.form, rule.trend, best.floor)
    return _to_rule(rule, fitted, evidence), {"requests": len(warm), "floor": best.floor, "trials": trials}


@dataclass(frozen=True)
class _Trial:
    """A form and a floor, and what each half of the requests says of the weights of the other."""

    form: Form
    floor: float
    surprise: float
    gain: float

    def to_json(self) -> dict[str, Any]:
        parts = ",".join(self.form.parts)
        return {"parts": parts, "knots": self.form.knots} | {
            "floor": self.floor, "surprise": self.surprise, "ndcg@10": self.gain,
        }  # fmt: skip


def _try(form: Form, floor: float, ways: Sequence[Sequence[Evidence]], trend: TrendRule | None) -> _Trial:
    fits = [(other, fit(own, form, trend, floor)) for own, other in ways]
    surprises = [surprise(other, fitted, floor) for other, fitted in fits]
    return _Trial(form, floor, float(np.mean(surprises)), float(np.mean([gain(*each) for each in fits])))


def likeliest_trend(question: Question, score: Scorer, given: Given, max_history: int) -> float:
    """Return the weight of the trend, beside a taste of weight 1, that makes the targets likeliest; never below 0."""
    warm = _warm(question)
    if len(warm) < LEAST_FITTED:
        return 1.0
    evidence = _collect(question, warm, score, given, max_history)
    found = fit(evidence, Form(("taste", "trend"), 1, learns_epsilon=False), given.parts.rule.trend)
    return max(0.0, float(found.trend[0] / found.log_taste[0].exp()))


def _warm(question: Question) -> Int64:
    """Return the places of the requests that are fitted to: of users with a history, for a known item."""
    warm = np.flatnonzero((question.target >= 0) & (question.lengths() > 0))
    most = max(1, VALUES // question.n_items)
    return warm if len(warm) <= most else np.sort(np.random.default_rng(0).choice(warm, most, replace=False))


def _forms(rule: ScoreRule, knots: int) -> list[Form]:
    """Return the forms to compare, the simplest first: the first of equally good ones is taken."""
    parts = tuple(rule.parts)
    fewer = [tuple(part for part in parts if part != name) for name in ("trend", "neighbours") if name in parts]
    smaller = [Form(names, 1) for names in fewer if names]
    several = [Form(parts, knots)] if knots > 1 and rule.trend is not None else []
    return [*smaller, Form(parts, 1), *several]


def _collect(question: Question, places: Int64, score: Scorer, given: Given, max_history: int) -> Evidence:
    """Return the parts of the scores of the requests at some places."""
    shape = (len(places), question.n_items)
    rule = given.parts.rule
    taste, near, counts = (
        np.zeros(shape, dtype=np.float32) if on else None
        for on in (rule.has_taste, rule.neighbours is not None, rule.trend is not None)
    )
    order = np.full(len(question.users), -1)
    order[places] = np.arange(len(places))
    for batch, rows in question.batches(max_history, places):
        at = order[batch]
        if taste is not None:
            taste[at] = score(rows)
        if near is not None:
            for place, row in zip(at, rows.numpy(), strict=True):
                said, values = given.parts.speak(row[row >= 0])
                near[place, said] = values
        if counts is not None and question.asked_ms is not None:
            counts[at] = given.live.before(question.asked_ms[batch])
    return Evidence.of(question, places, counts=counts, rule=rule, taste=taste, neighbours=near)


def _to_rule(rule: ScoreRule, fitted: Fitted, evidence: Evidence) -> ScoreRule:
    """Return the rule with the weights that were found, and without what their form leaves out."""
    kept = keep_parts(rule, fitted.form.parts)
    gap = Gap(
        fitted.knots.tolist(),
        fitted.log_taste.exp().tolist(),
        (fitted.trend if kept.trend else torch.zeros_like(fitted.trend)).tolist(),
        float(evidence.gap.median()),
    )
    near, trend = kept.neighbours, kept.trend
    return replace(
        kept,
        gap=gap,
        neighbours=replace(near, weight=near.weight * float(fitted.neighbours)) if near else None,
        trend=replace(trend, epsilon=max(1e-6, float(fitted.log_epsilon.exp()))) if trend else None,
    )


def _knots(gap: Tensor, count: int) -> Tensor:
    """Return at most count knots at which the requests lie about equally densely."""
    if count == 1:
        return gap.median()[None]
    return torch.quantile(gap, torch.linspace(0.05, 0.95, count)).unique()


def _hats(gap: Tensor, knots: Tensor) -> Tensor:
    """Return the share of each knot in each request's weight [U, K], as np.interp has it."""
    eye = np.eye(len(knots))
    shares = [np.interp(gap.numpy(), knots.numpy(), row) for row in eye]
    return torch.from_numpy(np.stack(shares, axis=1)).float()
