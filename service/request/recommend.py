"""The body of POST /recommend, and what it shares with every request for a list of items."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from service.errors import RequestError
from service.request.field import MAX_FIELDS, MAX_LISTED, Body, Id, Ids, Label, Model, check_body, check_once

MAX_K = 200
MAX_HISTORY = 200
MAX_DEPTH = 1000
MAX_RULES = 20
MAX_PINS = 100
MAX_RETURNED = 64
MAX_TREND = 10
_MAX_QUOTES = 2 * (
    MAX_HISTORY + 4 * MAX_LISTED + 3 * MAX_PINS + MAX_RETURNED + 10 * MAX_FIELDS
)  # of all strings a good body can have

BudgetMs = Annotated[
    int | None, Field(ge=1, le=1000, description="deadline from the arrival of the request"),
]  # fmt: skip
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Pin(Body):
    """An item at a position of its own."""

    item_id: Id
    position: int = Field(ge=1, le=MAX_DEPTH, description="counted from 1 over all pages")


class Boost(Body):
    """Items that stand higher than their scores say, or lower."""

    if_: dict[str, Any] = Field(alias="if", max_length=MAX_FIELDS, description="a filter: which items")
    by: float = Field(gt=0, le=1e9, description="log(by) is added to their scores; below 1 they stand lower")


class MaxPer(Body):
    """At most n items of one value of a text attribute."""

    attribute: Id
    n: int = Field(ge=1, le=MAX_DEPTH)


def check_reach(offset: int, k: int) -> None:
    """Raises ValueError where a page lies beyond what can be asked for."""
    if offset and offset + k > MAX_DEPTH:
        raise ValueError(f"with k it is {MAX_DEPTH} at most, and {offset} + {k} is more")


def _unsent(schema: dict[str, Any]) -> None:
    """Leave a default out of the document: clients that send it would override what a scenario says."""
    del schema["default"]


class ListDefaults(Body):
    """What may be said of a list of items, in a request or beforehand."""

    k: int = Field(10, ge=1, le=MAX_K, description="how many items; 10 if nothing says it", json_schema_extra=_unsent)
    exclude: Ids = Field(default_factory=list, max_length=MAX_LISTED, description="item ids never to be returned")
    filter: dict[str, Any] | None = Field(
        None,
        max_length=MAX_LISTED,
        description="only items whose attributes are so: {name: value, list of values, null, or range of gt, gte, lt, "
        "lte, eq}; not: filter; any: [filters]",
    )
    fields: list[FieldName] | None = Field(
        None, max_length=MAX_RETURNED, description="returned of each item beside its id and score: title, attributes"
    )
    boost: list[Boost] = Field(
        default_factory=list, max_length=MAX_RULES, description="what is added to the scores of some items"
    )
    max_per: list[MaxPer] = Field(
        default_factory=list, max_length=MAX_RULES, description="at most n items of one value, over all pages"
    )
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="0: best first, as if nothing says it; the higher, the less an item is like those before it",
        json_schema_extra=_unsent,
    )
    trend: float = Field(
        1.0,
        ge=0,
        le=MAX_TREND,
        description="times the trend's part of each score; 1, as trained, if nothing says it; 0 leaves the trend out",
        json_schema_extra=_unsent,
    )

    @field_validator("max_per")
    @classmethod
    def _cap_once(cls, caps: list[MaxPer]) -> list[MaxPer]:
        check_once("attribute", [each.attribute for each in caps])
        return caps


class ListRequest(ListDefaults):
    """What every request for a list of items may say of it."""

    budget_ms: BudgetMs = None
    debug: bool = Field(False, description="add stage timings, the funnel and the parts of each score")


class ChoiceDefaults(ListDefaults):
    """What may be said of a list beside that: whom it is not for, which items compete, and which have their place."""

    exclude_seen: bool | None = Field(None, description="leave out the history used; the bundle sets the default")
    candidates: Ids | None = Field(None, max_length=MAX_LISTED, description="rank only these item ids")
    pin: list[Pin] = Field(
        default_factory=list, max_length=MAX_PINS, description="items that stand at a position whatever their score"
    )

    @field_validator("pin")
    @classmethod
    def _pin_once(cls, pins: list[Pin]) -> list[Pin]:
        check_once("position", [pin.position for pin in pins])
        check_once("item_id", [pin.item_id for pin in pins])
        return pins


class RecommendRequest(ListRequest, ChoiceDefaults):
    """Ask for the k best items of a user, or of a history."""

    # What the validator below checks, said so that generators of clients, which know no `if`, still see every field:
    # beside `anyOf` they forget the properties.
    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"user_id": {"type": "null"}}},
            "then": {"required": ["history"], "properties": {"history": {"type": "array", "maxItems": MAX_HISTORY}}},
            "examples": [{"user_id": "u1", "k": 10}, {"history": ["i1", "i2"], "k": 10, "exclude": ["i3"]}],
        }
    )

    user_id: Id | None = Field(None, description="whose stored history to use; required unless history is given")
    history: Ids | None = Field(
        None, max_length=MAX_HISTORY, description="item ids, oldest first; used instead of the stored history"
    )
    scenario: Label | None = Field(None, description="whose fields hold where the request does not give them")
    explain: bool = Field(False, description="add the parts of each score, and which items of the history carried it")
    offset: int = Field(
        0, ge=0, le=MAX_DEPTH, description=f"how many items come before this page; with k {MAX_DEPTH} at most"
    )

    @model_validator(mode="after")
    def _need_a_user(self) -> "RecommendRequest":
        if self.user_id is None and self.history is None:
            raise ValueError("give user_id, or history")
        return self

    @field_validator("offset")
    @classmethod
    def _page_within_reach(cls, offset: int, info: ValidationInfo) -> int:
        if "k" in info.data and info.data.get("scenario") is None:  # whose k may be another
            check_reach(offset, info.data["k"])
        return offset


def parse_recommend(body: bytes) -> RecommendRequest:
    """Check a body of POST /recommend. Raises RequestError."""
    return parse_list(RecommendRequest, body)


def parse_list(model: type[Model], body: bytes) -> Model:
    """Return the body of a request for a list as its model. Raises RequestError.

    A body of a hundred thousand fields is refused before each of them is found to be unknown, which takes a second.
    """
    if len(body) > _MAX_QUOTES and body.count(b'"') - body.count(b'\\"') > _MAX_QUOTES:
        raise RequestError("malformed", "the body has more fields and ids than a request can have")
    return check_body(model, body)
