"""What every model is given beside the history: the neighbours' table and the trend, in training and when it is asked.

At a training position the trend is that of the newest snapshot strictly before the event that is to be predicted, and
the table speaks for the history up to there. A request is given the exact counts strictly before it. How it adds up is
service/bundle/score.py, in training with a weight of taste of 1 and one weight of the trend, which is learned.

Letters: P positions, B requests, N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from service.bundle import Gap, Neighbours, Parts, ScoreRule, add_up
from training.data.event import Events, Int64
from training.data.prepared import Prepared, all_events, training_events
from training.data.split import TRAIN
from training.data.trend import LiveCounts, Trend, live_counts, snapshots
from training.evaluation.judge import AskedScorer, Scorer, with_popularity
from training.evaluation.question import Question
from training.model.device import choose_device
from training.model.encoder import SequenceModel
from training.model.given import ALL

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Positions:
    """The events that a model is trained on, and when each was followed by the next one."""

    events: Events
    next_ms: Int64  # [n_events]; of a user's last event its own time, which is never a position


@dataclass(frozen=True)
class Given:
    """What is given. parts: the table and the rule, of which the gap's weights stand for what is learned or fitted."""

    prepared: Prepared
    parts: Parts
    on_everything: bool = False  # the positions are the events of every part, as in a refit

    @cached_property
    def live(self) -> LiveCounts:
        """The exact counts of the trend at any time."""
        return live_counts(self.prepared, self._half_life())

    def add(self, model: SequenceModel, logits: Tensor, event: Tensor, columns: slice = ALL) -> Tensor:
        """Return logits [P, N] after events [P] with the table and the trend added. See training.model.given."""
        logits = logits.float()
        table = self.table_at(event.numpy())
        if table is not None:
            logits = logits + table[:, columns].to(logits.device)
        if self.parts.rule.trend is None or model.trend_weight is None:
            return logits
        return logits + model.trend_weight * self.trend_at(event, columns).to(logits.device)

    def trend_at(self, event: Tensor, columns: slice = ALL) -> Tensor:
        """Return log(count + e) of items before the events that follow the given ones: [P] -> [P, N of columns].

        It lies on the GPU where there is one.
        """
        ms = self._positions.next_ms[event.numpy()]
        if self._snapshots is None or self._logs is None:
            return torch.from_numpy(self._log(self.live.before(ms)[:, columns]))
        place = torch.from_numpy(self._snapshots.place(ms)).to(self._logs.device)
        return self._logs.index_select(0, place)[:, columns].float()

    def table_at(self, event: Int64) -> Tensor | None:
        """Return what the table says after training events [P], of every item [P, N]; None without a table.

        It lies on the GPU where there is one.
        """
        rule = self.parts.rule.neighbours
        if rule is None:
            return None
        source = event[:, None] - np.arange(rule.depth)
        position, age = np.nonzero(source >= self._first[event][:, None])
        items = self._positions.events.item[source[position, age]].astype(np.int64)
        steps = (rule.weight * rule.decay**age).astype(np.float32)
        return self._table.add_up(position, items, steps, len(event))

    def scorer(self, question: Question, score: Scorer, rule: ScoreRule, columns: slice = ALL) -> AskedScorer:
        """Return the scorer of a question that adds to a scorer's taste what is given, by a rule.

        columns: the items that the scorer scores.
        """
        near = self.parts.neighbours
        parts = replace(self.parts, rule=rule, neighbours=None if near is None else speaking_for(near, columns))
        asked_ms, gap = question.asked_ms, question.gap
        assert asked_ms is not None and gap is not None  # noqa: S101  # made by ask()

        def asked(places: Int64, rows: Tensor) -> Float32:
            histories = [row[row >= 0] for row in rows.numpy()]
            counts = self.live.before(asked_ms[places])[:, columns] if rule.trend else None
            return add_up(parts, taste(places, rows), histories, gap[places], counts).whole

        taste = with_popularity(question, score, columns) if rule.trend is None else lambda _, rows: score(rows)
        return asked

    def logs_of(self, question: Question) -> Float32:
        """Return log(count + e) of every item at the time of each request of a question [U, N]."""
        assert question.asked_ms is not None  # noqa: S101  # made by ask()
        return self._log(self.live.before(question.asked_ms))

    def with_trend(self, weight: float) -> "Given":
        """Return the same with the rule of a model that was trained with a weight of the trend."""
        return replace(self, parts=replace(self.parts, rule=self.rule_of(weight)))

    def rule_of(self, trend_weight: float) -> ScoreRule:
        """Return the rule of a model as it was trained."""
        return replace(self.parts.rule, gap=Gap([0.0], [1.0], [trend_weight], 0.0))

    def _half_life(self) -> float:
        trend = self.parts.rule.trend
        assert trend is not None  # noqa: S101  # asked of a trend only
        return trend.half_life_s

    def _log(self, counts: Float32) -> Float32:
        trend = self.parts.rule.trend
        assert trend is not None  # noqa: S101  # asked of a trend only
        return trend.log(counts)

    @cached_property
    def _snapshots(self) -> Trend | None:
        return snapshots(self.prepared, self._half_life())

    @cached_property
    def _logs(self) -> Tensor | None:
        """The logarithms of all snapshots as float16 [S, N], where there are snapshots."""
        if self._snapshots is None:
            return None
        return torch.from_numpy(self._log(self._snapshots.counts).astype(np.float16)).to(choose_device())

    @cached_property
    def _positions(self) -> Positions:
        prepared = self.prepared
        events = all_events(prepared) if self.on_everything else training_events(prepared)
        ms = prepared.timestamp_ms if self.on_everything else prepared.timestamp_ms[prepared.part == TRAIN]
        return Positions(events, np.append(ms[1:], ms[-1:]))

    @cached_property
    def _first(self) -> Int64:
        events = self._positions.events
        return np.repeat(events.offset[:-1], events.lengths())

    @cached_property
    def _table(self) -> "Table":
        near = self.parts.neighbours
        assert near is not None  # noqa: S101  # asked of a table only
        return Table.of(near)


@dataclass(frozen=True, eq=False)
class Table:
    """The neighbours' table on the device that trains.

    rows: int64 [N, M], each item's neighbours. weights: float32 [N, M], 0 where there is no neighbour.
    """

    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, near: Neighbours) -> "Table":
        """Return the table of the form that is served."""
        weights = np.where(near.rows >= 0, near.weights * near.scales[:, None], 0.0).astype(np.float32)
        rows, device = np.maximum(near.rows, 0).astype(np.int64), choose_device()
        return cls(torch.from_numpy(rows).to(device), torch.from_numpy(weights).to(device))

    def add_up(self, position: Int64, items: Int64, steps: Float32, n_positions: int) -> Tensor:
        """Return what items [E] of the histories at positions [E] say together, each times its step [E]: [P, N]."""
        n_items, device = len(self.rows), self.rows.device
        own, row, step = (torch.from_numpy(values).to(device) for values in (position, items, steps))
        cells = own[:, None] * n_items + self.rows[row]
        said = torch.zeros(n_positions * n_items, device=device)
        said.index_add_(0, cells.ravel(), (step[:, None] * self.weights[row]).ravel())
        return said.view(n_positions, n_items)


def to_neighbours(rows: NDArray[np.int32], weights: Float32) -> Neighbours:
    """Return the table of weights [N, M] of neighbours' rows [N, M] (-1: none), rounded to int8 with a scale a row."""
    weights = np.where(rows >= 0, weights, 0.0).astype(np.float32)
    scales = np.maximum(np.abs(weights).max(axis=1, initial=0.0) / 127, 1e-12).astype(np.float32)
    return Neighbours(rows, np.rint(weights / scales[:, None]).astype(np.int8), scales)


def to_sparse(near: Neighbours) -> csr_array:
    """Return the table as a sparse matrix [N, N]: row of the history, column of what it speaks for."""
    n_items, width = near.rows.shape
    real = near.rows >= 0
    weights = near.weights * near.scales[:, None]
    owner = np.repeat(np.arange(n_items), width).reshape(n_items, width)
    return csr_array((weights[real], (owner[real], near.rows[real])), shape=(n_items, n_items), dtype=np.float32)


def speaking_for(near: Neighbours, columns: slice) -> Neighbours:
    """Return the table in which every item speaks for the items of columns alone, numbered from the first of them."""
    if columns == ALL:
        return near
    is_inside = (near.rows >= columns.start) & (near.rows < columns.stop)
    return replace(near, rows=np.where(is_inside, near.rows - columns.start, -1).astype(np.int32))


def trend_weight_of(model: SequenceModel) -> float:
    """Return the weight of the trend that a model learned; 1 where it learned none."""
    return 1.0 if model.trend_weight is None else float(model.trend_weight.detach())


def keep_parts(rule: ScoreRule, names: Sequence[str]) -> ScoreRule:
    """Return the rule with some of its parts alone."""
    return replace(
        rule,
        has_taste="taste" in names,
        neighbours=rule.neighbours if "neighbours" in names else None,
        trend=rule.trend if "trend" in names else None,
    )
