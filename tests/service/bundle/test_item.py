"""Numbers and booleans of items: written, named in the manifest, read back, and refused where they are none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.bundle import BundleCorruptError, BundleError, Item, bundle_version, fingerprint, open_bundle
from tests.service.toy import described_items, toy_items, write_toy, write_toy_sum


def test_numbers_and_booleans_come_back_in_format_2(tmp_path: Path) -> None:
    items = described_items()

    plain = write_toy(tmp_path / "plain", items=items)
    whole = write_toy_sum(tmp_path / "sum", items=items)

    for bundle in (plain, whole, open_bundle(plain.path)):
        assert bundle.manifest.format == 2
        assert (list(bundle.manifest.numbers), list(bundle.manifest.booleans)) == (["price"], ["in_stock"])
        assert [(item.numbers, item.booleans) for item in bundle.items] == [(i.numbers, i.booleans) for i in items]
    assert not plain.manifest.score and whole.manifest.score


def test_bundle_without_them_is_of_format_1_as_ever(tmp_path: Path) -> None:
    manifest = json.loads((write_toy(tmp_path / "bundle").path / "manifest.json").read_text())

    assert manifest["format"] == 1
    assert not {"numbers", "booleans", "score"} & set(manifest)


def test_items_stay_readable_when_another_bundle_takes_their_place(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle", items=described_items())

    write_toy(tmp_path / "bundle", n_items=10)

    assert bundle.items[59].title == "title 59"


@pytest.mark.parametrize(
    "item",
    [
        Item("i0", 1.0, None, {}, {"price": float("nan")}),
        Item("i0", 1.0, None, {"price": ["5"]}, {"price": 5.0}),
        Item("i0", 1.0, None, {}, {"price": 5.0}, {"price": True}),
        Item("i0", 1.0, None, {}, {"": 5.0}),
        Item("i0", 1.0, None, {}, {f"n{number}": 1.0 for number in range(1025)}),
    ],
    ids=["NaN", "text and number", "number and boolean", "no name", "too many"],
)
def test_what_is_no_bundle_is_not_written(tmp_path: Path, item: Item) -> None:
    with pytest.raises((BundleError, ValueError)):
        write_toy(tmp_path / "bundle", items=[item, *toy_items()[1:]])
    assert not (tmp_path / "bundle").exists()


def set_number(value: Any) -> Callable[[Any, Any], None]:
    def change(manifest: Any, row: Any) -> None:
        row["numbers"] = {"price": value}

    return change


def forget_names(manifest: Any, row: Any) -> None:
    manifest["numbers"] = []


def name_another(manifest: Any, row: Any) -> None:
    manifest["numbers"] = ["price", "weight"]


def become_format_1(manifest: Any, row: Any) -> None:
    manifest["format"] = 1


def set_flag(manifest: Any, row: Any) -> None:
    row["booleans"] = {"in_stock": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_number("5"), "no finite number"),
        (set_number(True), "no finite number"),
        (set_number(None), "no finite number"),
        (set_flag, "neither true nor false"),
        (forget_names, "not in the manifest"),
        (name_another, "only in the manifest"),
        (become_format_1, "not in the manifest"),
    ],
)
def test_damaged_values_are_refused_by_name(tmp_path: Path, change: Callable[[Any, Any], None], words: str) -> None:
    path = write_toy(tmp_path / "bundle", items=described_items()).path
    manifest = json.loads((path / "manifest.json").read_text())
    lines = (path / "items.jsonl").read_text().splitlines()
    row = json.loads(lines[1])
    change(manifest, row)
    (path / "items.jsonl").write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n")
    manifest["files"]["items.jsonl"] = fingerprint(path / "items.jsonl")
    manifest["version"] = bundle_version(manifest["files"])
    (path / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(BundleCorruptError, match=words):
        open_bundle(path)
