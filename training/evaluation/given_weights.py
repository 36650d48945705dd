"""Fit the few weights of a score to validation requests by maximum likelihood: a and w by the gap, b and epsilon.

Training positions are mostly bursts of heavy users and requests are not, so the weights that a model was trained with
are not those that it is asked with. The forms that a score can have are compared by what two halves of the requests say
of each other, so a part, or a weight by the gap, that brings nothing is left out.

A target that no weights bring near the top says nothing of how the top is ordered, but the plain likelihood is ruled by
such targets: it may give up the first ten places to lift a target from the five thousandth to the five hundredth. So
log(p + floor), by which a small chance counts little, is tried beside log p, and NDCG@10 of each half with the weights
of the other chooses. tests/bench/README.md, "Weights of a score", says what it brings.

The softmax of a large catalogue is over the items that a part of the score puts first and over some others, drawn at
random, that stand for the rest (a stratified estimate of its sum).

Processes that train together share both: each collects what some of the requests say, and answers for these when the
first, which fits, asks (training/parallel/evidence.py). The weights have the bits of one process's.

Letters: U requests, N items, C items of a request that are looked at (all N of a small catalogue), K knots.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.bundle import Gap, ScoreRule, TrendRule
from training import ranks
from training.data.event import Int64
from training.evaluation.given import Given, keep_parts
from training.evaluation.judge import Scorer
from training.evaluation.metric import ndcg
from training.evaluation.question import Question
from training.loss.sampled import draw_columns
from training.parallel.evidence import Answering, Asking, Evidence, Fitted, Form, own_requests
from training.progress import Progress

VALUES = 1 << 26  # scores of one part in memory
SCORES = 1 << 30  # of one part that are made: fewer requests of a large catalogue are asked
COLUMNS, FIRST = 5_000, 1_000  # items of a request that are looked at; those that each part puts first
KNOTS = 5
LEAST_REQUESTS = 100  # for each knot
FLOORS = (0.0, 0.02)  # under the chance of a target; one that is tenth has about the second
LEAST_FITTED = 20  # with fewer requests nothing is fitted
PENALTY = 5.0  # of the squared difference of neighbouring weights, divided by the number of requests
STEPS = 12
Float32 = NDArray[np.float32]


def fit(evidence: Answering, form: Form, trend: TrendRule | None, floor: float = 0.0) -> Fitted:
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
        loss = PENALTY / len(evidence.gap) * (rough + away)
        loss.backward()
        total = loss.detach()
        for row in evidence.answer("slopes", _settled(fitted), floor):
            total += row[0]
            _add_slopes(learned, row[1:])
        return total

    optimizer.step(closure)
    return _settled(fitted)


def _settled(fitted: Fitted) -> Fitted:
    """Return the weights as they are now."""
    return Fitted(fitted.form, fitted.knots, *(part.detach().clone() for part in fitted.learned))


def _add_slopes(learned: Sequence[Tensor], slopes: Tensor) -> None:
    """Add to the gradient of each tensor its own of slopes, in which they all stand one after the other."""
    for part, own in zip(learned, slopes.split([part.numel() for part in learned]), strict=True):
        own = own.view_as(part)
        part.grad = own.clone() if part.grad is None else part.grad.add_(own)


def surprise(evidence: Answering, fitted: Fitted, floor: float = 0.0) -> float:
    """Return the mean of -log(p(target) + floor), in nats."""
    return sum(evidence.answer("sums", fitted, floor).tolist()) / len(evidence.gap)


def gain(evidence: Answering, fitted: Fitted) -> float:
    """Return the NDCG@10 of the targets; equal scores count against them."""
    return float(ndcg(evidence.answer("ranks", fitted, 0.0).numpy(), 10).mean())


def evidence_of(question: Question, places: Int64, parts: Sequence[Float32 | None]) -> Evidence:
    """Return what the requests at some places say. parts: taste, neighbours and counts [U, N] in their order."""
    hidden = torch.from_numpy(question.is_seen(places)) if question.exclude_seen else None
    target = torch.from_numpy(question.target[places])
    taste, near, counts = (None if each is None else torch.from_numpy(each) for each in parts)
    return Evidence(target, _gaps(question, places), hidden, taste, near, counts)


class _Shares(NamedTuple):
    """The evidence of all processes: every second request from the first and from the second on, and all of them."""

    even: Answering
    odd: Answering
    whole: Answering

    @classmethod
    def of(cls, own: Evidence) -> "_Shares":
        return cls(own.half(0), own.half(1), own)

    def led(self, ask: "Callable[[_Asked], Tensor]") -> "_Shares":
        """Return the same, where all processes answer for what they hold."""
        return _Shares(*(Asking(each.gap, number, ask) for number, each in enumerate(self)))

    def answer(self, asked: "_Asked") -> Tensor:
        """Return what this process's requests say."""
        number, what, fitted, floor = asked
        return self[number].answer(what, fitted, floor)


_Asked = tuple[int, str, Fitted, float]


def fit_rule(
    question: Question, score: Scorer, given: Given, max_history: int, progress: Progress, *, by_first: bool = False
) -> tuple[ScoreRule, dict[str, Any]]:
    """Return the rule that answers a validation question best with a model's taste, and what was compared.

    The parts that given has may be left out of it. Where there is nothing to fit to, the weights stay 1. Processes that
    train together all call it. by_first: only the first can score.
    """
    rule = given.parts.rule
    warm = _warm(question)
    if len(warm) < LEAST_FITTED:
        return rule, {"requests": len(warm)}
    shares = _Shares.of(_collect(question, warm, Asker(score, given, max_history, by_first)))
    knots = int(np.clip(len(warm) // LEAST_REQUESTS, 1, KNOTS))
    choose = partial(_choose, forms=_forms(rule, knots), trend=rule.trend, progress=progress)
    fitted, about = ranks.led(lambda ask: choose(shares.led(ask)), shares.answer)
    return _to_rule(rule, fitted, shares.whole.gap), {"requests": len(warm)} | about


def _choose(
    shares: _Shares, forms: Sequence[Form], trend: TrendRule | None, progress: Progress
) -> tuple[Fitted, dict[str, Any]]:
    """Return the weights of the form and the floor that each half of the requests likes best of the other's."""
    ways = [(shares.even, shares.odd), (shares.odd, shares.even)]
    chosen, trials = list[_Trial](), list[dict[str, Any]]()
    with progress.bar("weights of the score", len(FLOORS) * len(forms)) as bar:
        for floor in FLOORS:
            tried = []
            for form in forms:
                tried.append(_try(form, floor, ways, trend))
                bar.advance(1)
            chosen.append(min(tried, key=lambda trial: trial.surprise))
            trials += [trial.to_json() for trial in tried]
    best = max(chosen, key=lambda trial: trial.gain)
    return fit(shares.whole, best.form, trend, best.floor), {"floor": best.floor, "trials": trials}


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


def _try(form: Form, floor: float, ways: Sequence[Sequence[Answering]], trend: TrendRule | None) -> _Trial:
    fits = [(other, fit(own, form, trend, floor)) for own, other in ways]
    surprises = [surprise(other, fitted, floor) for other, fitted in fits]
    return _Trial(form, floor, float(np.mean(surprises)), float(np.mean([gain(*each) for each in fits])))


def likeliest_trend(question: Question, score: Scorer, given: Given, max_history: int) -> float:
    """Return the weight of the trend, beside a taste of weight 1, that makes the targets likeliest; never below 0.

    Processes that train together all call it.
    """
    warm = _warm(question)
    if len(warm) < LEAST_FITTED:
        return 1.0
    own = _collect(question, warm, Asker(score, given, max_history))
    form = Form(("taste", "trend"), 1, learns_epsilon=False)
    shares = _Shares(own, own, own)
    found = ranks.led(lambda ask: fit(shares.led(ask).whole, form, given.parts.rule.trend), shares.answer)
    return max(0.0, float(found.trend[0] / found.log_taste[0].exp()))


def _warm(question: Question) -> Int64:
    """Return the places of the requests that are fitted to: of users with a history, for a known item."""
    warm = np.flatnonzero((question.target >= 0) & (question.lengths() > 0))
    most = max(1, min(VALUES // min(question.n_items, COLUMNS), SCORES // question.n_items))
    return warm if len(warm) <= most else np.sort(np.random.default_rng(0).choice(warm, most, replace=False))


def _forms(rule: ScoreRule, knots: int) -> list[Form]:
    """Return the forms to compare, the simplest first: the first of equally good ones is taken."""
    parts = tuple(rule.parts)
    fewer = [tuple(part for part in parts if part != name) for name in ("trend", "neighbours") if name in parts]
    smaller = [Form(names, 1) for names in fewer if names]
    several = [Form(parts, knots)] if knots > 1 and rule.trend is not None else []
    return [*smaller, Form(parts, 1), *several]


def _gaps(question: Question, places: Int64) -> Tensor:
    assert question.gap is not None  # noqa: S101  # made by ask()
    gap = question.gap[places]
    typical = np.nanmedian(gap) if np.isfinite(gap).any() else 0.0
    return torch.from_numpy(np.where(np.isnan(gap), typical, gap)).float()


class Asker(NamedTuple):
    """What requests are scored with. by_first: of processes that train together only the first can score."""

    score: Scorer
    given: Given
    max_history: int
    by_first: bool = False


def _collect(question: Question, places: Int64, asker: Asker) -> Evidence:
    """Return the parts of the scores of the requests at some places; of several processes each gets its own share."""
    n_columns = min(question.n_items, COLUMNS)
    own = own_requests(len(places), n_columns)
    rule, shape = asker.given.parts.rule, (own.stop - own.start, n_columns)
    has = rule.has_taste, rule.neighbours is not None, rule.trend is not None
    found = [np.zeros(shape, dtype=np.float32) if on else None for on in has]
    hidden, stands_for = np.ones(shape, dtype=np.bool_), np.zeros(shape, dtype=np.float32)
    order = np.full(len(question.users), -1)
    order[places] = np.arange(len(places)) - own.start
    batches = _with_draws(question.batches(asker.max_history, places), question.n_items, sum(has))
    for (batch, _, _), said in ranks.by_turns(batches, partial(_looked_at, question, asker), by_first=asker.by_first):
        at = order[batch]
        is_own = (at >= 0) & (at < shape[0])
        for place, part in zip((*found, hidden, stands_for), said, strict=True):
            if place is not None and part is not None:
                place[at[is_own]] = part[is_own]
    if n_columns == question.n_items:
        evidence = evidence_of(question, places[own], found)
        return replace(evidence, gap=_gaps(question, places), begin=own.start)
    target = torch.zeros(shape[0], dtype=torch.int64)
    again, rest = torch.from_numpy(hidden), torch.from_numpy(stands_for)
    taste, near, counts = (None if each is None else torch.from_numpy(each) for each in found)
    return Evidence(target, _gaps(question, places), again, taste, near, counts, rest, own.start)


_Batch = tuple[Int64, Tensor, Int64 | None]


def _with_draws(batches: Iterator[tuple[Int64, Tensor]], n_items: int, n_parts: int) -> Iterator[_Batch]:
    """Yield each batch with the items that are drawn for its requests; None where all items are looked at.

    They are drawn here, in the order of the batches, so that they are the same whoever works on a batch.
    """
    rng = np.random.default_rng(0)
    for places, rows in batches:
        shape = len(places), COLUMNS - 1 - FIRST * n_parts
        yield places, rows, None if n_items <= COLUMNS else rng.integers(0, n_items, shape)


def _looked_at(question: Question, asker: Asker, batch: _Batch) -> Sequence[NDArray[Any] | None]:
    """Return the parts of a batch's scores, what is hidden and what each item stands for, [B, C] each.

    The last two are None where all items are looked at.
    """
    places, rows, drawn = batch
    parts = _parts(question, places, rows, asker.score, asker.given)
    if drawn is None:
        return *parts, None, None
    present = [torch.from_numpy(part) for part in parts if part is not None]
    sample = draw_columns(present, torch.from_numpy(question.target[places]), FIRST, torch.from_numpy(drawn))
    columns, hidden = sample.columns.numpy(), sample.is_again.numpy()
    if question.exclude_seen:
        hidden |= np.take_along_axis(question.is_seen(places), columns, axis=1)
    taken = [None if part is None else np.take_along_axis(part, columns, axis=1) for part in parts]
    return *taken, hidden, sample.stands_for.numpy()


def _parts(
    question: Question, batch: Int64, rows: Tensor, score: Scorer, given: Given
) -> tuple[Float32 | None, Float32 | None, Float32 | None]:
    """Return taste, neighbours and counts of some requests [B, N]; None where there is no such part."""
    rule, near = given.parts.rule, None
    if rule.neighbours is not None:
        near = np.zeros((len(batch), question.n_items), dtype=np.float32)
        for place, row in enumerate(rows.numpy()):
            said, values = given.parts.speak(row[row >= 0])
            near[place, said] = values
    asked_ms = None if rule.trend is None else question.asked_ms
    counts = None if asked_ms is None else given.live.before(asked_ms[batch])
    return score(rows) if rule.has_taste else None, near, counts


def _to_rule(rule: ScoreRule, fitted: Fitted, gap: Tensor) -> ScoreRule:
    """Return the rule with the weights that were found, and without what their form leaves out."""
    kept = keep_parts(rule, fitted.form.parts)
    weights = Gap(
        fitted.knots.tolist(),
        fitted.log_taste.exp().tolist(),
        (fitted.trend if kept.trend else torch.zeros_like(fitted.trend)).tolist(),
        float(gap.median()),
    )
    near, trend = kept.neighbours, kept.trend
    return replace(
        kept,
        gap=weights,
        neighbours=replace(near, weight=near.weight * float(fitted.neighbours)) if near else None,
        trend=replace(trend, epsilon=max(1e-6, float(fitted.log_epsilon.exp()))) if trend else None,
    )


def _knots(gap: Tensor, count: int) -> Tensor:
    """Return at most count knots at which the requests lie about equally densely."""
    if count == 1:
        return gap.median()[None]
    return torch.quantile(gap, torch.linspace(0.05, 0.95, count)).unique()
