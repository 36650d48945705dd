"""The scenarios of a real store, as two processes that share it know them."""

import pytest

from service.errors import RequestError
from service.scenario import shelf as shelf_module
from service.scenario.book import ScenarioBook
from service.scenario.shelf import MOST_SCENARIOS, ScenarioShelf
from service.store.client import Store


async def test_another_book_learns_of_what_is_put_replaced_and_deleted(store: Store) -> None:
    one, other = (ScenarioBook(ScenarioShelf(store, "books"), {"of file": b"{}", "b": b'{"k":1}'}) for _ in range(2))

    await one.put("a", b'{"k":2}', 5)
    await one.put("b", b'{"k":3}', 5)
    before = other.names()
    await other.advance()
    put = {name: (other.source(name), other.body(name)) for name in other.names()}
    first = other.find("a")
    is_kept = other.find("a") is first
    await one.put("a", b'{"k":4}', 5)
    await other.advance()
    replaced = other.find("a")
    deleted = [await one.delete(name, 5) for name in ("a", "b", "b", "of file")]
    await other.advance()

    assert before == ["b", "of file"]
    assert put == {"a": ("store", b'{"k":2}'), "b": ("store", b'{"k":3}'), "of file": ("file", b"{}")}
    assert is_kept and first is not None and first.k == 2
    assert replaced is not None and replaced.k == 4
    assert deleted == [True, True, False, False]
    assert {name: other.body(name) for name in other.names()} == {"b": b'{"k":1}', "of file": b"{}"}


async def test_what_others_wrote_into_the_store_is_refused_when_it_is_asked_for(store: Store) -> None:
    book = ScenarioBook(ScenarioShelf(store, "junk"), {})
    fields = ("bad", b"{", "worse", b"\xff", b"\xff", b"{}", "", b"m", "good", b'{"k":9}')
    await store.call("read", [("HSET", "junk:scenarios", *fields)], 5)

    await book.advance()

    assert book.names() == ["bad", "good", "worse", "�"]
    for name in ("bad", "worse"):
        with pytest.raises(RequestError):
            book.find(name)
    assert (book.find("good") or pytest.fail()).k == 9
    assert book.find("gone") is None


async def test_key_of_another_type_holds_none_and_gives_way(store: Store) -> None:
    book = ScenarioBook(ScenarioShelf(store, "typed"), {})
    await store.call("read", [("SET", "typed:scenarios", b"text")], 5)

    await book.advance()
    nothing = book.names()
    is_deleted = await book.delete("a", 5)
    await book.put("a", b"{}", 5)

    assert (nothing, is_deleted, book.names()) == ([], False, ["a"])


async def test_number_and_size_of_all_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, name = ScenarioShelf(store, "full"), "s{}".format
    for number in range(MOST_SCENARIOS):
        await shelf.put(name(number), b"{}", 5)

    with pytest.raises(RequestError, match="1,000 scenarios already"):
        await shelf.put("more", b"{}", 5)
    await shelf.put(name(7), b'{"k":1}', 5)
    mark, found = await shelf.read(5)
    monkeypatch.setattr(shelf_module, "MOST_BYTES", sum(len(each) + len(body) for each, body in found.items()) + 3)
    await shelf.put(name(8), b"{  }", 5)
    with pytest.raises(RequestError, match="together"):
        await shelf.put(name(8), b"{     }", 5)

    assert len(found) == MOST_SCENARIOS
    assert found[name(7)] == b'{"k":1}'
    assert mark != await shelf.mark(5)
