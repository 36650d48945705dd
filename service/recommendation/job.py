"""What passes between the rooms of a recommendation: the query, its job, what was found of its user, the answer.

Each is made by one room and only read by the next: the endpoint makes the `Query`, the recommender the `Job`, the
lookup the `Found`, the ranker the `Ranking` with the `Answer`. They are not frozen, which would cost each request some
microseconds; nothing writes to them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from service.bundle import Float32
from service.catalogue.column import Mask
from service.model.catalogue import Catalogue
from service.recommendation.budget import Budget
from service.recommendation.rule import Rules
from service.search.addend import Addend, Standing
from service.search.protocol import Ranked
from service.tracing.span import Span
from service.user.record import Int32, Sight

if TYPE_CHECKING:
    import asyncio  # 4 MB, which service.library does without

NO_ROWS: Int32 = np.zeros(0, dtype=np.int32)


class Caller(Protocol):
    """Who asked. is_gone: hung up before the answer."""

    is_gone: bool


@dataclass(slots=True, eq=False)
class Query:
    """A checked request, in the caller's ids.

    mask: the rows that its filter lets through, bool [n_items]; None without a filter. fields: what is returned of each
    item beside its id and score. rules: what is asked of the list, if anything. is_explained: whether the parts of each
    score, and what carried each item, are told. similar_to: what is asked for are items that go with these, of which
    one at least is in the catalogue; a user or a history then makes the answer personal. visit: where
    several queries are one user's at one time. span: what the stages are recorded under, if they are.
    recommendation_id: of the answer, 32 hexadecimal digits. explore: the seed by which a place of the list goes to a
    live item; empty where none does. asked: the checked request, a scenario's fields included. trail: where the answer
    is to be kept so that it can be made again. n_items: of the catalogue when mask and rules were made; None: there are
    neither, or it has not grown since.
    """

    user_id: str | None
    k: int
    history: Sequence[str] | None
    exclude: Sequence[str]
    exclude_seen: bool
    candidates: Sequence[str] | None
    caller: Caller
    budget: Budget
    is_debug: bool = False
    mask: Mask | None = None
    fields: Sequence[str] = ()
    rules: Rules | None = None
    is_explained: bool = False
    similar_to: Sequence[str] = ()
    visit: "Visit | None" = None
    span: Span | None = None
    recommendation_id: str = ""
    explore: tuple[int, ...] = ()
    asked: Any = None
    trail: "Trail | None" = None
    n_items: int | None = None

    @property
    def depth(self) -> int:
        """How many of the best rows are looked at first."""
        return self.k if self.rules is None else self.rules.depth(self.k, is_counted=self.is_debug)


@dataclass(slots=True, eq=False)
class Taste:
    """What is known of a user: all rows seen, oldest first, int32, and the vector, float32 [dim], once encoded.

    last_at: the Unix time of the last event; NaN where it is not known. hidden: rows that the user does not want.
    is_partial: something of the user was with items that the bundle does not have.
    """

    seen: Int32 = field(default_factory=lambda: NO_ROWS)
    user: Float32 | None = None
    last_at: float = math.nan
    hidden: Int32 = field(default_factory=lambda: NO_ROWS)
    is_partial: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """A query on its way through a batch, in rows of the catalogue.

    taste: of the history that was given with the request; None where the stored one is to be looked up. boost: what is
    added to each item's score, float32 [n_items], if anything. placed: position to row, of the pins that stand.
    dropped: the ids of the pins that do not, because their items are not to be shown. mask: the rows that may be shown,
    bool [n_items]; None for all. withdrawn: rows that may not though there is no mask. anchors: rows; where there are
    any, what is asked for are items that go with them. n_items: of the catalogue when the query was made: it is not
    answered with what came later. None: as it is now.
    """

    query: Query
    future: "asyncio.Future[Answer]"
    taste: Taste | None
    candidates: Sequence[int] | None
    excluded: Sequence[int]
    ignored_ids: Sequence[str]
    boost: Float32 | None = None
    placed: Mapping[int, int] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    mask: Mask | None = None
    withdrawn: Int32 = field(default_factory=lambda: NO_ROWS)
    anchors: Sequence[int] = ()
    n_items: int | None = None

    def may_show(self, row: int) -> bool:
        """Whether a row can be pinned: not excluded, let through by the filter, and one of the candidates, if any."""
        if self.n_items is not None and row >= self.n_items:
            return False
        is_allowed = self.mask is None or bool(self.mask[row])
        is_candidate = self.candidates is None or row in self.candidates
        return is_allowed and is_candidate and row not in self.excluded and row not in self.withdrawn

    def drop_pins(self, unwanted: Int32) -> None:
        """Drop the pins of items that the user does not want: rows."""
        if not self.placed or not len(unwanted):
            return
        gone = [position for position, row in sorted(self.placed.items()) if row in unwanted]
        rules = self.query.rules
        self.dropped = [*self.dropped, *(rules.pins[position] for position in gone if rules)]
        self.placed = {position: row for position, row in self.placed.items() if position not in gone}

    def hidden(self, taste: Taste) -> Sequence[int] | Int32:
        """Return the rows that must not be shown to a user, but where they are pinned."""
        seen = taste.seen if self.query.exclude_seen else NO_ROWS
        if not self.excluded and not len(taste.hidden) and not len(self.withdrawn):
            return seen
        return [*self.excluded, *seen.tolist(), *taste.hidden.tolist(), *self.withdrawn.tolist()]

    def masked(self, taste: Taste) -> Sequence[int] | Int32:
        """Return the rows that must not be ranked: those that are hidden or pinned."""
        hidden = self.hidden(taste)
        return [*hidden, *self.placed.values()] if self.placed else hidden


def make_job(query: Query, catalogue: Catalogue, future: "asyncio.Future[Answer]") -> Job:
    """Return the job of a query: ids become rows, and the unknown ones are noted.

    A query of a page waits for those before it, and live items may come meanwhile: it is answered without them.
    """
    ignored: dict[str, None] = {}
    n_items = len(catalogue) if query.n_items is None else query.n_items
    mask, withdrawn = catalogue.live.restrict(query.mask, n_items)
    candidates = None
    if query.candidates is not None:
        candidates = [row for row in dict.fromkeys(_find(query.candidates, catalogue, ignored)) if row < n_items]
        if mask is not None:
            candidates = [row for row in candidates if mask[row]]
    excluded = _find(query.exclude, catalogue, ignored)
    taste = None
    if query.visit is not None and query.visit.found is not None:
        taste = query.visit.found.taste
    elif query.history is not None:
        taste = Taste(np.array(_find(query.history, catalogue, ignored), dtype=np.int32))
    elif query.user_id is None:
        taste = Taste()
    job = Job(query, future, taste, candidates, excluded, [], mask=mask, withdrawn=withdrawn, n_items=n_items)
    if query.similar_to:
        job.anchors = list(dict.fromkeys(_find(query.similar_to, catalogue, ignored)))
        job.excluded = [*excluded, *job.anchors]
    if query.rules is not None:
        _resolve(query.rules, job, catalogue, ignored)
    job.ignored_ids = list(ignored)
    return job


def _resolve(rules: Rules, job: Job, catalogue: Catalogue, ignored: dict[str, None]) -> None:
    """Turn what a request asks of its list into rows of the catalogue, and note the unknown ids."""
    job.boost = rules.total_boost(len(catalogue) if job.n_items is None else job.n_items)
    placed = {position: catalogue.find_row(item_id) for position, item_id in rules.pins.items()}
    ignored.update({item_id: None for position, item_id in rules.pins.items() if placed[position] is None})
    known = {position: row for position, row in placed.items() if row is not None}
    job.placed = {position: row for position, row in known.items() if job.may_show(row)}
    job.dropped = [rules.pins[position] for position in sorted(known) if position not in job.placed]


def _find(item_ids: Sequence[str], catalogue: Catalogue, ignored: dict[str, None]) -> list[int]:
    """Return the rows of the known ids, and note the unknown ones."""
    if not item_ids:
        return []
    rows, unknown = catalogue.find_rows(item_ids)
    ignored.update(dict.fromkeys(unknown))
    return rows


@dataclass(slots=True, eq=False)
class Found:
    """What was found of a job's user.

    level, reasons: of the answer, as far as the lookup decides them. sight: of a user without a fresh record, so that
    one is worth keeping. store_s: how long the store took; None where it was not asked. n_erasures: how many erasures
    this process had seen before the store was asked; what was found is kept only while there was no other.
    """

    job: Job
    taste: Taste
    level: str = "full"
    reasons: tuple[str, ...] = ()
    sight: Sight | None = None
    store_s: float | None = None
    n_erasures: int = -1


@dataclass(frozen=True, slots=True)
class Cause:
    """An item of the history that carried an item of the answer: a row.

    share: its part of what carried the item. rank: the item's position in the list without it, from 1 over all pages;
    None where it is not on the page.
    """

    row: int
    share: float
    rank: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What carried each item of an answer, the greatest part first, or why that is left out.

    without: the rows of the list without an item of the history, by row of that.
    """

    because: Sequence[Sequence[Cause]] = ()
    without: Mapping[int, Sequence[int]] = field(default_factory=dict)
    left_out: str | None = None


@dataclass(slots=True)
class Visit:
    """What queries of one user at one time share, so that it is looked up and encoded once.

    found: what the first one has found, its vector included; None before it is answered.
    """

    found: Found | None = None

    def note(self, found: Found, user: Float32 | None) -> None:
        """Keep what a query has found, unless one before it has. user: the vector, float32 [dim], if it is known."""
        if self.found is None:
            self.found = replace(found, taste=replace(found.taste, user=user), sight=None, store_s=None)


def known(job: Job) -> Found:
    """Return what is found of a job whose user's taste is known without the store."""
    visit = job.query.visit
    if visit is not None and visit.found is not None:
        return replace(visit.found, job=job)
    return Found(job, job.taste or Taste())


@dataclass(slots=True, eq=False)
class Answer:
    """The items, best first, and how they came about.

    funnel: how many items were left after each step, where it was asked for or the items are fewer than k. parts: of
    each item's score, if they were asked for. explanation: if it was asked for. dropped_pins: ids of pinned items that
    are not to be shown. explored: the place of the item that is shown to learn of it, from 0; None where there is none.
    """

    ranked: Ranked = ((), np.zeros(0, dtype=np.float32))
    level: str = "full"
    reasons: list[str] = field(default_factory=list)
    ignored_ids: list[str] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)
    funnel: dict[str, int] = field(default_factory=dict)
    parts: list[dict[str, float]] = field(default_factory=list)
    explanation: Explanation | None = None
    dropped_pins: Sequence[str] = ()
    explored: int | None = None


@dataclass(slots=True, eq=False)
class Ranking:
    """How a job is answered. Only the ranker writes to it.

    user: the vector, float32 [dim], once it is known. at: the Unix time of its scores. addend: what is added to the
    scores, once it is known. following: the vector of a history of the job's anchors alone, if it has any, once it
    is known. shape_s: what rules took.
    """

    found: Found
    answer: Answer
    user: Float32 | None
    at: float
    is_done: bool = False
    addend: Addend | None = None
    following: Float32 | None = None
    shape_s: float = 0.0

    def take(self, encoded: Float32) -> None:
        """Take what the encoder made of to_encode(), float32 [1 or 2, dim]; see service.recommendation.similar."""
        vectors = [each.copy() for each in encoded]  # remembered, a view would keep the whole batch
        if self.job.anchors:
            self.following = vectors.pop(0)
        if vectors:
            (self.user,) = vectors

    @property
    def vector(self) -> Float32:
        """The user's vector, float32 [dim]; not asked of one that is answered without."""
        assert self.user is not None  # noqa: S101  # encoded, or answered already
        return self.user

    @property
    def job(self) -> Job:
        """The job that is answered."""
        return self.found.job

    def masked(self, n_rows: int) -> Sequence[int] | Int32:
        """Return the rows that must not be ranked: of n_rows also those that came since the query was made."""
        masked, n_items = self.found.job.masked(self.found.taste), self.found.job.n_items
        return masked if n_items in (None, n_rows) else [*masked, *range(n_items or 0, n_rows)]


@dataclass(slots=True, eq=False)
class Trail:
    """What an answer was made of, for whoever keeps that.

    Such a query is ranked alone, as it is when its answer is made again: in a batch the last digits of a score depend
    on how many others are in it. standing, live_serial: of the catalogue when the query was made. ranking: None until
    the answer is handed out.
    """

    standing: Standing | None
    live_serial: int
    ranking: Ranking | None = None
