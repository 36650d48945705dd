"""POST /recommend/batch and POST /page: many lists at once, each as POST /recommend would give it.

ASGI applications that the gate calls straight, as it does for one list.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.toll import Toll
from service.errors import FieldError, RequestError
from service.experiment.answer_id import new_answer_id
from service.http.answer import AnswerWriter, PageAnswer
from service.http.defaults import Defaults
from service.http.message import read_json
from service.http.query import SIMILAR, Asking, check_anchors
from service.http.recommend import ListEndpoint, note_answer
from service.metrics import Metrics
from service.recommendation.budget import BudgetRule
from service.recommendation.exploration import Explored
from service.recommendation.job import Answer, Query, Visit
from service.recommendation.page import fill_slots
from service.release.generation import Generation, Generations
from service.request.many import PageRequest, parse_batch, parse_page
from service.request.recommend import parse_recommend
from service.scenario.book import ScenarioBook
from service.wire.reply import BUG, RawHeaders, error_body, error_reply, send_reply
from service.wire.trace import Trace

BATCH_BODY_BYTES = 4 << 20
PAGE_BODY_BYTES = 1 << 20
MOST_EXPLAINED = 1000
"""So many items of all answers of a batch are explained at most: each names up to three lists of k items."""
_AT_ONCE = 32
_LOGGER = logging.getLogger(__name__)
NameUser = Callable[[str], dict[str, str]] | None
Answering = Callable[[str | None], Generation]


@dataclass(frozen=True, slots=True)
class Means:
    """What answers are made with.

    rule: makes the budget of a request. toll: what many lists weigh. explored: says which lists are.
    """

    generations: Generations
    metrics: Metrics
    rule: BudgetRule
    toll: Toll
    book: ScenarioBook
    explored: Explored

    def recommending(self) -> Asking:
        """Return how one list is asked for."""
        return Asking("/recommend", parse_recommend, Defaults(self.book, self.metrics).make)

    def make(self, asking: Asking, asked: Any, generation: Generation, trace: Trace) -> Query:
        """Return the query of one of many requests to a generation. Raises RequestError."""
        try:
            return asking.make(asked, generation, self.rule, trace, self.metrics)
        except RequestError as exc:
            if generation.part is not None:
                generation.part.note_failure(self.metrics, asked.user_id, exc)
            raise

    def count(self, query: Query, answer: Answer, generation: Generation) -> None:
        """Count an answer of a generation that is ready now."""
        reason, now = answer.reasons[0] if answer.reasons else "none", time.monotonic()
        is_within = query.budget.is_kept(now)
        self.metrics.count_answer(answer.level, reason, is_within=is_within)
        generation.catalogue.shown.note(answer.ranked[0])
        if answer.explored is not None:
            self.metrics.explored.inc()
        if generation.part is not None:
            generation.part.note(self.metrics, query, answer, now - query.budget.arrived, is_within=is_within)


class _ManyEndpoint(ABC):
    """Answers a body with one JSON."""

    path: str
    _most_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whose body is still to come."""
        trace: Trace = scope["retort"]
        reply: tuple[int, bytes, RawHeaders]
        try:
            body = await read_json(scope, receive, self._most_bytes)
            trace.began = time.monotonic()
            reply = 200, await self._answer(body, trace), ()
        except RequestError as exc:
            reply = error_reply(exc)
        except Exception as exc:  # a border: a bug must still be answered
            _LOGGER.error("a bug in %s", self.path, exc_info=exc)
            reply = error_reply(BUG)
        await send_reply(send, *reply)

    @abstractmethod
    async def _answer(self, body: bytes, trace: Trace) -> bytes:
        """Return the JSON that answers a body. Raises RequestError."""


class BatchEndpoint(_ManyEndpoint):
    """Answers POST /recommend/batch. Each request has its own budget, from the arrival of all."""

    path, _most_bytes = "/recommend/batch", BATCH_BODY_BYTES

    def __init__(self, means: Means) -> None:
        self._means, self._asking, self._writer = means, means.recommending(), AnswerWriter()

    async def _answer(self, body: bytes, trace: Trace) -> bytes:
        listed = parse_batch(body)
        self._means.toll.charge(trace.caller, len(listed))
        with self._means.generations.held() as answering:  # to the end, whatever is swapped meanwhile
            return await self._answer_all(listed, answering, trace)

    async def _answer_all(self, listed: Sequence[bytes], answering: Answering, trace: Trace) -> bytes:
        answers: list[bytes] = []
        n_refused, room = 0, _Room(MOST_EXPLAINED)
        while left := listed[len(answers) :]:
            n_taken, start = self._means.toll.take(trace.caller, min(len(left), _AT_ONCE)), time.monotonic()
            try:
                begun = self._begin(left[:n_taken], answering, trace, room)
                futures = [each[2] for each in begun if isinstance(each, tuple)]
                await asyncio.gather(*futures, return_exceptions=True)
            finally:
                self._means.toll.give_back(trace.caller, n_taken, time.monotonic() - start)
            n_refused += len(begun) - len(futures)
            for each in begun:
                answers.append(each if isinstance(each, bytes) else self._render(*each, trace))
                await asyncio.sleep(0)  # others are answered meanwhile
        trace.fields = {"answers": len(answers), "refused": n_refused}
        return b'{"answers":[' + b",".join(answers) + b"]}"

    def _begin(
        self, listed: Sequence[bytes], answering: Answering, trace: Trace, room: "_Room"
    ) -> list[tuple[Query, Generation, "asyncio.Future[Answer]"] | bytes]:
        """Begin to answer some requests: the query, who answers it and the future, or the error of a refused one."""
        begun: list[tuple[Query, Generation, asyncio.Future[Answer]] | bytes] = []
        for body in listed:
            try:
                asked = self._asking.parse(body)
                generation = answering(asked.user_id)
                query = self._means.make(self._asking, asked, generation, trace)
                room.take(query)
                _begin_part(query, trace, "answer")
            except RequestError as exc:
                begun.append(error_body(exc))
            else:
                query.recommendation_id = new_answer_id(generation.version)
                self._means.explored.mark(query, generation.catalogue)
                begun.append((query, generation, generation.recommender.recommend(query)))
        return begun

    def _render(self, query: Query, generation: Generation, future: "asyncio.Future[Answer]", trace: Trace) -> bytes:
        try:
            answer = future.result()
        except RequestError as exc:
            return error_body(exc)
        except Exception as exc:  # a border: the other answers are good
            if generation.part is not None:
                generation.part.note_failure(self._means.metrics, query.user_id, exc)
            _LOGGER.error("a bug in %s", self.path, exc_info=exc)
            return error_body(BUG)
        start = time.monotonic()
        self._means.count(query, answer, generation)
        body = self._writer.write(query, answer, generation, start - trace.arrived)
        if query.span is not None:
            query.span.end = time.monotonic()
            query.span.add("serialize", start, query.span.end)
            note_answer(query.span, answer, generation)
        return body


@dataclass(slots=True)
class _Room:
    """How many items of a batch may still be explained."""

    n_left: int

    def take(self, query: Query) -> None:
        """Take the room of a query, if it is to be explained. Raises FieldError where there is none left for it."""
        if query.is_explained and query.k > self.n_left:
            text = (
                f"of a batch {MOST_EXPLAINED} items are explained at most, and {self.n_left} are left: ask for it alone"
            )
            raise FieldError("explain", text)
        self.n_left -= query.k if query.is_explained else 0


class PageEndpoint(_ManyEndpoint):
    """Answers POST /page: one user, one budget, one look into the store."""

    path, _most_bytes = "/page", PAGE_BODY_BYTES

    def __init__(self, means: Means, name_user: NameUser) -> None:
        """name_user: returns the fields by which the log names a user; None where requests are not logged."""
        self._means, self._asking = means, means.recommending()
        self._name_user, self._writer = name_user, AnswerWriter()

    async def _answer(self, body: bytes, trace: Trace) -> bytes:
        asked = parse_page(body)
        self._means.toll.charge(trace.caller, len(asked.slots))
        with self._means.generations.held() as answering:
            return await self._answer_by(answering(asked.user_id), asked, trace)

    async def _answer_by(self, generation: Generation, asked: PageRequest, trace: Trace) -> bytes:
        budget, visit = self._means.rule.start(trace.arrived, asked.budget_ms), Visit()
        queries, recommendation_id = [], new_answer_id(generation.version)
        for place, request in enumerate(asked.requests()):
            try:
                query = self._means.make(self._asking, request, generation, trace)
            except FieldError as exc:
                raise FieldError(f"slots.{place}.{exc.field}", exc.text) from exc
            if anchors := asked.slots[place].anchors():
                query.similar_to = anchors
                check_anchors(f"slots.{place}.similar_to", anchors, generation)
            query.budget, query.visit, query.recommendation_id = budget, visit, recommendation_id
            self._means.explored.mark(query, generation.catalogue, place)
            _begin_part(query, trace, "slot")
            queries.append(query)
        answers = await fill_slots(queries, generation.recommender, generation.catalogue, is_distinct=asked.distinct)
        for query, answer in zip(queries, answers, strict=True):
            self._means.count(query, answer, generation)
            if query.span is not None:
                note_answer(query.span, answer, generation)
        page = PageAnswer(recommendation_id, [slot.name for slot in asked.slots], queries, answers)
        self._note(page, trace)
        start = time.monotonic()
        body = self._writer.write_page(page, generation, start - trace.arrived)
        if trace.span is not None:
            trace.span.add("serialize", start, time.monotonic())
        return body

    def _note(self, page: PageAnswer, trace: Trace) -> None:
        """Say what the log line says of a page."""
        if self._name_user is None:
            return
        user_id = page.queries[0].user_id
        named: dict[str, Any] = self._name_user(user_id) if user_id is not None else {}
        levels = sorted({answer.level for answer in page.answers})
        trace.fields = {
            "recommendation_id": page.recommendation_id, **named, "levels": levels, "slots": len(page.names),
        }  # fmt: skip


def list_endpoints(means: Means, name_user: NameUser) -> tuple[ListEndpoint, dict[str, ASGIApp]]:
    """Return what answers POST /recommend, and what answers requests for lists, by path.

    name_user: returns the fields by which the log names a user; None where requests are not logged.
    """
    recommend, similar = (
        ListEndpoint(asking, means.generations, means.metrics, means.rule, means.explored, name_user)
        for asking in (means.recommending(), SIMILAR)
    )
    many = (BatchEndpoint(means), PageEndpoint(means, name_user))
    return recommend, {"/recommend": recommend, SIMILAR.path: similar, **{each.path: each for each in many}}


def _begin_part(query: Query, trace: Trace, name: str) -> None:
    """Record one list of several as a part of the request, with its own stages."""
    if trace.span is not None:
        query.span = trace.span.add(name, time.monotonic())
