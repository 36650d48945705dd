"""POST /recommend and POST /similar, from bytes to bytes: the body is validated once, the answer is put together once.

An ASGI application of its own, because FastAPI's routing, dependency and response layers cost as much as the answer;
and where the whole request is here already, not even that. The gate calls it straight; api lists its paths, so that the
OpenAPI document stays whole.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from service.access.toll import Toll
from service.errors import RequestError
from service.experiment.answer_id import new_answer_id
from service.http.answer import AnswerWriter
from service.http.defaults import Defaults
from service.http.message import read_json
from service.http.query import Asking
from service.metrics import Metrics
from service.recommendation.budget import BudgetRule
from service.recommendation.exploration import Explored
from service.recommendation.job import Answer, Query
from service.release.generation import Generation, Generations
from service.request.recommend import parse_recommend
from service.scenario.book import ScenarioBook
from service.tracing.span import Span
from service.wire.reply import BUG, RawHeaders, Reply, error_reply, send_reply
from service.wire.trace import Trace

BODY_BYTES = 1 << 20
_LOGGER = logging.getLogger(__name__)


class Recorder(Protocol):
    """Keeps answers so that they can be made again."""

    def mark(self, query: Query, generation: Generation) -> None:
        """Say in a query whether its answer is to be kept."""

    def take(self, path: str, query: Query, generation: Generation, body: bytes) -> None:
        """Keep an answer that was sent, if it was marked."""


@dataclass(frozen=True, slots=True)
class Means:
    """What answers are made with.

    rule: makes the budget of a request. toll: what many lists weigh. explored: says which lists are.
    recorder: None where no answer is kept.
    """

    generations: Generations
    metrics: Metrics
    rule: BudgetRule
    toll: Toll
    book: ScenarioBook
    explored: Explored
    recorder: Recorder | None = None

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
        count_answer(self.metrics, query, answer, generation, time.monotonic())


def count_answer(metrics: Metrics, query: Query, answer: Answer, generation: Generation, now: float) -> None:
    """Count an answer in all metrics of answers. now: when it was ready, in monotonic seconds."""
    is_within = query.budget.is_kept(now)
    metrics.count_answer(answer.level, answer.reasons[0] if answer.reasons else "none", is_within=is_within)
    generation.catalogue.shown.note(answer.ranked[0])
    if answer.explored is not None:
        metrics.explored.inc()
    if generation.part is not None:
        generation.part.note(metrics, query, answer, now - query.budget.arrived, is_within=is_within)


class ListEndpoint:
    """Answers requests for a list that are made in one way."""

    def __init__(self, asking: Asking, means: Means, name_user: Callable[[str], dict[str, str]] | None) -> None:
        """name_user: returns the fields by which the log names a user; None where requests are not logged."""
        self._asking, self._name_user = asking, name_user
        self._generations, self._metrics, self._rule = means.generations, means.metrics, means.rule
        self._explored, self._recorder = means.explored, means.recorder
        self._writer = AnswerWriter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whose body is still to come."""
        done: asyncio.Future[tuple[int, bytes, RawHeaders]] = asyncio.get_running_loop().create_future()
        try:
            body = await read_json(scope, receive, BODY_BYTES)
        except RequestError as exc:
            await send_reply(send, *error_reply(exc))
            return

        def finish(*reply: Any) -> None:
            if not done.done():
                done.set_result(reply)

        self.begin(body, scope["retort"], finish)
        await send_reply(send, *await done)

    def begin(self, body: bytes, trace: Trace, reply: Reply) -> None:
        """Begin to answer; reply is called once, now or later."""
        trace.began = start = time.monotonic()
        generation: Generation | None = None
        try:
            asked = self._asking.parse(body)
            parsed = time.monotonic()
            self._metrics.stage["parse"].observe(parsed - start)
            if trace.span is not None:
                trace.span.add("parse", start, parsed)
            generation = self._generations.answering(asked.user_id)  # to the end, whatever is swapped meanwhile
            query = self._asking.make(asked, generation, self._rule, trace, self._metrics)
            query.recommendation_id = new_answer_id(generation.version)
            self._explored.mark(query, generation.catalogue)
            if self._recorder is not None:
                self._recorder.mark(query, generation)
            future = generation.recommender.recommend(query)
        except Exception as exc:  # a border: a bug must still be answered
            if generation is not None and generation.part is not None:
                generation.part.note_failure(self._metrics, asked.user_id, exc)
            reply(*self._reply_to(exc))
            return
        future.add_done_callback(partial(self._end, query, generation, trace, reply))
        if generation.part is not None and generation.part.shadow is not None:
            generation.part.shadow.offer(future, partial(self._make_again, asked, trace), trace.arrived)

    def _make_again(self, asked: Any, trace: Trace, other: Generation) -> Query:
        return self._asking.make(asked, other, self._rule, trace, self._metrics)

    def _end(
        self, query: Query, generation: Generation, trace: Trace, reply: Reply, future: "asyncio.Future[Answer]"
    ) -> None:
        try:
            body = self._render(query, future.result(), generation, trace)
        except (Exception, asyncio.CancelledError) as exc:  # a border: a bug must still be answered
            if generation.part is not None:
                generation.part.note_failure(self._metrics, query.user_id, exc)
            reply(*self._reply_to(exc))
            return
        reply(200, body, ())
        if query.trail is not None and self._recorder is not None:
            self._recorder.take(self._asking.path, query, generation, body)

    def _render(self, query: Query, answer: Answer, generation: Generation, trace: Trace) -> bytes:
        start = time.monotonic()
        body = self._writer.write(query, answer, generation, start - trace.arrived)
        count_answer(self._metrics, query, answer, generation, start)
        if self._name_user is not None:
            named = self._name_user(query.user_id) if query.user_id is not None else {}
            trace.fields = {
                "recommendation_id": query.recommendation_id, **named, "level": answer.level,
                "reason": answer.reasons[0] if answer.reasons else "none", "k": query.k,
            }  # fmt: skip
        end = time.monotonic()
        self._metrics.stage["serialize"].observe(end - start)
        if trace.span is not None:
            trace.span.add("serialize", start, end)
            note_answer(trace.span, answer, generation)
        return body

    def _reply_to(self, exc: BaseException) -> tuple[int, bytes, RawHeaders]:
        if isinstance(exc, RequestError):
            return error_reply(exc)
        _LOGGER.error("a bug in %s", self._asking.path, exc_info=exc)
        return error_reply(BUG)


def note_answer(span: Span, answer: Answer, generation: Generation) -> None:
    """Say in a span how good an answer is, and of which version."""
    span.attributes |= {"retort.level": answer.level, "retort.model_version": generation.version}
    if answer.reasons:
        span.attributes["retort.reason"] = answer.reasons[0]
