"""The bodies of PUT and PATCH /items/{item_id}, POST /items and POST /items/search."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from service.errors import RequestError
from service.request.event import MILLISECONDS_FROM
from service.request.field import MAX_LISTED, Body, Id, Ids, listed, parse_json
from service.request.refusal import NO_CONTROL, refusal

MAX_ITEMS = 1000
MAX_TITLE, MAX_DESCRIPTION, MAX_TEXT = 1000, 10_000, 1000
MAX_NAMES, MAX_VALUES, MAX_LIKE, MAX_DIM = 64, 100, 100, 4096
RESERVED = frozenset({"any", "not", "item_id", "score", "title"})
"""No attribute can have such a name: in a filter or an answer it is something else."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_CONTROL)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Texts = Annotated[
    list[Text],
    Field(max_length=MAX_VALUES),
    listed("a text, or a list of texts"),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "maxLength": MAX_TEXT},
                   {"type": "array", "items": {"type": "string", "maxLength": MAX_TEXT}, "maxItems": MAX_VALUES}]}
    ),
]  # fmt: skip
Number = Annotated[float, Field(ge=-1e300, le=1e300)]
Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]


class ItemFields(Body):
    """What an item is: PUT says it whole, and PATCH says what is different."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"title": "Lamp", "attributes": {"brand": ["A"]}, "numbers": {"price": 9.5}, "booleans": {"new": True}}
            ]
        }
    )

    title: str | None = Field(None, max_length=MAX_TITLE)
    description: str | None = Field(None, max_length=MAX_DESCRIPTION)
    attributes: dict[Name, Texts | None] | None = Field(
        None, max_length=MAX_NAMES, description="texts by name, one or several; null takes a name away"
    )
    numbers: dict[Name, Number | None] | None = Field(
        None, max_length=MAX_NAMES, description="numbers by name; null takes a name away"
    )
    booleans: dict[Name, bool | None] | None = Field(
        None, max_length=MAX_NAMES, description="true or false by name; null takes a name away"
    )
    vectors: list[Coordinate] | None = Field(
        None, min_length=1, max_length=MAX_DIM, description="the item's vector in the model that is served, if known"
    )
    like: Ids | None = Field(None, max_length=MAX_LIKE, description="ids of items that a new item is like")
    expires_at: float | None = Field(
        None, ge=0, lt=MILLISECONDS_FROM, description="Unix seconds from which it is not shown"
    )

    @field_validator("attributes", "numbers", "booleans")
    @classmethod
    def _names_are_free(cls, named: dict[str, Any] | None) -> dict[str, Any] | None:
        if taken := sorted(RESERVED & set(named or ())):
            raise ValueError(f"no attribute can be called {taken[0]}: it means something else")
        return named

    def said(self) -> dict[str, Any]:
        """Return the fields that were given, as a record keeps them."""
        fields = self.model_dump(exclude_unset=True, exclude={"item_id"})
        return {name: value for name, value in fields.items() if name not in _NAMED or value is not None}


_NAMED = ("attributes", "numbers", "booleans")


def brought_names(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the names that have a value, each with the field under which it stands; of two fields, the later one."""
    return {name: field for field in _NAMED for name, value in (fields.get(field) or {}).items() if value is not None}


class ListedItem(ItemFields):
    """One of the items of POST /items."""

    item_id: Id


class ItemsRequest(Body):
    """Up to 1000 items, each as PUT takes it. Each is judged alone; of two with one id the later one counts."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"item_id": "n1", "title": "Lamp", "like": ["i3"]}]}]}
    )

    items: list[ListedItem] = Field(min_length=1, max_length=MAX_ITEMS)


class ItemsSearchRequest(Body):
    """Ask for items by the words of their titles, by a filter, or by both."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "title 1", "k": 5}]})

    text: str | None = Field(
        None, min_length=1, max_length=200, description="words of a title, or their beginnings; all of them must be in"
    )
    filter: dict[str, Any] | None = Field(None, max_length=MAX_LISTED, description="as POST /recommend takes it")
    k: int = Field(10, ge=1, le=200, description="how many items, the most popular first")


class RejectedItem(BaseModel):
    """An item that was not stored."""

    index: int = Field(ge=0, lt=MAX_ITEMS)
    reason: Literal["invalid", "full"]
    message: str = Field(max_length=1000)


def parse_item_list(body: bytes) -> list[Any]:
    """Check the frame of a body of POST /items; return the items unchecked. Raises RequestError."""
    fields = parse_json(body)
    listed = fields.get("items") if isinstance(fields, dict) and set(fields) == {"items"} else None
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_ITEMS:
        raise RequestError("malformed", f'the body must be {{"items": [...]}} with 1 to {MAX_ITEMS} items')
    return listed


def check_listed(listed: Sequence[Any]) -> tuple[list[tuple[int, ListedItem]], list[RejectedItem]]:
    """Check each item alone: the good ones with their index, and the refused ones."""
    good: list[tuple[int, ListedItem]] = []
    rejected: list[RejectedItem] = []
    for index, item in enumerate(listed):
        try:
            good.append((index, ListedItem.model_validate(item)))
        except ValidationError as exc:
            rejected.append(
                RejectedItem(index=index, reason="invalid", message=refusal(exc, ListedItem).message[:1000])
            )
    return good, rejected
