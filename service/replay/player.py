"""Makes a kept answer again: with the version that gave it, which must give the same bytes, or with another one.

A version is loaded as the service loads it. It is given the live items, the counts of the trend and the time of the
answer; the request is answered with the history that was read then, alone and without a deadline. The scores are the
same to the last digit on the same kind of processor.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import orjson

from service.bundle import Float32
from service.catalogue.live_item import LiveItem
from service.http.answer import AnswerWriter
from service.http.query import SIMILAR, make_query
from service.metrics import Metrics
from service.model.model import load_model
from service.recommendation.budget import Budget, BudgetRule
from service.recommendation.explanation import Explainer
from service.recommendation.job import Answer, Found, Query, Taste, make_job
from service.recommendation.observer import Unwatched
from service.recommendation.ranker import Ranker
from service.release.aside import Aside
from service.release.generation import Generation
from service.release.record import OWN_NUMBER
from service.replay.record import KeptAnswer, Surroundings, without_times
from service.request.recommend import parse_recommend
from service.search.choice import Kind
from service.user.record import Int32
from service.wire.trace import Trace

if TYPE_CHECKING:
    import asyncio

    from service.recommendation.recommender import Recommender

_AT_ONCE = 50
_MOST_NAMED = 10
_UNLIKE = 1e-3
_STALE_S = 1e9
_WITHOUT_MODEL = frozenset({"deadline", "model_error", "nonfinite_scores"})
_LOST = LiveItem(0.0, "put", {"expires_at": 0.0})
"""Stands for a new item that was withdrawn and let go of: nothing is known of it but that it had a row."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """An answer that was made again. body: without times. parts: of each item's score. notes: what to know of it."""

    body: str
    parts: Sequence[Mapping[str, float]]
    notes: Sequence[str]


class Player:
    """One version, loaded to make answers again. version: its name."""

    def __init__(self, path: Path, *, kind: Kind, codes: Path, metrics: Metrics) -> None:
        """path: of the bundle. kind, codes: as the service searches. Raises StartError."""
        model = load_model(path, kind=kind, codes=codes, warn=lambda message: None)
        self._catalogue, self._student, self._metrics = model.catalogue, model.student, metrics
        self._at = time.time()
        self._lost: frozenset[str] = frozenset()
        unwatched = Unwatched()
        self._ranker = Ranker(
            model.student, model.catalogue, unwatched, max_history=model.manifest.max_history, clock=lambda: self._at
        )
        self._explainer = Explainer(self._ranker, model.student, unwatched)
        nobody = cast("Recommender", None), cast("Aside", None)  # nobody asks it
        self._generation = Generation(model.manifest, model.catalogue, *nobody, OWN_NUMBER)
        self.version = model.manifest.version

    def counts_by_id(self, around: Surroundings) -> dict[str, float]:
        """Return the counts of surroundings of this version by item id, without those of nothing."""
        item_ids = [*self._catalogue.item_ids[: self._catalogue.n_made], *around.live_ids]
        rows = np.flatnonzero(around.counts[: len(item_ids)]).tolist()
        return {item_ids[row]: float(around.counts[row]) for row in rows}

    def surround(
        self, kept: KeptAnswer, around: Surroundings, live: Mapping[str, LiveItem], counts: Mapping[str, float] | None
    ) -> list[str]:
        """Let live items, trend and time be those of a kept answer; return what of that could not be had.

        live: the records, those of live_ids first and in their order. counts: by item id; None where the version of
        the answer is not at hand to say which items they are of.
        """
        self._at = kept.at
        items = list(self._with_lost(around.live_ids, live).items())
        for first in range(0, max(1, len(items)), _AT_ONCE):
            self._catalogue.take_live(dict(items[first : first + _AT_ONCE]), kept.at)
        parts, notes = self._catalogue.parts, []
        if parts is None or parts.rule.trend is None:
            return []
        if kept.version == self.version:
            now: Float32 = around.counts
        elif counts is not None and len(around.counts):
            now = np.zeros(len(self._catalogue), dtype=np.float32)
            for item_id, count in counts.items():
                if (row := self._catalogue.find_row(item_id)) is not None:
                    now[row] = count
            notes.append("the trend is that of the answer, as its version counted it")
        else:
            now = parts.counts_at(kept.at)
            notes.append("the trend is that of the bundle, faded to then: the answer's is not known")
        is_stale = "stale_trend" in orjson.loads(kept.answer)["quality"]["reasons"]
        self._catalogue.set_counts(now, kept.at - _STALE_S if is_stale else math.inf)
        return notes

    def _with_lost(self, live_ids: Sequence[str], live: Mapping[str, LiveItem]) -> dict[str, LiveItem]:
        """Return live items with those of which nothing is kept any more, so that each has the row that it had."""
        new = [each for each in live_ids if not self._catalogue.is_made(each)]
        self._lost = frozenset(
            each for each in new if each not in live or not live[each].applies_to(is_known=False, bundle_at=0.0)
        )
        rows = {each: _LOST if each in self._lost else live[each] for each in new}
        return {**rows, **{each: record for each, record in live.items() if each not in rows}}

    async def answer(self, kept: KeptAnswer) -> Replayed:
        """Make an answer again. Raises RequestError where this version cannot be asked so."""
        query = self._query(kept)
        found, notes = self._found(kept, query)
        body, _ = await self._ask(found)
        query.is_debug = True
        _, parts = await self._ask(found)
        return Replayed(without_times(body), parts, [*notes, *_notes_of(kept)])

    async def _ask(self, found: Found) -> tuple[bytes, list[dict[str, float]]]:
        (ranking,) = self._ranker.rank([found])
        query = found.job.query
        if query.is_explained:
            await self._explainer.explain(ranking)
        return AnswerWriter().write(query, ranking.answer, self._generation, 0.0), ranking.answer.parts

    def _query(self, kept: KeptAnswer) -> Query:
        parse, make = (SIMILAR.parse, SIMILAR.make) if kept.path == SIMILAR.path else (parse_recommend, make_query)
        trace, rule = Trace(time.monotonic()), BudgetRule(math.inf, 1.0)
        query = make(parse(kept.asked.encode()), self._generation, rule, trace, self._metrics)
        query.budget = Budget(trace.arrived, math.inf, math.inf)
        query.recommendation_id, query.explore = kept.recommendation_id, tuple(kept.explore)
        return query

    def _found(self, kept: KeptAnswer, query: Query) -> tuple[Found, list[str]]:
        """Return what was found of the user, in rows of this version, and what is odd about it."""
        job = make_job(query, self._catalogue, cast("asyncio.Future[Answer]", None))  # nobody waits for it
        taste = job.taste or Taste(self._rows(kept.seen), None, kept.last_at, self._rows(kept.hidden))
        found = Found(job, taste, kept.level, tuple(kept.reasons))
        if kept.vector is None or kept.version != self.version:
            return found, self._notes_of_lost([*job.anchors, *taste.seen.tolist()])
        (made,) = self._student.encode([taste.seen[-self._ranker.max_history :].tolist()])
        taste.user = kept.vector
        off = float(np.abs(made - kept.vector).max()) / max(float(np.abs(made).max()), 1e-12)
        text = f"the cached vector of the user is not what the version makes of this history: off by {off:.1%}"
        return found, [*([text] if off > _UNLIKE else []), *self._notes_of_lost(job.anchors)]

    def _notes_of_lost(self, rows: Sequence[int]) -> list[str]:
        """Return what is odd where an answer was made of items of which nothing is kept any more: rows."""
        item_ids = self._catalogue.item_ids
        used = [each for each in dict.fromkeys(item_ids[row] for row in rows) if each in self._lost]
        named = ", ".join(used[:_MOST_NAMED]) + (", ..." if len(used) > _MOST_NAMED else "")
        return [f"items of which nothing is kept count as the mean of all items: {named}"] if used else []

    def _rows(self, item_ids: Sequence[str]) -> Int32:
        return np.array(self._catalogue.find_rows(item_ids)[0], dtype=np.int32)


def _notes_of(kept: KeptAnswer) -> list[str]:
    """Return why an answer cannot come out as it was given."""
    fields: dict[str, Any] = orjson.loads(kept.answer)
    reasons = sorted(_WITHOUT_MODEL.intersection(fields["quality"]["reasons"]))
    notes = []
    if reasons:
        notes.append(f"it was answered without the model ({', '.join(reasons)}): this is what it would have been else")
    if fields.get("explanation", {}).get("left_out") in _WITHOUT_MODEL:
        notes.append(f"its explanation was left out ({fields['explanation']['left_out']})")
    return notes
