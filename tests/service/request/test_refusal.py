"""What a caller is told of a body that does not fit: the place, the fault, and what would have fitted."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from service.errors import RequestError
from service.request.activate import ActivateRequest
from service.request.event import check_events
from service.request.field import check_body
from service.request.item import ItemFields, ItemsSearchRequest, check_listed
from service.request.many import PageRequest
from service.request.recommend import RecommendRequest
from service.request.scenario import Scenario
from service.request.similar import SimilarRequest


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (RecommendRequest, {"userId": "a", "history": []}, "userId: there is no such field; did you mean user_id?"),
        (RecommendRequest, {"history": [], "filters": {}}, "filters: there is no such field; did you mean filter?"),
        (RecommendRequest, {"history": [], "K" * 9000: 1}, "KKK"),
        (SimilarRequest, {"item": "i1", "item_id": "i1"}, "item: there is no such field; did you mean item_id?"),
        (ItemsSearchRequest, {"q": "x"}, "q: there is no such field; there are text, filter, k"),
        (
            ItemFields,
            {"price": 5},
            "price: there is no such field; there are title, description, attributes, numbers, booleans, "
            "vectors, like, expires_at",
        ),
        (Scenario, {"pin": [{"item": "i1", "position": 1}]}, "pin.0.item_id: Field required"),
        (
            Scenario,
            {"boost": [{"if": {}, "by": 1, "of": 1}]},
            "boost.0.of: there is no such field; there are if, by",
        ),
        (
            PageRequest,
            {"history": [], "slots": [{"name": "a", "pin": [{"item_id": "i", "position": 1, "positon": 1}]}]},
            "slots.0.pin.0.positon: there is no such field; did you mean position?",
        ),
        (
            PageRequest,
            {"history": [], "slots": [{"name": "a", "similar_to": 5}]},
            "slots.0.similar_to: an item id, or a list of them",
        ),
        (
            PageRequest,
            {"history": [], "slots": [{"name": "a", "similar_to": []}]},
            "slots.0.similar_to: List should have at least 1 item",
        ),
        (PageRequest, {"history": [], "slots": [5]}, "slots.0: Input should be an object"),
        (ItemFields, {"attributes": {"brand": 5}}, "attributes.brand: a text, or a list of texts"),
        (ItemFields, {"attributes": {"brand": ["a", 5]}}, "attributes.brand.1: Input should be a valid string"),
        (ItemFields, {"attributes": {"": "x"}}, "attributes.: a name: String should have at least 1 character"),
        (ItemFields, {"attributes": 5}, "attributes: Input should be an object"),
        (ItemFields, {"numbers": {"a": 1e301}}, "numbers.a: Input should be less than or equal to 1e+300"),
        (ItemFields, {"numbers": {"a": -1e301}}, "numbers.a: Input should be greater than or equal to -1e+300"),
        (ItemFields, {"expires_at": 1796004754000}, "expires_at: Unix seconds; are these milliseconds?"),
        (RecommendRequest, {"history": ["i1", "i\n2"]}, "history.1: there is a control character in it"),
        (ItemFields, {"numbers": {"a\tb": 1}}, "numbers.a\tb: a name: there is a control character in it"),
        (
            PageRequest,
            {"history": [], "slots": [{"name": "a", "explain": True}]},
            "slots.0.explain: there is no such field; there are k, ",
        ),
        (ActivateRequest, {"version": "g" * 16}, "version: String should match pattern '^[0-9a-f]{16}$'"),
        (RecommendRequest, {"history": [], "k": 201.0}, "k: Input should be less than or equal to 200"),
    ],
)
def test_mistake_is_told_with_the_way_out(model: type[BaseModel], body: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        check_body(model, json.dumps(body).encode())

    assert raised.value.message.startswith(message)
    assert len(raised.value.message) < 20_000


def test_mistake_in_a_list_of_events_or_items_is_told_alike() -> None:
    _, events = check_events([{"user_id": "u", "item_id": "i", "times": 5}, 5, {"item_id": "i", "user": "u"}], 0)
    _, items = check_listed([{"item_id": "i", "tags": []}, 5, {"id": "i"}])

    assert [each.message for each in events] == [
        "times: there is no such field; did you mean timestamp?",
        "Input should be an object",
        "user_id: Field required",
    ]
    assert [each.message.partition("; ")[0] for each in items] == [
        "tags: there is no such field",
        "Input should be an object",
        "item_id: Field required",
    ]


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (RecommendRequest, {"history": [], "k": 3, "pin": [{"item_id": "i", "position": 2}], "offset": 4}),
        (RecommendRequest, {"history": [], "max_per": [{"attribute": "a", "n": 2}, {"attribute": "b", "n": 1}]}),
        (PageRequest, {"history": [], "slots": [{"name": "a", "k": 3}, {"name": "b", "k": 2}], "budget_ms": 9}),
        (Scenario, {"k": 3, "pin": [{"item_id": "i", "position": 2}], "budget_ms": 70}),
    ],
)
def test_whole_number_is_an_integer_wherever_it_stands(model: type[BaseModel], body: dict[str, Any]) -> None:
    as_floats = json.loads(json.dumps(body), parse_int=float)

    assert check_body(model, json.dumps(as_floats).encode()) == check_body(model, json.dumps(body).encode())


def test_number_that_is_not_whole_is_told_where_it_stands() -> None:
    body = {"history": [], "k": 2.0, "pin": [{"item_id": "i", "position": 1.0}, {"item_id": "j", "position": 2.5}]}

    with pytest.raises(RequestError, match=r"^pin\.1\.position: Input should be a valid integer"):
        check_body(RecommendRequest, json.dumps(body).encode())
