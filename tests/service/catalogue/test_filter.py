"""Filters: the masks that they give, against a plain evaluation item by item; and what they refuse."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import Item
from service.catalogue.attributes import Attributes
from service.catalogue.filter import MAX_DEPTH, MAX_VALUES, FilterError, parse
from service.catalogue.mask_cache import MaskCache

TEXTS, NUMBERS = ["A", "B", "é", "\x7f", ""], [-1.0, 0.0, 2.0, 2.5, 1e300]
ITEMS = [
    Item("i0", 1.0, None, {"brand": ["A"], "tag": ["new", "red"]}, {"price": 5.0}, {"in_stock": True}),
    Item("i1", 1.0, None, {"brand": ["B"]}, {"price": 50.0, "weight": -1.0}, {"in_stock": False}),
    Item("i2", 1.0, None, {"tag": ["red", "red"]}, {"price": 19.99}),
    Item("i3", 1.0),
]


def rows(raw: dict[str, Any], items: list[Item] = ITEMS) -> list[int]:
    return np.flatnonzero(parse(raw, Attributes.of(items)).mask()).tolist()


def holds(raw: dict[str, Any], item: Item) -> bool:
    """Evaluate a filter of one item, by the words of its definition."""
    return all(condition_holds(name, value, item) for name, value in raw.items())


def condition_holds(name: str, value: Any, item: Item) -> bool:
    if name == "not":
        return not any(condition_holds(inner, each, item) for inner, each in value.items())
    if name == "any":
        return any(holds(each, item) for each in value)
    own: list[Any] = list(item.attributes.get(name, []))
    own += [item.numbers[name]] if name in item.numbers else []
    own += [item.booleans[name]] if name in item.booleans else []
    return any(member_holds(member, own) for member in (value if isinstance(value, list) else [value]))


def member_holds(member: Any, own: list[Any]) -> bool:
    if member is None:
        return not own
    if not isinstance(member, dict):
        return member in own
    compare = {
        "gt": lambda a, b: a > b, "gte": lambda a, b: a >= b, "lt": lambda a, b: a < b,
        "lte": lambda a, b: a <= b, "eq": lambda a, b: a == b,
    }  # fmt: skip
    return any(all(compare[name](number, bound) for name, bound in member.items()) for number in own)


def some(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    member = st.none() | value
    return member | st.lists(member, min_size=1, max_size=4)


ranges = st.one_of(
    st.fixed_dictionaries({"gte": st.sampled_from([-1, 0, 2])}, optional={"lt": st.sampled_from([2.25, 3, 1e308])}),
    st.fixed_dictionaries({"gt": st.sampled_from([-1, 0])}, optional={"lte": st.sampled_from([2, 2.5])}),
    st.fixed_dictionaries({"eq": st.sampled_from([*NUMBERS, 7])}),
)
leaves = st.fixed_dictionaries(
    {},
    optional={
        "text": some(st.sampled_from([*TEXTS, "nobody has this"])),
        "number": some(st.sampled_from([*NUMBERS, 7]) | ranges),
        "flag": some(st.booleans()),
    },
).filter(bool)
filters = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda plain, more: plain | more,
        leaves,
        st.fixed_dictionaries({}, optional={"not": inner, "any": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=5,
)
items = st.lists(
    st.builds(
        lambda text, number, flag: Item("i", 1.0, None, text, number, flag),
        st.fixed_dictionaries({}, optional={"text": st.lists(st.sampled_from(TEXTS), max_size=3)}),
        st.fixed_dictionaries({}, optional={"number": st.sampled_from(NUMBERS)}),
        st.fixed_dictionaries({}, optional={"flag": st.booleans()}),
    ),
    max_size=12,
)
WHOLE = Item("i", 1.0, None, {"text": ["A"]}, {"number": 2.0}, {"flag": True})


@given(filters, items)
def test_mask_is_that_of_a_plain_evaluation(raw: dict[str, Any], some_items: list[Item]) -> None:
    catalogue = [WHOLE, *some_items]

    mask = parse(raw, Attributes.of(catalogue)).mask()

    assert mask.tolist() == [holds(raw, item) for item in catalogue]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"brand": "A"}, [0]),
        ({"brand": ["A", "B", "Z"]}, [0, 1]),
        ({"brand": "Z"}, []),
        ({"tag": "red", "brand": "A"}, [0]),
        ({"price": {"gte": 5, "lt": 50}}, [0, 2]),
        ({"price": {"gt": 5}}, [1, 2]),
        ({"price": {"lte": 5}}, [0]),
        ({"price": {"eq": 19.99}}, [2]),
        ({"price": [5, {"gt": 40}]}, [0, 1]),
        ({"price": 2**70}, []),
        ({"in_stock": True}, [0]),
        ({"in_stock": [True, False]}, [0, 1]),
        ({"in_stock": None}, [2, 3]),
        ({"brand": ["A", None]}, [0, 2, 3]),
        ({"not": {"brand": "A"}}, [1, 2, 3]),
        ({"not": {"brand": "A", "price": {"gt": 40}}}, [2, 3]),
        ({"not": {"brand": None}}, [0, 1]),
        ({"not": {"not": {"brand": "A"}}}, [0]),
        ({"any": [{"brand": "B"}, {"tag": "red", "in_stock": None}]}, [1, 2]),
    ],
)
def test_filter_means_what_its_words_say(raw: dict[str, Any], expected: list[int]) -> None:
    assert rows(raw) == expected


def deep(levels: int) -> dict[str, Any]:
    return {"brand": "A"} if levels == 1 else {"not": deep(levels - 1)}


@pytest.mark.parametrize(
    ("raw", "field", "words"),
    [
        ({"Brnad": "A"}, "filter.Brnad", 'no attribute "Brnad"; did you mean "brand"?'),
        ({"zzz": "A"}, "filter.zzz", 'there are "brand", "in_stock", "price", "tag", "weight"'),
        ({"not": {"prise": 5}}, "filter.not.prise", 'did you mean "price"?'),
        ({"any": [{"brand": "A"}, {"prise": 5}]}, "filter.any.1.prise", 'did you mean "price"?'),
        ({"or": [{"brand": "A"}]}, "filter.or", '"any" takes a list of filters'),
        ({"not": {"AND": {}}}, "filter.not.AND", "all conditions of a filter hold"),
        ({"item_id": "i1"}, "filter.item_id", "give ids as candidates, or exclude them"),
        ({"brand": {"in": ["A"]}}, "filter.brand", 'and "brand" is text: give values, such as ["A"]'),
        ({"in_stock": {"eq": 1}}, "filter.in_stock", "is boolean: give true or false"),
        ({"brand": 5}, "filter.brand", "is text"),
        ({"brand": True}, "filter.brand", "is text"),
        ({"brand": [["A"]]}, "filter.brand.0", "is text"),
        ({"price": "5"}, "filter.price", "is a number"),
        ({"price": [1, True]}, "filter.price.1", "is a number, such as 5, not true"),
        ({"price": math.nan}, "filter.price", "no finite number"),
        ({"price": 10**400}, "filter.price", "no finite number"),
        ({"price": {"gt": math.inf}}, "filter.price.gt", "no finite number"),
        ({"price": {"gt": None}}, "filter.price.gt", "a bound is a number, not null"),
        ({"price": {"lt": True}}, "filter.price.lt", "a bound is a number, not true"),
        ({"price": {}}, "filter.price", "an empty range"),
        ({"price": {"ge": 5}}, "filter.price.ge", 'did you mean "gte"?'),
        ({"price": {"gt": 5, "lt": 3}}, "filter.price", "no number is inside"),
        ({"price": {"gt": 5, "lte": 5}}, "filter.price", "no number is inside"),
        ({"price": {"eq": 5, "lt": 5}}, "filter.price", "no number is inside"),
        ({"in_stock": 1}, "filter.in_stock", "true or false"),
        ({"in_stock": "true"}, "filter.in_stock", "true or false"),
        ({"brand": []}, "filter.brand", "an empty list"),
        ({"any": []}, "filter.any", "at least one"),
        ({"any": {"brand": "A"}}, "filter.any", "a list of filters"),
        ({"any": ["A"]}, "filter.any.0", "a filter is an object"),
        ({"any": [{}]}, "filter.any.0", "no condition"),
        ({"not": {}}, "filter.not", "no condition"),
        ({"not": [{"brand": "A"}]}, "filter.not", "a filter is an object"),
        (deep(MAX_DEPTH + 1), "filter" + ".not" * MAX_DEPTH, "nested at most 8"),
        ({"brand": ["A"] * (MAX_VALUES + 1)}, "filter.brand", "at most 1,000"),
        ({"any": [{"brand": ["A", "B"]}] * 400}, "filter.any.333.brand", "at most 1,000"),
    ],
)  # fmt: skip
def test_filter_that_cannot_be_is_refused_with_its_field(raw: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        rows(raw)

    (detail,) = caught.value.details
    assert caught.value.code == "malformed"
    assert detail["field"] == field
    assert words in detail["message"]
    assert caught.value.message == f"{field}: {detail['message']}"


def test_filter_at_its_bounds_is_taken() -> None:
    assert rows(deep(MAX_DEPTH)) in ([0], [1, 2, 3])
    assert rows({"price": {"gte": 5, "lte": 5}}) == [0]
    assert rows({"brand": ["A"] * (MAX_VALUES - 1)}) == [0]


def test_message_stays_short_and_says_so_where_there_are_no_attributes() -> None:
    with pytest.raises(FilterError) as long:
        rows({"x" * 1_000_000: "y" * 1_000_000})
    with pytest.raises(FilterError) as bare:
        rows({"brand": "A"}, [Item("i", 1.0)])

    assert len(long.value.message) < 1000
    assert "the items have none" in bare.value.message


def test_path_of_another_field_stands_in_its_messages() -> None:
    with pytest.raises(FilterError, match=r"boost\.0\.if\.brnd"):
        parse({"brnd": "A"}, Attributes.of(ITEMS), "boost.0.if")


def test_equal_filters_share_a_mask_that_nobody_can_write_to() -> None:
    attributes = Attributes.of(ITEMS)

    first, second = parse({"brand": "A", "price": 5}, attributes), parse({"price": 5, "brand": "A"}, attributes)
    was_known, mask = first.is_known, first.mask()

    assert (was_known, second.is_known) == (False, True)
    assert mask is second.mask()
    assert not mask.flags.writeable


def test_cache_keeps_what_was_asked_for_last_within_its_bytes() -> None:
    cache, made = MaskCache(max_bytes=3 * 2000), []

    for key in (1, 2, 3, 1, 4, 1):
        cache.find(key, lambda key=key: made.append(key) or np.ones(900, dtype=np.bool_))

    assert made == [1, 2, 3, 4]
    assert len(cache) == 3 and [key in cache for key in (1, 2, 3, 4)] == [True, False, True, True]
