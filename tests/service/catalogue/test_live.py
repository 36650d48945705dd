"""Attributes that live items change give the masks that a plain evaluation of the items gives, and codes likewise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle import Item
from service.catalogue.attributes import Attributes
from service.catalogue.filter import parse
from service.catalogue.live_item import LiveItem, read_live_item
from service.catalogue.title_index import TitleIndex
from tests.service.toy import described_items

VALUES = st.fixed_dictionaries(
    {
        "attributes": st.dictionaries(
            st.sampled_from(["brand", "tag", "colour"]), st.lists(st.sampled_from("ABCD"), max_size=3), max_size=3
        ),
        "numbers": st.dictionaries(st.sampled_from(["price", "weight"]), st.integers(0, 9), max_size=2),
        "booleans": st.dictionaries(st.sampled_from(["in_stock", "old"]), st.booleans(), max_size=2),
    }
)
FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({"brand": ["A", "D"]}, lambda item: bool({"A", "D"} & set(item.attributes.get("brand", ())))),
    ({"brand": None}, lambda item: not item.attributes.get("brand")),
    ({"price": {"gte": 3, "lt": 20}}, lambda item: 3 <= item.numbers.get("price", -1) < 20),
    ({"price": None}, lambda item: "price" not in item.numbers),
    ({"in_stock": [True, None]}, lambda item: item.booleans.get("in_stock") is not False),
    ({"not": {"tag": "new"}}, lambda item: "new" not in item.attributes.get("tag", ())),
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), VALUES), max_size=12))
def test_changed_items_are_filtered_as_they_are_now(changes: list[tuple[int, dict[str, Any]]]) -> None:
    items: list[Item | None] = list(described_items(12))
    attributes = Attributes.of(described_items(12))
    for row, values in changes:
        attributes.grow(row + 1)
        items += [None] * (row + 1 - len(items))
        items[row] = replace(items[row] or Item(f"n{row}", 0.0), **values)
        attributes.change(row, items[row])
        known = [item or Item("", 0.0) for item in items]

        for raw, holds in FILTERS:
            assert parse(raw, attributes).mask().tolist() == [holds(item) for item in known], raw
        for name in attributes.names:
            texts, codes, starts = attributes.codes(name)
            listed = [[texts[code] for code in codes[starts[i] : starts[i + 1]]] for i in range(len(known))]
            assert [sorted(each) for each in listed] == [
                sorted(set(item.attributes.get(name, ()))) for item in known
            ]  # fmt: skip


def test_value_of_another_kind_is_left_out() -> None:
    attributes = Attributes.of(described_items(3))

    attributes.change(1, Item("i1", 0.0, attributes={"price": ["5"]}, numbers={"new": 1.0}))

    assert attributes.kind_of("price") == "number"
    assert parse({"price": None}, attributes).mask()[1]
    assert parse({"new": 1}, attributes).mask().tolist() == [False, True, False]


def test_record_is_read_as_it_was_packed_and_nothing_else_is() -> None:
    record = LiveItem(5.0, "put", {"title": "x", "numbers": {"price": 1.5}}, "v")

    assert read_live_item(record.pack()) == record
    for packed in (b"", b"{}", b"[]", b'{"at":1,"kind":"x","fields":{},"version":""}', b"\xff"):
        assert read_live_item(packed) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"title": 5}, {"description": []}, {"expires_at": "soon"}, {"expires_at": True}, {"like": "i1"},
        {"like": [[1]]}, {"vectors": 5}, {"vectors": ["a"]}, {"attributes": None}, {"attributes": {"brand": "A"}},
        {"attributes": {"brand": [5]}}, {"attributes": {"brand": None}}, {"numbers": {"price": "x"}},
        {"numbers": {"price": [1]}}, {"numbers": {"price": True}}, {"booleans": {"old": 1}}, {"booleans": []},
    ],
)  # fmt: skip
def test_record_with_fields_of_other_forms_is_not_read(fields: dict[str, Any]) -> None:
    assert read_live_item(LiveItem(5.0, "put", fields).pack()) is None


def test_only_a_patch_takes_names_away() -> None:
    fields = {"title": None, "attributes": {"brand": None}, "numbers": {"price": None}, "booleans": {"old": None}}

    assert read_live_item(LiveItem(5.0, "patch", fields).pack()) == LiveItem(5.0, "patch", fields)


def test_merged_record_has_the_later_fields() -> None:
    record = LiveItem(5.0, "patch", {"numbers": {"price": 1.0, "size": 2.0}})

    merged = record.merge({"numbers": {"price": None}, "title": "t"}, 6.0, "v")

    assert merged.fields == {"numbers": {"price": None, "size": 2.0}, "title": "t"}
    base = Item("i1", 3.0, "old", numbers={"price": 9.0, "depth": 4.0})
    assert merged.over("i1", base) == Item("i1", 3.0, "t", {}, {"depth": 4.0, "size": 2.0}, {})
    whole = LiveItem(5.0, "put", {"numbers": {"price": 1.0}}).merge({"numbers": {"price": None, "a": 1.0}}, 6.0, "v")
    assert whole.over("i1", base) == Item("i1", 3.0, None, {}, {"a": 1.0}, {})


def test_titles_are_found_by_all_words_and_their_beginnings() -> None:
    titles = ["Red lamp", "Blue Lamp stand", "été à la plage", None, "foo-bar \ud800 x", "Lamp: red & blue"]
    index = TitleIndex(lambda: [5, 0, 1, 2, 3, 4], lambda rows: (titles[row] for row in rows))

    def found(text: str) -> list[int]:
        return list(index.find(text))

    assert (found("lam"), found("LAMP red"), found("ete"), found("foo-b"), found('!" *')) == (
        [5, 0, 1], [5, 0], [2], [4], [],
    )  # fmt: skip
    index.note(0, "Green sofa")
    index.note(9, "Red sofa lamp")
    assert (found("lamp"), found("sofa"), found("red")) == ([5, 1, 9], [0, 9], [5, 9])
    index.note(9, None)
    assert found("sofa") == [0]


def test_masks_that_were_made_stay_as_they_are() -> None:
    attributes = Attributes.of(described_items(6))
    before = parse({"brand": "A"}, attributes).mask()
    kept = before.copy()

    attributes.change(0, Item("i0", 0.0, attributes={"brand": ["Z"]}))

    assert np.array_equal(before, kept)
    assert not parse({"brand": "A"}, attributes).mask()[0]
