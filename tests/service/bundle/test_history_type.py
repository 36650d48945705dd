"""What events do by their type, and which are undone: against the rules one at a time, and against a slow reading."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import (
    MANIFEST,
    BundleCorruptError,
    BundleError,
    Effect,
    HistoryTypes,
    bundle_version,
    combine_types,
    open_bundle,
    settle,
    write_bundle,
)
from tests.service.toy import write_toy

HISTORY, STREAM, HIDE, UNDO = Effect.HISTORY, Effect.STREAM, Effect.HIDE, Effect.UNDO
FIELD = {"purchase": 1, "view": 0.2, "click": 0, "skip": "hide", "unlike": "undo"}


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, {"impression": STREAM, "dislike": HIDE, "hide": HIDE, "remove": UNDO, "view": HISTORY, None: HISTORY}),
        (
            FIELD,
            {"purchase": HISTORY, "view": HISTORY, "click": STREAM, "skip": HIDE, "unlike": UNDO, "hide": HIDE,
             "remove": UNDO, "other": STREAM, None: STREAM},
        ),
        ({**FIELD, "*": 0.5}, {"other": HISTORY, None: HISTORY, "click": STREAM, "impression": STREAM}),
        ({"impression": 1, "hide": 1}, {"impression": HISTORY, "hide": HISTORY, "dislike": HIDE}),
    ],
)  # fmt: skip
def test_types_do_what_the_field_says_and_else_what_is_built_in(listed: Any, expected: dict[Any, Effect]) -> None:
    types = HistoryTypes(listed)

    assert {name: types.effect(name) for name in expected} == expected


def test_weights_are_those_of_the_field_and_none_where_a_type_does_not_enter() -> None:
    types = HistoryTypes({**FIELD, "*": 0.5})

    found = [types.weight(name) for name in ("purchase", "view", "click", "skip", "impression", "other", None)]

    assert found == [1, 0.2, 0, 0, 0, 0.5, 0.5]
    assert HistoryTypes().weight("anything") == 1


@pytest.mark.parametrize(
    "listed",
    [
        {"view": -1}, {"view": True}, {"view": "stream"}, {"view": None}, {"view": float("inf")}, {"view": 1e7},
        {"view": float("nan")}, {"": 1}, {"v" * 65: 1}, {"*": "hide"}, {"*": "undo"}, {"view": [1]}, [], "view", 7,
        {str(n): 1 for n in range(201)}, {"\ud800": 1},
    ],
)  # fmt: skip
def test_wrong_field_is_refused_by_name(listed: Any) -> None:
    with pytest.raises(ValueError, match=r"history_types|surrogates"):
        HistoryTypes(listed or "nothing")


@pytest.mark.parametrize(
    ("events", "weights", "effects", "expected"),
    [
        ((), {}, {}, None),
        (("buy",), {}, {}, {"buy": 1}),
        (("buy", "view"), {"view": 0.2, "click": 0.1}, {}, {"buy": 1, "view": 0.2}),
        ((), {"view": 0.2}, {}, {"*": 1, "view": 0.2}),
        ((), {}, {"skip": "hide", "click": "stream"}, {"*": 1, "skip": "hide", "click": 0}),
        (("buy",), {}, {"impression": "history"}, {"buy": 1, "impression": 1}),
    ],
)
def test_settings_of_training_become_the_field(events: Any, weights: Any, effects: Any, expected: Any) -> None:
    assert combine_types(events, weights, effects) == expected


def test_type_that_both_enters_and_hides_is_refused() -> None:
    with pytest.raises(ValueError, match="'buy' cannot both enter"):
        combine_types(("buy",), {}, {"buy": "hide"})


def slowly(events: list[tuple[str, int, Effect]]) -> list[bool]:
    """Which events are not undone: each undoing one looks at all others."""
    order = [HISTORY, HIDE, UNDO]
    alive = set(events)
    for item, at, effect in sorted(set(events), key=lambda event: (event[1], order.index(event[2]))):
        if effect is UNDO:
            before = [each for each in alive if each[0] == item and each[1] <= at and each[2] is not UNDO]
            if before:
                alive.remove(max(before, key=lambda each: (each[1], order.index(each[2]))))
    return [event in alive for event in events]


EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.sampled_from([HISTORY, HIDE, UNDO])))


@given(EVENTS)
def test_settle_agrees_with_a_slow_reading_in_any_order(events: list[tuple[str, int, Effect]]) -> None:
    found = settle(events)

    assert found == slowly(events)
    assert settle(events[::-1]) == found[::-1]


def test_bundle_with_types_is_of_format_2_and_keeps_them(tmp_path: Path) -> None:
    plain = write_toy(tmp_path / "plain")

    bundle = write_toy(tmp_path / "typed", history_types=FIELD)

    assert (plain.manifest.format, bundle.manifest.format) == (1, 2)
    assert (plain.manifest.history_types, bundle.manifest.history_types) == ({}, FIELD)
    assert plain.manifest.files == bundle.manifest.files
    assert plain.manifest.version != bundle.manifest.version
    assert bundle.table.parts is None
    assert "history_types" not in json.loads((plain.path / MANIFEST).read_text())


@pytest.mark.parametrize("wrong", [{}, {"view": "maybe"}, None, [], {"view": -1}])
def test_bundle_with_wrong_types_is_refused(tmp_path: Path, wrong: Any) -> None:
    bundle = write_toy(tmp_path / "bundle", history_types=FIELD)
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["history_types"] = wrong
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleCorruptError, match="history_types"):
        open_bundle(bundle.path)


def test_types_are_a_part_of_the_version(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", history_types=FIELD)
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["history_types"]["view"] = 1
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match="version"):
        open_bundle(bundle.path)
    assert bundle_version(manifest["files"], None, FIELD) == bundle.manifest.version


def test_bundle_of_format_2_that_adds_nothing_is_refused(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle")
    manifest = json.loads((bundle.path / MANIFEST).read_text()) | {"format": 2}
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleCorruptError, match="score"):
        open_bundle(bundle.path)


def test_wrong_types_are_not_written(tmp_path: Path) -> None:
    good = write_toy(tmp_path / "bundle")

    with pytest.raises(BundleError, match="history_types"):
        write_bundle(
            tmp_path / "other",
            encoder=good.encoder,
            table=good.table,
            items=list(good.items),
            golden=good.golden,
            manifest={"created_at": "", "max_history": 6, "repeat_consumption": False, "history_types": {"a": "b"}},
        )
    assert not (tmp_path / "other").exists()
