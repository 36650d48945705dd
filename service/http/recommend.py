"""POST /recommend, from bytes to bytes: the body is validated once, the answer is put together once.

An ASGI application of its own, because FastAPI's routing, dependency and response layers cost as much as the answer;
and where the whole request is here already, not even that. The gate calls it straight; api lists its path, so that the
OpenAPI document stays whole.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.types import Receive, Scope, Send

from service.catalogue.attributes import Attributes
from service.catalogue.field import check_fields
from service.catalogue.filter import nearest, parse, shown
from service.errors import FieldError, RequestError
from service.http.message import read_json
from service.http.schema import MAX_K, MaxPer, RecommendRequest, parse_recommend
from service.metrics import Metrics
from service.recommendation.budget import BudgetRule
from service.recommendation.job import Answer, Query
from service.recommendation.rule import Cap, Rules
from service.release.generation import Generation, Generations
from service.wire.reply import BUG, RawHeaders, Reply, error_reply, send_reply
from service.wire.trace import Trace

BODY_BYTES = 1 << 20
_RULED = frozenset({"boost", "max_per", "diversity", "pin", "offset"})
_LOGGER = logging.getLogger(__name__)


_FIELD_SCHEMA: dict[str, Any] = {
    "description": "the title, a number, a boolean or the texts of an attribute; null where the item has none",
    "type": ["string", "number", "boolean", "array", "null"],
    "items": {"type": "string"},
}


class ScoredItem(BaseModel):
    """One item of an answer, with the fields that were asked for."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": _FIELD_SCHEMA})

    item_id: str = Field(max_length=128)
    score: float


class Quality(BaseModel):
    """How good the answer could be made inside the budget."""

    level: Literal["full", "degraded", "fallback"]
    reasons: list[
        Literal[
            "cold_user", "stale_profile", "store_timeout", "store_error", "breaker_open", "deadline", "model_error",
            "nonfinite_scores", "stale_trend", "not_enough_items",
        ]
    ] = Field(max_length=10)  # fmt: skip


class ScoreParts(BaseModel):
    """What an item's score is made of: the parts add up to it."""

    taste: float
    neighbours: float
    trend: float
    boost: float = Field(default_factory=float, description="left out where the request boosts nothing")


class Funnel(BaseModel):
    """How many items were left after each step."""

    catalogue: int = Field(ge=0)
    filter: int = Field(ge=0, description="that the filter lets through, of the candidates where these are given")
    seen: int = Field(ge=0, description="without what the user has seen and what is excluded")
    rules: int = Field(ge=0, description="in the whole list, pins included")
    returned: int = Field(ge=0, description="on this page")
    history: int = Field(default_factory=int, ge=0, description="events that the model read; with debug only")


def _no_funnel() -> Funnel:
    return Funnel(catalogue=0, filter=0, seen=0, rules=0, returned=0)


class Debug(BaseModel):
    """Where the time went, how many items were left at each step, and what each item's score is made of."""

    stages_ms: dict[str, Annotated[float, Field(ge=0)]]
    funnel: Funnel
    parts: list[ScoreParts] = Field(
        default_factory=list, max_length=MAX_K, description="of each item, where its score is a sum"
    )


class RecommendResponse(BaseModel):
    """The answer of POST /recommend."""

    recommendation_id: str = Field(max_length=64)
    user_id: str | None = Field(max_length=128)
    model_version: str = Field(max_length=64)
    items: list[ScoredItem] = Field(max_length=MAX_K)
    quality: Quality
    ignored_ids: list[Annotated[str, StringConstraints(max_length=128)]] = Field(max_length=2300)
    took_ms: float = Field(ge=0)
    dropped_pins: list[Annotated[str, StringConstraints(max_length=128)]] = Field(
        default_factory=list,
        max_length=100,
        description="pinned items that are not to be shown; left out where there are none",
    )
    funnel: Funnel = Field(default_factory=_no_funnel, description="left out unless there are fewer items than k")
    debug: Debug = Field(
        default_factory=lambda: Debug(stages_ms={}, funnel=_no_funnel()),
        description="left out unless the request asked for it",
    )


class RecommendEndpoint:
    """Answers POST /recommend."""

    def __init__(
        self,
        generations: Generations,
        metrics: Metrics,
        rule: BudgetRule,
        name_user: Callable[[str], dict[str, str]] | None,
    ) -> None:
        """rule: makes the budget of a request. name_user: returns the fields by which the log names a user; None where
        requests are not logged."""
        self._generations, self._metrics, self._rule, self._name_user = generations, metrics, rule, name_user
        self._qualities: dict[tuple[str, ...], bytes] = {}

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
        try:
            asked = parse_recommend(body)
            self._metrics.stage["parse"].observe(time.monotonic() - start)
            generation = self._generations.live  # to the end, whatever is swapped meanwhile
            query = self._query(asked, generation, trace)
            future = generation.recommender.recommend(query)
        except Exception as exc:  # a border: a bug must still be answered
            reply(*_reply_to(exc))
            return
        future.add_done_callback(partial(self._end, query, generation, trace, reply))

    def _end(
        self, query: Query, generation: Generation, trace: Trace, reply: Reply, future: "asyncio.Future[Answer]"
    ) -> None:
        try:
            body = self._render(query, future.result(), generation, trace)
        except (Exception, asyncio.CancelledError) as exc:  # a border: a bug must still be answered
            reply(*_reply_to(exc))
            return
        reply(200, body, ())

    def _query(self, asked: RecommendRequest, generation: Generation, trace: Trace) -> Query:
        query = Query(
            user_id=asked.user_id,
            k=asked.k,
            history=asked.history,
            exclude=asked.exclude,
            exclude_seen=generation.exclude_seen if asked.exclude_seen is None else asked.exclude_seen,
            candidates=asked.candidates,
            caller=trace,
            budget=self._rule.start(trace.arrived, asked.budget_ms),
            is_debug=asked.debug,
        )
        if not _RULED.isdisjoint(asked.model_fields_set):
            query.rules = _rules_of(asked, generation.catalogue.attributes)
        if asked.filter:
            query.mask = parse(asked.filter, generation.catalogue.attributes).mask()
        if asked.fields:
            query.fields = check_fields(asked.fields, generation.catalogue.attributes)
        return query

    def _render(self, query: Query, answer: Answer, generation: Generation, trace: Trace) -> bytes:
        start = time.monotonic()
        took_s = start - trace.arrived
        recommendation_id = f"{random.getrandbits(128):032x}"  # a name, not a secret
        parts = [
            b'{"recommendation_id":"', recommendation_id.encode(),
            b'","user_id":', orjson.dumps(query.user_id),
            b',"model_version":', generation.version_json,
            b',"items":[', generation.catalogue.render(answer.ranked, query.fields),
            b'],"quality":', self._quality(answer),
            b',"ignored_ids":', orjson.dumps(answer.ignored_ids) if answer.ignored_ids else b"[]",
            b',"took_ms":', b"%.3f" % (took_s * 1000),
        ]  # fmt: skip
        if answer.funnel or answer.dropped_pins:
            parts.append(_extra_of(query, answer))
        parts.append(b"}")
        reason = answer.reasons[0] if answer.reasons else "none"
        self._metrics.count_answer(answer.level, reason, is_within=query.budget.is_kept(start))
        if self._name_user is not None:
            named = self._name_user(query.user_id) if query.user_id is not None else {}
            trace.fields = {
                "recommendation_id": recommendation_id, **named, "level": answer.level,
                "reason": reason, "k": query.k,
            }  # fmt: skip
        body = b"".join(parts)
        self._metrics.stage["serialize"].observe(time.monotonic() - start)
        return body

    def _quality(self, answer: Answer) -> bytes:
        """The JSON of the answer's quality; there are few different ones."""
        key = (answer.level, *answer.reasons)
        found = self._qualities.get(key)
        if found is None:
            quality: dict[str, Any] = {"level": answer.level, "reasons": answer.reasons}
            found = self._qualities[key] = orjson.dumps(quality)
        return found


def _rules_of(asked: RecommendRequest, attributes: Attributes) -> Rules | None:
    """Return what is asked of the list; None where it is no more than the best items. Raises RequestError."""
    rules = Rules(
        offset=asked.offset,
        boosts=[
            (parse(each.if_, attributes, f"boost.{place}.if").mask(), math.log(each.by))
            for place, each in enumerate(asked.boost)
        ],
        caps=[_cap(each, attributes, f"max_per.{place}.attribute") for place, each in enumerate(asked.max_per)],
        diversity=asked.diversity,
        pins={pin.position: pin.item_id for pin in asked.pin},
    )
    is_plain = not (rules.offset or rules.boosts or rules.caps or rules.diversity or rules.pins)
    return None if is_plain else rules


def _cap(asked: MaxPer, attributes: Attributes, path: str) -> Cap:
    name = asked.attribute
    if name not in attributes.names:
        kind = "is no text attribute" if name in attributes else "is unknown"
        raise FieldError(path, f"{shown(name)} {kind}; {nearest(name, attributes.names)}")
    values, codes, starts = attributes.codes(name)
    return Cap(codes, starts, len(values), asked.n)


def _extra_of(query: Query, answer: Answer) -> bytes:
    """Return the fields of an answer that are not in every one, as JSON with a comma before each."""
    fields: dict[str, Any] = {}
    if answer.dropped_pins:
        fields["dropped_pins"] = answer.dropped_pins
    if answer.funnel and len(answer.ranked[0]) < query.k:
        fields["funnel"] = answer.funnel
    if query.is_debug:
        fields["debug"] = {"stages_ms": answer.stages_ms, "funnel": answer.funnel}
        if answer.parts:
            fields["debug"]["parts"] = answer.parts
    return b"," + orjson.dumps(fields)[1:-1]


def _reply_to(exc: BaseException) -> tuple[int, bytes, RawHeaders]:
    if isinstance(exc, RequestError):
        return error_reply(exc)
    _LOGGER.error("a bug in /recommend", exc_info=exc)
    return error_reply(BUG)
