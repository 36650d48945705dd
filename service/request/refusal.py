"""What a caller is told of a body that does not fit its model: where, what, and what would have fitted."""

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from service.errors import RequestError

MAX_ERRORS = 100
_MOST_TOLD = 20
_LONGEST_NAME = 64
NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]+$"
"""What ids, names and labels look like."""
_LEAST_LIKE = 0.65  # "explain" is no "pin"
_KEY = "[key]"
"""What pydantic puts at the end of the path where the name of an entry is wrong, and not its value."""
_NO_OBJECT = ("model_type", "dict_type", "model_attributes_type")
_TIMES = ("timestamp", "expires_at")


def refusal(exc: ValidationError, model: type[BaseModel]) -> RequestError:
    """Return the error that a body is refused with. model: that it does not fit."""
    if exc.error_count() > MAX_ERRORS:
        return RequestError("malformed", f"{exc.error_count()} fields are unknown or wrong; see /openapi.json")
    errors = exc.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return RequestError("malformed", f"the body is not valid JSON: {errors[0]['ctx']['error']}")
    details = [
        {"field": ".".join(str(part) for part in error["loc"] if part != _KEY)[:200], "message": _message(error, model)}
        for error in errors[:_MOST_TOLD]
    ]
    first = details[0]
    text = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    return RequestError("malformed", text, details=details)


def _message(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, loc, text = error["type"], error["loc"], str(error["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"there is no such field; {_nearest(str(loc[-1]), _names_at(model, loc[:-1]))}"
    if kind in _NO_OBJECT:
        return "Input should be an object"
    if loc and loc[-1] in _TIMES and kind == "less_than":
        return "Unix seconds; are these milliseconds?"
    if kind == "string_pattern_mismatch" and error["ctx"]["pattern"] == NO_CONTROL:
        text = "there is a control character in it, such as a line end or a tab"
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = error["ctx"]["ge" if kind == "greater_than_equal" else "le"]
        return f"{text[: text.rindex(' ')]} {bound:g}" if math.fabs(bound) >= 1e15 else text
    return f"a name: {text}" if loc and loc[-1] == _KEY else text


def _nearest(name: str, known: list[str]) -> str:
    """Return which field was meant, or all that there are."""
    by_lower = {each.lower(): each for each in known}
    if close := get_close_matches(name[:_LONGEST_NAME].lower(), by_lower, 1, _LEAST_LIKE):
        return f"did you mean {by_lower[close[0]]}?"
    return f"there are {', '.join(known)}"


def _names_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the fields of the object at a place in the body of a model."""
    for part in loc:
        if isinstance(part, str):
            (field,) = (each for name, each in model.model_fields.items() if part in (name, each.alias))
            model = next(_models_in(field.annotation))
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
