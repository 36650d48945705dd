"""The columns of a catalogue."""

from hypothesis import given
from hypothesis import strategies as st

from service.bundle import Item
from service.catalogue.attributes import Attributes

texts = st.lists(st.lists(st.text(max_size=3), max_size=4), min_size=1, max_size=10)


@given(texts)
def test_codes_give_back_the_texts_of_each_item(of_items: list[list[str]]) -> None:
    attributes = Attributes.of([Item("i", 1.0, None, {"a": texts, "b": ["x"]}) for texts in of_items])

    values, codes, starts = attributes.codes("a")

    read = [[values[code] for code in codes[starts[row] : starts[row + 1]]] for row in range(len(of_items))]
    assert read == [list(dict.fromkeys(texts)) for texts in of_items]
    assert list(values) == sorted({text for texts in of_items for text in texts}, key=str.encode)
    assert [values.find(value) for value in values] == list(range(len(values)))
    assert values.find("no such text") is None


def test_attributes_are_listed_by_kind() -> None:
    items = [Item("i", 1.0), Item("j", 1.0, None, {"b": ["x"], "a": []}, {"n": 1.0}, {"f": False})]

    attributes = Attributes.of(items)

    assert (attributes.names, attributes.numbers, attributes.booleans) == (["a", "b"], ["n"], ["f"])
    assert len(attributes) == 2
    assert "n" in attributes and "z" not in attributes
