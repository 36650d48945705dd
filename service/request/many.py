"""The bodies of POST /recommend/batch and POST /page: many lists at once."""

from typing import Annotated, Any

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, WithJsonSchema, field_validator, model_validator

from service.errors import RequestError
from service.request.field import Body, Id, Ids, Label, check_once, listed, parse_json
from service.request.recommend import MAX_HISTORY, BudgetMs, ChoiceDefaults, RecommendRequest, parse_list
from service.request.similar import MAX_ANCHORS

MAX_REQUESTS = 100
MAX_SLOTS = 20
_OF_A_PAGE = frozenset({"name", "similar_to"})
_BARE = RecommendRequest.model_validate({"history": []})  # copied: model_construct() takes a third of a page's time
_ID = TypeAdapter(Id).json_schema()
Anchors = Annotated[
    Ids,
    Field(min_length=1, max_length=MAX_ANCHORS),
    listed("an item id, or a list of them"),
    WithJsonSchema({"anyOf": [_ID, {"type": "array", "items": _ID, "minItems": 1, "maxItems": MAX_ANCHORS}]}),
]


class BatchRequest(Body):
    """Up to 100 requests for a list. Each is answered alone: one that is refused has its error in its place."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"requests": [{"user_id": "u1"}, {"history": ["i1"]}]}]})

    requests: list[RecommendRequest] = Field(min_length=1, max_length=MAX_REQUESTS)


class Slot(ChoiceDefaults):
    """One list of a page."""

    name: Label = Field(description="like that of no other slot")
    scenario: Label | None = Field(None, description="whose fields hold where the slot does not give them")
    similar_to: Anchors | None = Field(None, description="items that go with these, as POST /similar gives them")

    def anchors(self) -> list[str]:
        """Return the ids of the items that the list is to go with."""
        return self.similar_to or []


class PageRequest(Body):
    """Ask for several lists for one user, or for a history, under one budget."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"user_id": {"type": "null"}}},
            "then": {"required": ["history"], "properties": {"history": {"type": "array", "maxItems": MAX_HISTORY}}},
            "examples": [{"user_id": "u1", "slots": [{"name": "hero", "k": 5}, {"name": "more", "diversity": 0.3}]}],
        }
    )

    user_id: Id | None = Field(None, description="whose stored history to use; required unless history is given")
    history: Ids | None = Field(
        None, max_length=MAX_HISTORY, description="item ids, oldest first; used instead of the stored history"
    )
    budget_ms: BudgetMs = None
    distinct: bool = Field(True, description="no item stands on the page twice: the slot that comes first has it")
    slots: list[Slot] = Field(min_length=1, max_length=MAX_SLOTS, description="filled in this order")

    @field_validator("slots")
    @classmethod
    def _name_once(cls, slots: list[Slot]) -> list[Slot]:
        check_once("name", [slot.name for slot in slots])
        return slots

    @model_validator(mode="after")
    def _need_a_user(self) -> "PageRequest":
        if self.user_id is None and self.history is None:
            raise ValueError("give user_id, or history")
        return self

    def requests(self) -> list[RecommendRequest]:
        """Return what each slot asks for, as a request of its own."""
        who: dict[str, Any] = {"user_id": self.user_id, "history": self.history}
        return [
            _BARE.model_copy(update=who | {name: getattr(slot, name) for name in slot.model_fields_set - _OF_A_PAGE})
            for slot in self.slots
        ]


def parse_page(body: bytes) -> PageRequest:
    """Check a body of POST /page. Raises RequestError."""
    return parse_list(PageRequest, body)


def parse_batch(body: bytes) -> list[bytes]:
    """Check the frame of a body of POST /recommend/batch; return its requests, JSON unchecked. Raises RequestError."""
    fields: Any = parse_json(body)
    listed = fields.get("requests") if isinstance(fields, dict) and set(fields) == {"requests"} else None
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_REQUESTS:
        text = f'the body must be {{"requests": [...]}} with 1 to {MAX_REQUESTS} requests'
        raise RequestError("malformed", text)
    return [orjson.dumps(each) for each in listed]
