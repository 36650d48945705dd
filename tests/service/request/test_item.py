"""What a live item may say: the limits that need words of their own."""

import json

import pytest

from service.errors import RequestError
from service.request.field import check_body
from service.request.item import MAX_VALUES, ItemFields


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"attributes": {"tag": ["x"] * (MAX_VALUES + 1)}}, r"attributes\.tag: List should have at most 100 items"),
        ({"vectors": [1e7]}, r"vectors\.0"),
        ({"vectors": [-1e300, 1.0]}, r"vectors\.0"),
    ],
)
def test_what_is_too_much_is_named(fields: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        check_body(ItemFields, json.dumps(fields).encode())


def test_what_is_within_the_limits_is_taken() -> None:
    fields = {"attributes": {"tag": ["x"] * MAX_VALUES, "one": "y"}, "vectors": [1e6, -1e6]}

    said = check_body(ItemFields, json.dumps(fields).encode()).said()

    assert said == fields | {"attributes": {"tag": ["x"] * MAX_VALUES, "one": ["y"]}}
