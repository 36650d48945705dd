"""A catalogue with live items answers as a plain evaluation of all its items does, in exact and approximate search."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import Bundle, Item, ItemText
from service.catalogue.filter import parse
from service.catalogue.live_item import LiveItem
from service.model.catalogue import Catalogue
from service.model.item_encoder import ItemEncoder
from service.model.student import Student
from service.search.choice import Kind, open_search
from tests.service.toy import DIM, described_items, toy_encoding, toy_parts, write_toy, write_toy_sum

N = 300
NOW = 1_800_000_000.0
FIELDS = st.fixed_dictionaries(
    {
        "attributes": st.dictionaries(st.sampled_from(["brand", "tag"]), st.lists(st.sampled_from("ABZ")), max_size=2),
        "numbers": st.dictionaries(st.just("price"), st.integers(0, 400), max_size=1),
    },
    optional={
        "like": st.lists(st.integers(0, N + 5).map("i{}".format), min_size=1, max_size=3),
        "vectors": st.lists(st.integers(-3, 3), min_size=DIM, max_size=DIM),
        "expires_at": st.sampled_from([NOW - 1, NOW + 1]),
    },
)
CHANGES = st.lists(
    st.tuples(st.integers(N - 5, N + 8).map("i{}".format), st.sampled_from(["put", "patch", "gone", None]), FIELDS),
    max_size=15,
)
FILTERS: list[tuple[dict[str, Any] | None, Any]] = [
    (None, lambda item: True),
    ({"brand": ["A", "Z"]}, lambda item: bool({"A", "Z"} & set(item.attributes.get("brand", ())))),
    ({"price": {"lt": 250}}, lambda item: item.numbers.get("price", 1e9) < 250),
    ({"not": {"tag": "B"}}, lambda item: "B" not in item.attributes.get("tag", ())),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("live")
    items = described_items(N)
    return [
        write_toy(folder / "plain", n_items=N, items=items),
        write_toy_sum(folder / "sum", n_items=N, items=items),
    ]


def open_catalogue(bundle: Bundle, kind: Kind, folder: Path) -> Catalogue:
    student = Student(bundle)
    return Catalogue(bundle, open_search(bundle, student.encode, kind=kind, directory=folder, warn=lambda text: None))


class Slow:
    """What the items are, one at a time: the plain truth that a catalogue is held against."""

    def __init__(self, bundle: Bundle) -> None:
        self.base = {item.item_id: item for item in bundle.items}
        self.records: dict[str, LiveItem] = {}

    def shown(self) -> dict[str, Item]:
        found = {}
        for item_id in [*self.base, *(each for each in self.records if each not in self.base)]:
            record, base = self.records.get(item_id), self.base.get(item_id)
            if record is None or (record.kind == "patch" and base is None):
                if base is not None:
                    found[item_id] = base
            elif record.is_shown(NOW):
                found[item_id] = record.over(item_id, base)
        return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, seed=st.integers(0, 9))
@pytest.mark.parametrize("kind", ["exact", "approximate"])
@pytest.mark.parametrize("place", [0, 1])
def test_best_items_are_those_of_a_plain_evaluation(
    bundles: list[Bundle], kind: Kind, place: int, tmp_path: Path, changes: list[Any], seed: int
) -> None:
    bundle = bundles[place]
    catalogue, slow = open_catalogue(bundle, kind, tmp_path), Slow(bundle)
    for item_id, action, fields in changes:
        record = None if action is None else LiveItem(NOW, action, fields, "")
        if record is None:
            slow.records.pop(item_id, None)
        else:
            slow.records[item_id] = record
        catalogue.take_live({item_id: record}, NOW)
    user = np.random.default_rng(seed).normal(size=(1, DIM)).astype(np.float32)
    history = [3, len(catalogue) - 1]
    users, addends = catalogue.weigh(user, [history], [NOW - 60], NOW)
    rows = np.arange(len(catalogue))
    scores = catalogue.table.pick(rows) @ users[0]
    if addends is not None:
        scores = scores + addends[0].at(rows)

    shown = slow.shown()
    for raw, holds in FILTERS:
        if kind == "approximate" and raw is None:
            continue  # only filtered rows are all scored
        mask, withdrawn = catalogue.live.restrict(parse(raw, catalogue.attributes).mask() if raw else None)
        scored = catalogue.score(users, 10, len(withdrawn), addends, [mask] if mask is not None else None)
        (found,) = catalogue.best(scored, 10, [withdrawn])
        allowed = [row for row in rows if (item := shown.get(catalogue.item_ids[row])) is not None and holds(item)]
        expected = sorted(allowed, key=lambda row: -scores[row])[:10]

        assert found is not None
        assert np.allclose(found[1], scores[expected], atol=1e-4)
        assert len(set(found[0])) == len(found[0])
        assert set(found[0]) <= set(allowed)
        popular, _ = catalogue.most_popular(len(catalogue), withdrawn, None, mask)
        assert sorted(popular) == allowed


def test_new_item_is_like_what_its_caller_says(bundles: list[Bundle], tmp_path: Path) -> None:
    catalogue = open_catalogue(bundles[0], "exact", tmp_path)
    vector = [float(n) for n in range(DIM)]
    put = {
        "a": LiveItem(NOW, "put", {"like": ["i7"]}),
        "b": LiveItem(NOW, "put", {"vectors": vector}, bundles[0].manifest.version),
        "c": LiveItem(NOW, "put", {"vectors": vector}, "of another version"),
        "d": LiveItem(NOW, "put", {"attributes": {"brand": ["A"], "tag": ["new"]}, "like": ["gone"]}),
        "e": LiveItem(NOW, "put", {"attributes": {"brand": ["A"]}, "like": ["i7"]}),
    }

    catalogue.take_live(put, NOW)

    rows = [catalogue.find_row(item_id) for item_id in put]
    assert [catalogue.origin(row) for row in rows if row is not None] == [
        ["like"], ["vectors"], ["nothing"], ["attributes"], ["like", "attributes"],
    ]  # fmt: skip
    vectors = catalogue.vectors([N + n for n in range(5)])
    lengths = np.linalg.norm(bundles[0].table.dense(), axis=1)
    assert np.allclose(np.linalg.norm(vectors[[0, 1, 3, 4]], axis=1), np.median(lengths), rtol=1e-3)
    assert np.allclose(vectors[0] / np.linalg.norm(vectors[0]), bundles[0].table.dense()[7] / lengths[7], atol=1e-5)
    assert np.allclose(vectors[2], bundles[0].table.dense().mean(axis=0), atol=1e-5)


def test_row_keeps_its_meaning_when_an_item_goes_and_comes_back(bundles: list[Bundle], tmp_path: Path) -> None:
    catalogue = open_catalogue(bundles[0], "exact", tmp_path)
    catalogue.take_live({"a": LiveItem(NOW, "put", {"title": "one"}), "b": LiveItem(NOW, "put", {})}, NOW)
    row = catalogue.find_row("a")

    catalogue.take_live({"a": None}, NOW)
    catalogue.take_live({"c": LiveItem(NOW, "put", {}), "a": LiveItem(NOW, "put", {"title": "two"})}, NOW)

    assert (catalogue.find_row("a"), catalogue.item(row).title) == (row, "two")
    assert bundles[0].items.ids == [f"i{n}" for n in range(N)]


def test_trend_that_was_counted_before_an_item_came_is_no_obstacle(bundles: list[Bundle], tmp_path: Path) -> None:
    catalogue = open_catalogue(bundles[1], "exact", tmp_path)
    catalogue.take_live({"a": LiveItem(NOW, "put", {})}, NOW)
    row = catalogue.find_row("a")
    assert row == N
    counts = np.zeros(N + 1, dtype=np.float32)
    counts[row] = 1e6

    before, _ = catalogue.most_popular(N + 1, ())
    catalogue.set_counts(counts, time.time())
    catalogue.take_live({"b": LiveItem(NOW, "put", {})}, NOW)
    after, _ = catalogue.most_popular(3, ())

    assert before[-1] == row or row in before
    assert after[0] == row
    assert catalogue.most_popular(1, (), None, np.ones(N + 1, dtype=np.bool_))[0] == [row]


@pytest.mark.parametrize("prior_count", [0.0, 4.0])
def test_popular_items_are_those_of_the_whole_catalogue_whatever_is_masked(tmp_path: Path, prior_count: float) -> None:
    n_made, n_live, rng = 900, 500, np.random.default_rng(0)
    encoding = toy_encoding(prior_count=prior_count)
    bundle = write_toy_sum(tmp_path / "b", n_items=n_made, parts=toy_parts(n_made), encoding=encoding)
    catalogue = open_catalogue(bundle, "exact", tmp_path)
    catalogue.use_encoder(ItemEncoder(bundle))
    catalogue.take_live({f"live{n}": LiveItem(NOW, "put", {}) for n in range(n_live)}, NOW)
    counts = np.concatenate([rng.uniform(0, 9, n_made), np.resize(np.float32([0, 0, 6]), n_live)]).astype(np.float32)
    catalogue.set_counts(counts, NOW)
    catalogue.take_live({f"late{n}": LiveItem(NOW, "put", {}) for n in range(7)}, NOW)
    nothing = np.zeros(len(catalogue), dtype=np.float32)
    best = catalogue.most_popular(len(catalogue), (), boost=nothing)[0]

    for n_hidden in (0, 3, 300, 700):
        for hidden in (best[:n_hidden], rng.permutation(len(catalogue))[:n_hidden].tolist()):
            for k in (1, 10, 200, 390, 410, 600, 1000):
                rows, scores = catalogue.most_popular(k, hidden)

                expected, values = catalogue.most_popular(k, hidden, boost=nothing)
                assert rows == expected, (n_hidden, k)
                np.testing.assert_array_equal(scores, values)


def test_encoder_of_the_bundle_makes_vectors_of_what_is_said(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", encoding=toy_encoding())
    catalogue, encoder = open_catalogue(bundle, "exact", tmp_path), ItemEncoder(bundle)
    catalogue.use_encoder(encoder)
    said = {"title": "Café crème", "description": "two cups", "attributes": {"brand": ["A"]}}
    put = {"a": LiveItem(NOW, "put", said), "b": LiveItem(NOW, "put", {}), "c": LiveItem(NOW, "put", {"like": ["i7"]})}
    put["d"] = LiveItem(NOW, "put", {**said, "like": ["i7"]})

    catalogue.take_live(put, NOW)

    rows = [row for item_id in put if (row := catalogue.find_row(item_id)) is not None]
    assert [catalogue.origin(row) for row in rows] == [["text"], ["nothing"], ["like"], ["like", "text"]]
    (vector,), _ = encoder.encode([ItemText("Café crème", "two cups", {"brand": ["A"]})])
    assert np.allclose(catalogue.vectors(rows[:1])[0], vector, atol=1e-5)
    user = np.ones((1, DIM), dtype=np.float32)
    (found,) = catalogue.best(catalogue.score(user, 100, 0), 100, [()])
    assert found is not None
    scores = dict(zip(found[0], found[1], strict=True))
    assert np.isclose(scores[rows[0]], vector.sum() - 0.5, atol=1e-4)
