"""The body of POST /events: its frame is read first, then each event is judged alone."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import RequestError
from service.request.field import MAX_FIELDS, Body, Id, Label, Position, parse_json
from service.request.refusal import refusal

MAX_EVENTS = 1000
MILLISECONDS_FROM = 1e11


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
    explored: bool | None = Field(None, description="whether that answer marked the item as explored")
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
        if isinstance(event, dict) and len(event) > MAX_FIELDS:
            rejected.append(Rejected(index=index, reason="invalid", message=f"an event of {len(event)} fields"))
            continue
        try:
            good.append((index, Event.model_validate(event)))
        except ValidationError as exc:
            rejected.append(Rejected(index=index, reason="invalid", message=refusal(exc, Event).message[:1000]))
    return good, rejected
