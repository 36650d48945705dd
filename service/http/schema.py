"""The bodies that the API takes: strict, bounded, nothing unknown accepted.

/recommend is checked by these models straight from bytes; events are read by orjson first: each is judged
alone.
Both refuse NaN, Infinity, lone surrogates and deep nesting.
The OpenAPI document is made of the same models.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service.errors import RequestError

MAX_K = 200
MAX_HISTORY = 200
MAX_LISTED = 1000
MAX_EVENTS = 1000
MILLISECONDS_FROM = 1e11
MAX_DEPTH = 1000
MAX_RULES = 20
MAX_PINS = 100
NOT_BUILT = ("explain",)
MAX_RETURNED = 64
_MAX_FIELDS = 32
_MAX_QUOTES = 2 * (
    MAX_HISTORY + 4 * MAX_LISTED + 3 * MAX_PINS + MAX_RETURNED + 10 * _MAX_FIELDS
)  # of all strings a good body can have
_MAX_ERRORS = 100
_MOST_POSITION = 1_000_000_000
_MAX_WHOLE = 2**53  # a double beyond it stands for several integers
_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]+$"

Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_NO_CONTROL)]
USER_ID: TypeAdapter[str] = TypeAdapter(Id)
Ids = Annotated[list[Id], Field(fail_fast=True)]  # the first that is wrong is told, not each of a thousand
Label = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_CONTROL)]

Label128 = Annotated[str, StringConstraints(min_length=1, max_length=128)]


def _whole(number: Any) -> Any:
    """Return 3 for 3.0: to JSON Schema both are integers."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Position = Annotated[int, Field(ge=-_MOST_POSITION, le=_MOST_POSITION), BeforeValidator(_whole)]


class Body(BaseModel):
    """What every request body shares."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Pin(Body):
    """An item at a position of its own."""

    item_id: Id
    position: int = Field(ge=1, le=MAX_DEPTH, description="counted from 1 over all pages")


class Boost(Body):
    """Items that stand higher than their scores say, or lower."""

    if_: dict[str, Any] = Field(alias="if", max_length=_MAX_FIELDS, description="a filter: which items")
    by: float = Field(gt=0, le=1e9, description="log(by) is added to their scores; below 1 they stand lower")


class MaxPer(Body):
    """At most n items of one value of a text attribute."""

    attribute: Id
    n: int = Field(ge=1, le=MAX_DEPTH)


class RecommendRequest(Body):
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
    k: int = Field(10, ge=1, le=MAX_K, description="how many items")
    history: Ids | None = Field(
        None, max_length=MAX_HISTORY, description="item ids, oldest first; used instead of the stored history"
    )
    exclude: Ids = Field(default_factory=list, max_length=MAX_LISTED, description="item ids never to be returned")
    exclude_seen: bool | None = Field(None, description="leave out the history used; the bundle sets the default")
    candidates: Ids | None = Field(None, max_length=MAX_LISTED, description="rank only these item ids")
    filter: dict[str, Any] | None = Field(
        None,
        max_length=MAX_LISTED,
        description="only items whose attributes are so: {name: value, list of values, null, or range of gt, gte, lt, "
        "lte, eq}; not: filter; any: [filters]",
    )
    fields: list[Label128] | None = Field(
        None, max_length=MAX_RETURNED, description="returned of each item beside its id and score: title, attributes"
    )
    budget_ms: int | None = Field(None, ge=1, le=1000, description="deadline from the arrival of the request")
    boost: list[Boost] = Field(
        default_factory=list, max_length=MAX_RULES, description="what is added to the scores of some items"
    )
    max_per: list[MaxPer] = Field(
        default_factory=list, max_length=MAX_RULES, description="at most n items of one value, over all pages"
    )
    diversity: float = Field(
        0.0, ge=0, le=1, description="0: best first; the higher, the less an item is like those before it"
    )
    pin: list[Pin] = Field(
        default_factory=list, max_length=MAX_PINS, description="items that stand at a position whatever their score"
    )
    offset: int = Field(
        0, ge=0, le=MAX_DEPTH, description=f"how many items come before this page; with k {MAX_DEPTH} at most"
    )
    debug: bool = Field(False, description="add stage timings, the funnel and the parts of each score")

    @model_validator(mode="after")
    def _need_a_user(self) -> "RecommendRequest":
        if self.user_id is None and self.history is None:
            raise ValueError("give user_id, or history")
        return self

    @field_validator("offset")
    @classmethod
    def _page_within_reach(cls, offset: int, info: ValidationInfo) -> int:
        k = info.data.get("k", 1)
        if offset and offset + k > MAX_DEPTH:
            raise ValueError(f"with k it is {MAX_DEPTH} at most, and {offset} + {k} is more")
        return offset

    @field_validator("pin")
    @classmethod
    def _pin_once(cls, pins: list[Pin]) -> list[Pin]:
        _check_once("position", [pin.position for pin in pins])
        _check_once("item_id", [pin.item_id for pin in pins])
        return pins

    @field_validator("max_per")
    @classmethod
    def _cap_once(cls, caps: list[MaxPer]) -> list[MaxPer]:
        _check_once("attribute", [each.attribute for each in caps])
        return caps


class Event(Body):
    """Something that a user did with an item."""

    user_id: Id
    item_id: Id
    timestamp: float | None = Field(
        None, ge=0, lt=MILLISECONDS_FROM, description="Unix seconds; the arrival if left out"
    )
    type: Label | None = Field(None, description="what happened, such as view or purchase")
    value: float | None = Field(None, ge=-1e12, le=1e12, description="a rating, a quantity")
    recommendation_id: Label | None = Field(None, description="the answer that led to it")
    position: Position | None = Field(None, description="the place where that answer showed the item, from 1")
    event_id: Id | None = Field(None, description="makes retries safe: the same id is the same event")


class EventsRequest(Body):
    """Up to 1000 events. Each is judged alone: a bad one is listed in rejected, and the others are stored."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"events": [{"user_id": "u1", "item_id": "i1", "type": "view"}]}]}
    )

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class Rejected(BaseModel):
    """An event that was not stored."""

    index: int = Field(ge=0, lt=MAX_EVENTS)
    reason: Literal["invalid", "future", "too_old"]
    message: str = Field(max_length=1000)


class ActivateRequest(Body):
    """The body of POST /model/activate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "306f1bf5c1779dbd"}]})

    version: str = Field(pattern="^[0-9a-f]{16}$", min_length=16, max_length=16, description="a published version")


def _check_once(name: str, values: Sequence[str | int]) -> None:
    """Raises ValueError where a value is there twice."""
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ValueError(f"the {name} {twice} is there twice")


def parse_json(body: bytes) -> Any:
    """Return the parsed body. Raises RequestError for anything that is not finite, well-formed JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestError("malformed", f"the body is not valid JSON: {exc.msg} at character {exc.pos}") from None


def parse_recommend(body: bytes) -> RecommendRequest:
    """Check a body of POST /recommend. Raises RequestError.

    A body of a hundred thousand fields is refused before each of them is found to be unknown, which takes a second.
    """
    if len(body) > _MAX_QUOTES and body.count(b'"') - body.count(b'\\"') > _MAX_QUOTES:
        raise RequestError("malformed", "the body has more fields and ids than a request can have")
    try:
        return RecommendRequest.model_validate_json(body)
    except ValidationError as exc:
        whole = _with_whole_numbers(body, exc)
        if whole is None:
            raise _refusal(exc) from None
    return parse_recommend(whole)


def _with_whole_numbers(body: bytes, refused: ValidationError) -> bytes | None:
    """Return a refused body with 10 in place of 10.0 where an integer is asked for; None where that changes nothing.

    To JSON Schema both are integers, and clients whose only number is a double send the second.
    """
    if refused.error_count() > _MAX_ERRORS:
        return None
    numbers = {error["loc"][0]: error["input"] for error in refused.errors() if error["type"] == "int_type"}
    whole = {
        name: int(number)
        for name, number in numbers.items()
        if isinstance(number, float) and number.is_integer() and abs(number) < _MAX_WHOLE
    }
    return orjson.dumps(parse_json(body) | whole) if whole else None


def parse_activate(body: bytes) -> str:
    """Check a body of POST /model/activate; return the version. Raises RequestError."""
    try:
        return ActivateRequest.model_validate_json(body).version
    except ValidationError as exc:
        raise _refusal(exc) from None


def parse_event_list(body: bytes) -> list[Any]:
    """Check the frame of a body of POST /events; return the events unchecked. Raises RequestError."""
    fields = parse_json(body)
    listed = fields.get("events") if isinstance(fields, dict) and set(fields) == {"events"} else None
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_EVENTS:
        raise RequestError("malformed", f'the body must be {{"events": [...]}} with 1 to {MAX_EVENTS} events')
    return listed


def check_events(listed: Sequence[Any], first: int) -> tuple[list[tuple[int, Event]], list[Rejected]]:
    """Check each event alone: the good ones with their index, counted from first, and the refused ones."""
    good: list[tuple[int, Event]] = []
    rejected: list[Rejected] = []
    for index, event in enumerate(listed, first):
        if isinstance(event, dict) and len(event) > _MAX_FIELDS:
            rejected.append(Rejected(index=index, reason="invalid", message=f"an event of {len(event)} fields"))
            continue
        try:
            good.append((index, Event.model_validate(event)))
        except ValidationError as exc:
            rejected.append(Rejected(index=index, reason="invalid", message=_refusal(exc).message[:1000]))
    return good, rejected


def check_user_id(raw: bytes) -> str:
    """Return the user id in a path segment, percent-decoded bytes. Raises RequestError unless it is a valid id."""
    try:
        return USER_ID.validate_python(raw.decode(), strict=True)
    except (UnicodeDecodeError, ValidationError):
        raise RequestError("malformed", "user_id: 1 to 128 characters of UTF-8 without control characters") from None


def _refusal(exc: ValidationError) -> RequestError:
    if exc.error_count() > _MAX_ERRORS:
        return RequestError("malformed", f"{exc.error_count()} fields are unknown or wrong; see /openapi.json")
    errors = exc.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return RequestError("malformed", f"the body is not valid JSON: {errors[0]['ctx']['error']}")
    details = [
        {"field": ".".join(str(part) for part in error["loc"])[:200], "message": _message(error["loc"], error["msg"])}
        for error in errors[:20]
    ]
    first = details[0]
    text = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    return RequestError("malformed", text, details=details)


def _message(loc: tuple[int | str, ...], text: str) -> str:
    if loc and loc[0] in NOT_BUILT:
        return "not built yet; leave it out of the request"
    if loc and loc[-1] == "timestamp" and "less than" in text:
        return "Unix seconds; are these milliseconds?"
    return text.removeprefix("Value error, ")
