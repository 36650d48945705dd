"""The linear sequence model: the next item as a linear function of the decayed history, solved in closed form.

    x_t = Σ_d decay^d · onehot(item_{t-d}), over the newest items        p = x_t · W / popularity^discount
    W = argmin ‖X W - Y‖² + penalty · ‖W‖²                               (ridge; SLIT of Choi et al. 2021, WWW)

Y is the next item, or the next few items with a decay of their own, which helps where the order within a basket means
nothing. The matrix W has full rank, so it holds what a narrow dot product cannot, and solving for it takes seconds. p
is near a probability, so its logarithm is what the model scores with (see calibration.py).

Catalogues of more than MAX_ITEMS items, or of more than memory has room for, are modelled for their most popular items;
all others score 0. Decay, penalty,
discount and Y are chosen on validation, one after the other, on the TUNED most popular items, where a solution takes a
second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from training import ranks
from training.data.event import Events
from training.evaluation.judge import Scorer, rank, score_all
from training.evaluation.metric import ndcg
from training.evaluation.question import Question
from training.machine import available_bytes
from training.progress import Progress
from training.teacher.calibration import best_floor, log_scores
from training.teacher.columns import Deal

MAX_ITEMS = 20_000
BYTES_A_CELL = 10  # of the matrix, while it is solved for in place: two of float32, and the result of float16
MEMORY_SHARE = 0.6  # of what is free, that a solution may take
TUNED = 4_000
MAX_HISTORY = 50
LEAST_DECAY = 0.01  # an item that counts for less is left out
BLOCK = 2048  # columns of a product at once
EVENTS_AT_ONCE = 1 << 18  # whose histories are in memory together

DECAYS = (0.5, 0.7, 0.85, 0.95)
FUTURES = ((1, 1.0), (5, 0.8))  # how many next items are the target, and their decay
PENALTIES = (10.0, 50.0, 250.0)
DISCOUNTS = (0.0, 0.25, 0.5)

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """What is chosen on validation."""

    decay: float  # of the history, an item
    future: int  # next items in the target Y
    future_decay: float  # of the target, an item
    penalty: float
    discount: float
    floor: float = 1.0  # of log_scores

    @property
    def max_history(self) -> int:
        """Return how many of the newest items count: older ones would weigh less than LEAST_DECAY."""
        return min(MAX_HISTORY, 1 + int(np.log(LEAST_DECAY) / np.log(self.decay)))


START = Setting(0.85, 1, 1.0, 50.0, 0.0)


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A solved model: weights [M, M] between the covered rows [M] of a catalogue of N ≥ M items.

    The rows of weights are contiguous in memory, because scoring a history gathers the rows of its items. With
    contiguous columns that takes seconds (tests/bench/README.md, "Training").
    """

    weights: NDArray[np.float16]
    rows: NDArray[np.int64]
    n_items: int
    setting: Setting
    seconds: float = 0.0  # that choosing and solving took

    def scorer(self) -> Scorer:
        """Return what scores histories: rows int64 [B, T], -1 padding the left -> logits [B, N]."""
        predict, floor = self.predictor(), self.setting.floor
        return lambda rows: log_scores(torch.from_numpy(predict(rows)), floor).numpy()

    def predictor(self) -> Scorer:
        """Return what scorer takes the logarithm of: p [B, N] of histories [B, T]."""
        weights = self.weights.astype(np.float32)

        def predict(rows: torch.Tensor) -> Float32:
            features = _features(rows.numpy(), self.setting, self.n_items)
            scores = np.zeros((len(rows), self.n_items), dtype=np.float32)
            scores[:, self.rows] = features[:, self.rows] @ weights
            return scores

        return predict


def with_best_floor(model: LinearModel, question: Question) -> LinearModel:
    """Return the model with the floor under which the targets of a question are likeliest."""
    scores = score_all(question, model.predictor(), model.setting.max_history)
    return replace(model, setting=replace(model.setting, floor=best_floor(scores, question.target)))


def most_items(n_items: int, available: int | None) -> int:
    """Return for how many items of a catalogue a solution fits into memory. available: bytes; None: not known."""
    room = MAX_ITEMS if available is None else int((MEMORY_SHARE * available / BYTES_A_CELL) ** 0.5)
    return min(n_items, MAX_ITEMS, max(1_000, room))


def covered_rows(events: Events, n_items: int, count: int = MAX_ITEMS) -> NDArray[np.int64]:
    """Return the rows of the most popular items, at most count, in rising order."""
    popularity = np.bincount(events.item, minlength=n_items)
    return np.sort(np.argsort(-popularity, kind="stable")[:count])


@dataclass(frozen=True, eq=False)
class Problem:
    """The products that a solution needs, for one decay of the history.

    gram: XᵀX [M, M]. target: XᵀY [M, M] by (how many next items, their decay), both with contiguous columns, as LAPACK
    has them. rows: the covered rows [M]. Of several processes the first holds the whole gram, the others nothing of it,
    and each holds its own columns of the targets.
    """

    gram: Float32
    target: dict[tuple[int, float], Float32]
    popularity: Float32
    rows: NDArray[np.int64]
    n_items: int
    deal: Deal

    @classmethod
    def build(
        cls, events: Events, n_items: int, rows: NDArray[np.int64], decay: float, futures: Sequence[tuple[int, float]]
    ) -> "Problem":
        """Multiply the histories after all events that have a successor with themselves and with each future.

        Processes that train together all call it, and each computes its own columns.
        """
        deal = Deal.where_it_fits(len(rows), BYTES_A_CELL / MEMORY_SHARE * len(rows) ** 2, available_bytes())
        place = np.full(n_items, -1, dtype=np.int32)
        place[rows] = np.arange(len(rows))
        max_history = replace(START, decay=decay).max_history
        whole = Deal(len(rows)).zeros()
        gram = whole[:, deal.own] if ranks.is_first() else deal.zeros()
        targets = [deal.zeros() for _ in futures]
        for some in _pieces(Events(place[events.item], events.offset)):
            has_next = np.ones(len(some.item), dtype=bool)
            has_next[some.offset[1:][some.lengths() > 0] - 1] = False
            history = decayed_history(some, len(rows), decay, max_history)[has_next]
            _add_product(gram, history, history, deal)
            for target, (count, fading) in zip(targets, futures, strict=True):
                _add_product(target, history, _decayed_future(some, len(rows), fading, count)[has_next], deal)
        deal.gather(whole, gram)
        popularity = np.bincount(events.item, minlength=n_items)[rows].astype(np.float32) + 1
        return cls(whole, dict(zip(futures, targets, strict=True)), popularity, rows, n_items, deal)

    def solve(self, setting: Setting) -> LinearModel:
        """Return the model of (gram + penalty · 1)⁻¹ target / popularity^discount."""
        key = setting.future, setting.future_decay
        copy = replace(self, gram=self.gram.copy("F"), target={key: self.target[key].copy("F")})
        return copy.end(setting)

    def end(self, setting: Setting) -> LinearModel:
        """Do what solve does in the memory of the products, which are then gone.

        Of several processes the first returns the model, and every other one of its own columns alone.
        """
        deal, weights = self.deal, self.target[setting.future, setting.future_decay]
        if ranks.is_first():
            self.gram[np.diag_indices_from(self.gram)] += setting.penalty
        deal.solve(deal.factor(self.gram), weights)
        weights /= self.popularity[deal.own] ** setting.discount
        if not ranks.is_first():
            found = weights.astype(np.float16, order="F")
            deal.gather(found, found)
        else:
            found = np.empty((deal.side, deal.side), dtype=np.float16)  # rows contiguous; LAPACK's columns are
            deal.gather(found, weights)
        return LinearModel(found, self.rows, self.n_items, setting)


def fit_linear(events: Events, n_items: int, rows: NDArray[np.int64], setting: Setting) -> LinearModel:
    """Return the model of the given rows of the catalogue."""
    future = (setting.future, setting.future_decay)
    return Problem.build(events, n_items, rows, setting.decay, [future]).end(setting)


def choose_setting(
    events: Events, question: Question, rows: NDArray[np.int64], progress: Progress
) -> tuple[Setting, list[dict[str, float]]]:
    """Return the setting of highest NDCG@10 in answering the question with the given rows, and every trial.

    The decay is chosen first, then the target and the penalty, then the discount. Processes that train together all
    call it; the first ranks.
    """
    trials: list[dict[str, float]] = []

    def score(setting: Setting, problem: Problem) -> float:
        model = problem.solve(setting)
        trials.append(asdict(setting) | {"ndcg@10": ranks.alone(lambda: _reached(model, question))})
        bar.advance(1)
        return trials[-1]["ndcg@10"]

    with progress.bar("linear model", len(DECAYS) + len(FUTURES) * len(PENALTIES) + len(DISCOUNTS)) as bar:
        attempts = (
            (score(start, problem), start, problem)
            for start in (replace(START, decay=decay) for decay in DECAYS)
            for problem in [Problem.build(events, question.n_items, rows, start.decay, FUTURES)]
        )
        _, setting, problem = max(attempts, key=lambda attempt: attempt[0])
        grid = [
            replace(setting, future=future, future_decay=decay, penalty=penalty)
            for future, decay in FUTURES
            for penalty in PENALTIES
        ]
        setting = max(grid, key=lambda one: score(one, problem))
        setting = max((replace(setting, discount=one) for one in DISCOUNTS), key=lambda one: score(one, problem))
    return setting, trials


def _reached(model: LinearModel, question: Question) -> float:
    """Return the NDCG@10 of a model."""
    ranking = rank(question, model.scorer(), model.setting.max_history, with_top=False)
    return float(ndcg(ranking.ranks, 10).mean())


def decayed_history(events: Events, n_items: int, decay: float, max_history: int) -> csr_matrix:
    """Return the history x after each event [n_events, n_items]. Items of row -1 are left out."""
    age_of_first = np.arange(len(events.item)) - np.repeat(events.offset[:-1], events.lengths())
    return _shifted_sum(events.item, age_of_first, n_items, decay, range(max_history), -1)


def _decayed_future(events: Events, n_items: int, decay: float, count: int) -> csr_matrix:
    """Return the target y of each event [n_events, n_items]: the next items of the same user."""
    left = np.repeat(events.offset[1:], events.lengths()) - 1 - np.arange(len(events.item))
    return _shifted_sum(events.item, left, n_items, decay, range(1, count + 1), 1)


def _shifted_sum(
    item: NDArray[np.int32], room: NDArray[np.int64], n_items: int, decay: float, shifts: range, direction: int
) -> csr_matrix:
    """Return the sum over i of decay^i · onehot(the item at the distance shifts[i]), where there is room for it."""
    places = [np.flatnonzero((room >= shift) & (np.roll(item, -direction * shift) >= 0)) for shift in shifts]
    columns = [item[place + direction * shift] for place, shift in zip(places, shifts, strict=True)]
    values = [np.full(len(place), decay**power, dtype=np.float32) for power, place in enumerate(places)]
    where = (np.concatenate(places), np.concatenate(columns))
    return csr_matrix((np.concatenate(values), where), shape=(len(item), n_items))


def _pieces(events: Events) -> Iterator[Events]:
    """Return the events of some users at a time, about EVENTS_AT_ONCE of them."""
    first = 0
    while first < len(events.offset) - 1:
        start = events.offset[first]
        last = max(first + 1, int(np.searchsorted(events.offset, start + EVENTS_AT_ONCE, side="right")) - 1)
        yield Events(events.item[start : events.offset[last]], events.offset[first : last + 1] - start)
        first = last


def _add_product(out: Float32, left: csr_matrix, right: csr_matrix, deal: Deal) -> None:
    """Add the own columns of leftᵀ right to a dense matrix that has these alone.

    It is made of blocks of columns, because the sparse product of the whole is larger than the dense one.
    """
    transposed, columns = left.T.tocsr(), right.tocsc()
    for block in deal.blocks(BLOCK):
        at = slice(block.start - deal.own.start, block.stop - deal.own.start)
        out[:, at] += (transposed @ columns[:, block]).toarray(order="F")


def _features(rows: NDArray[np.int64], setting: Setting, n_items: int) -> csr_matrix:
    """Return the decayed histories x [B, n_items] of rows [B, T]."""
    newest = rows[:, -setting.max_history :]
    user, place = np.nonzero(newest >= 0)
    age = newest.shape[1] - 1 - place
    values = (setting.decay**age).astype(np.float32)
    return csr_matrix((values, (user, newest[user, place])), shape=(len(rows), n_items))
