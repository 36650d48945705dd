"""What the bodies of all requests share: the forms of their fields, how they are read, and how they are refused.

They are strict and bounded, and take nothing unknown. NaN, Infinity, lone surrogates and deep nesting are refused. The
OpenAPI document is made of the same models.
"""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from service.errors import RequestError
from service.request.refusal import MAX_ERRORS, NO_CONTROL, refusal

MAX_LISTED = 1000
MAX_FIELDS = 32
_MOST_POSITION = 1_000_000_000
_MAX_WHOLE = 2**53  # a double beyond it stands for several integers
Model = TypeVar("Model", bound=BaseModel)

Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_CONTROL)]
USER_ID: TypeAdapter[str] = TypeAdapter(Id)
Ids = Annotated[list[Id], Field(fail_fast=True)]  # the first that is wrong is told, not each of a thousand
Label = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_CONTROL)]

LABEL: TypeAdapter[str] = TypeAdapter(Label)

Label128 = Annotated[str, StringConstraints(min_length=1, max_length=128)]


def _whole(number: Any) -> Any:
    """Return 3 for 3.0: to JSON Schema both are integers."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Position = Annotated[int, Field(ge=-_MOST_POSITION, le=_MOST_POSITION), BeforeValidator(_whole)]


def listed(said: str) -> BeforeValidator:
    """Return what makes a text alone a list of one. said: what a caller who sends neither is told."""

    def as_list(value: Any) -> Any:
        if not isinstance(value, str | list):
            raise ValueError(said)
        return [value] if isinstance(value, str) else value

    return BeforeValidator(as_list)


class Body(BaseModel):
    """What every request body shares."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def check_once(name: str, values: Sequence[str | int]) -> None:
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


def check_body(model: type[Model], body: bytes) -> Model:
    """Return the body of a request as its model. Raises RequestError that names each wrong field."""
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        whole = _with_whole_numbers(body, exc)
        if whole is None:
            raise refusal(exc, model) from None
    return check_body(model, whole)


def _with_whole_numbers(body: bytes, refused: ValidationError) -> bytes | None:
    """Return a refused body with 10 in place of 10.0 where an integer is asked for; None where that changes nothing.

    To JSON Schema both are integers, and clients whose only number is a double send the second.
    """
    if refused.error_count() > MAX_ERRORS:
        return None
    whole = [
        (error["loc"], int(error["input"]))
        for error in refused.errors()
        if error["type"] == "int_type" and _is_whole(error["input"])
    ]
    if not whole:
        return None
    parsed = parse_json(body)
    for (*outer, name), number in whole:
        place = parsed
        for part in outer:
            place = place[part]
        place[name] = number
    return orjson.dumps(parsed)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < _MAX_WHOLE


def check_user_id(raw: bytes) -> str:
    """Return the user id in a path segment, percent-decoded bytes. Raises RequestError unless it is a valid id."""
    return _check_id("user_id", raw)


def check_item_id(raw: bytes) -> str:
    """Return the item id in a path segment, percent-decoded bytes. Raises RequestError unless it is a valid id."""
    return _check_id("item_id", raw)


def check_name(raw: bytes) -> str:
    """Return the name in a path segment, percent-decoded bytes. Raises RequestError unless it can be one."""
    return _check_id("name", raw, LABEL, 64)


def _check_id(name: str, raw: bytes, form: TypeAdapter[str] = USER_ID, most: int = 128) -> str:
    try:
        return form.validate_python(raw.decode(), strict=True)
    except (UnicodeDecodeError, ValidationError):
        text = f"{name}: 1 to {most} characters of UTF-8 without control characters"
        raise RequestError("malformed", text) from None
