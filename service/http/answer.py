"""The answer to a request for a list: its form for the OpenAPI document, and its bytes.

The bytes are put together piece by piece, because a JSON encoder over all of it would cost as much as the answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.recommendation.explanation import MOST_NAMED
from service.recommendation.job import Answer, Explanation, Query
from service.release.generation import Generation
from service.request.many import MAX_SLOTS
from service.request.recommend import MAX_K

_FIELD_SCHEMA: dict[str, Any] = {
    "description": "the title, a number, a boolean or the texts of an attribute; null where the item has none",
    "type": ["string", "number", "boolean", "array", "null"],
    "items": {"type": "string"},
}


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
    popularity: float = Field(default_factory=float, description="in training; where that alone is the score")
    boost: float = Field(default_factory=float, description="left out where the request boosts nothing")


class Without(BaseModel):
    """The list as it would be without an item of the history."""

    rank: int | None = Field(ge=1, description="of the explained item, from 1 over all pages; null if not on the page")
    items: list[Annotated[str, StringConstraints(max_length=128)]] = Field(max_length=MAX_K)


class CauseOfItem(BaseModel):
    """An item of the history that carried the explained one."""

    item_id: str = Field(max_length=128)
    share: float = Field(ge=0, le=1, description="its part of what carried the item")
    without: Without


class WhyNot(BaseModel):
    """Why no item has a `because`."""

    left_out: Literal["fallback", "deadline", "model_error", "nonfinite_scores"]


class ScoredItem(BaseModel):
    """One item of an answer, with the fields that were asked for."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": _FIELD_SCHEMA})

    item_id: str = Field(max_length=128)
    score: float
    parts: ScoreParts = Field(
        default_factory=lambda: ScoreParts(taste=0, neighbours=0, trend=0), description="left out without explain"
    )
    because: list[CauseOfItem] = Field(
        default_factory=list, max_length=MOST_NAMED, description="the greatest share first; left out without explain"
    )
    explored: bool = Field(
        default_factory=bool, description="a new item that is shown to learn of it; left out of all others"
    )


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


class RunningExperiment(BaseModel):
    """The experiment that was running, and which of its versions has answered."""

    id: str = Field(max_length=64)
    kind: Literal["shadow", "canary", "experiment"]
    share: float = Field(gt=0, le=100, description="percent of the users; of the requests, for a shadow")
    answered_by: Literal["live", "other"]


class Debug(BaseModel):
    """Where the time went, how many items were left at each step, and what each item's score is made of."""

    stages_ms: dict[str, Annotated[float, Field(ge=0)]]
    funnel: Funnel
    parts: list[ScoreParts] = Field(
        default_factory=list, max_length=MAX_K, description="of each item, where its score is a sum"
    )
    experiment: RunningExperiment = Field(
        default_factory=lambda: RunningExperiment(id="", kind="shadow", share=1, answered_by="live"),
        description="left out where none was running",
    )


class RecommendResponse(BaseModel):
    """The answer of POST /recommend and POST /similar."""

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
    explanation: WhyNot = Field(
        default_factory=lambda: WhyNot(left_out="fallback"),
        description="left out unless an explanation was asked for and could not be given",
    )
    funnel: Funnel = Field(default_factory=_no_funnel, description="left out unless there are fewer items than k")
    debug: Debug = Field(
        default_factory=lambda: Debug(stages_ms={}, funnel=_no_funnel()),
        description="left out unless the request asked for it",
    )


class SlotAnswer(BaseModel):
    """One list of a page."""

    name: str = Field(max_length=64)
    items: list[ScoredItem] = Field(max_length=MAX_K)
    quality: Quality
    dropped_pins: list[Annotated[str, StringConstraints(max_length=128)]] = Field(
        default_factory=list, max_length=100, description="left out where there are none"
    )
    funnel: Funnel = Field(default_factory=_no_funnel, description="left out unless there are fewer items than k")


class PageResponse(BaseModel):
    """The answer of POST /page."""

    recommendation_id: str = Field(max_length=64)
    user_id: str | None = Field(max_length=128)
    model_version: str = Field(max_length=64)
    slots: list[SlotAnswer] = Field(max_length=MAX_SLOTS, description="in the order of the request")
    ignored_ids: list[Annotated[str, StringConstraints(max_length=128)]]
    took_ms: float = Field(ge=0)


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """A page that is to be written: of each slot the name, the query and the answer."""

    recommendation_id: str
    names: Sequence[str]
    queries: Sequence[Query]
    answers: Sequence[Answer]


class AnswerWriter:
    """Writes answers as JSON."""

    def __init__(self) -> None:
        self._qualities: dict[tuple[str, ...], bytes] = {}

    def write(self, query: Query, answer: Answer, generation: Generation, took_s: float) -> bytes:
        """Return an answer as JSON. took_s: since the request arrived."""
        parts = [
            b'{"recommendation_id":"', query.recommendation_id.encode(),
            b'","user_id":', orjson.dumps(query.user_id),
            b',"model_version":', generation.version_json,
            b',"items":[', _items(query, answer, generation),
            b'],"quality":', self._quality(answer),
            b',"ignored_ids":', orjson.dumps(answer.ignored_ids) if answer.ignored_ids else b"[]",
            b',"took_ms":', b"%.3f" % (took_s * 1000),
        ]  # fmt: skip
        if answer.funnel or answer.dropped_pins or answer.explanation:
            parts.append(_extra_of(query, answer, generation))
        parts.append(b"}")
        return b"".join(parts)

    def write_page(self, page: PageAnswer, generation: Generation, took_s: float) -> bytes:
        """Return a page as JSON. took_s: since the request arrived."""
        ignored = dict.fromkeys(each for answer in page.answers for each in answer.ignored_ids)
        slots = zip(page.names, page.queries, page.answers, strict=True)
        parts = [
            b'{"recommendation_id":"', page.recommendation_id.encode(),
            b'","user_id":', orjson.dumps(page.queries[0].user_id),
            b',"model_version":', generation.version_json,
            b',"slots":[', b",".join([self._slot(*slot, generation) for slot in slots]),
            b'],"ignored_ids":', orjson.dumps(list(ignored)),
            b',"took_ms":', b"%.3f" % (took_s * 1000), b"}",
        ]  # fmt: skip
        return b"".join(parts)

    def _slot(self, name: str, query: Query, answer: Answer, generation: Generation) -> bytes:
        more = _extra_of(query, answer, generation) if answer.funnel or answer.dropped_pins else b""
        items = _items(query, answer, generation)
        quality = self._quality(answer)
        return b'{"name":%b,"items":[%b],"quality":%b%b}' % (orjson.dumps(name), items, quality, more)

    def _quality(self, answer: Answer) -> bytes:
        """The JSON of the answer's quality; there are few different ones."""
        key = (answer.level, *answer.reasons)
        found = self._qualities.get(key)
        if found is None:
            quality: dict[str, Any] = {"level": answer.level, "reasons": answer.reasons}
            found = self._qualities[key] = orjson.dumps(quality)
        return found


def _items(query: Query, answer: Answer, generation: Generation) -> bytes:
    """Return the items as JSON."""
    more: Sequence[bytes] = ()
    if query.is_explained:
        more = [b',"parts":' + orjson.dumps(parts) for parts in answer.parts]
        if answer.explanation is not None and answer.explanation.left_out is None:
            because = _because(answer.explanation, generation.catalogue.item_ids)
            more = [one + other for one, other in zip(more, because, strict=True)]
    if (place := answer.explored) is not None:
        more = [*more] or [b""] * len(answer.ranked[0])
        more[place] += b',"explored":true'
    return generation.catalogue.render(answer.ranked, query.fields, more)


def _because(explanation: Explanation, item_ids: Sequence[str]) -> Iterator[bytes]:
    """Yield the field `because` of each item. A list without an item of the history is written once."""
    without = {row: orjson.dumps([item_ids[each] for each in rows]) for row, rows in explanation.without.items()}
    for causes in explanation.because:
        listed = [
            b'{"item_id":%b,"share":%b,"without":{"rank":%b,"items":%b}}'
            % (*map(orjson.dumps, (item_ids[cause.row], cause.share, cause.rank)), without[cause.row])
            for cause in causes
        ]
        yield b',"because":[' + b",".join(listed) + b"]"


def _extra_of(query: Query, answer: Answer, generation: Generation) -> bytes:
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
        if generation.part is not None:
            fields["debug"]["experiment"] = generation.part.describe()
    if answer.explanation is not None and answer.explanation.left_out is not None:
        fields["explanation"] = {"left_out": answer.explanation.left_out}
    if not fields:
        return b""
    return b"," + orjson.dumps(fields)[1:-1]
