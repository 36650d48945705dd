"""The bundle: what is written is read back, and every way to damage one is seen before it serves."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import (
    Bundle,
    BundleCorruptError,
    BundleError,
    BundleFormatError,
    BundleMissingError,
    Item,
    ItemTable,
    bundle_version,
    check_item_id,
    fingerprint,
    open_bundle,
    pad_histories,
    popularity_order,
    write_bundle,
)
from tests.service.toy import DIM, golden_of, mean_encoder, toy_items, write_toy

FILES = ["user_encoder.onnx", "item_embeddings.npy", "items.jsonl", "golden.jsonl", "manifest.json"]


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    return write_toy(tmp_path / "bundle")


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], None], *, keep_version: bool = False) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    if not keep_version:
        manifest["version"] = bundle_version(manifest["files"], manifest.get("score"))
    (path / "manifest.json").write_text(json.dumps(manifest))


def replace_file(path: Path, name: str, content: bytes) -> None:
    """Replace a file and make the manifest agree, so that only its content can be wrong."""
    (path / name).write_bytes(content)
    rewrite_manifest(path, lambda manifest: manifest["files"].update({name: fingerprint(path / name)}))


def npy(array: np.ndarray, tmp_path: Path) -> bytes:
    np.save(tmp_path / "array.npy", array, allow_pickle=array.dtype == object)
    return (tmp_path / "array.npy").read_bytes()


def test_written_bundle_reads_back(toy: Bundle) -> None:
    again = open_bundle(toy.path)

    assert again.manifest == toy.manifest
    assert [item.item_id for item in again.items] == [item.item_id for item in toy_items()]
    assert again.encoder == mean_encoder()
    assert np.array_equal(again.table.dense(), toy.table.dense())
    assert again.golden == toy.golden


def test_equal_bundles_have_equal_versions_and_others_do_not(tmp_path: Path) -> None:
    versions = [write_toy(tmp_path / str(n), seed=seed).manifest.version for n, seed in enumerate((0, 0, 1))]

    assert versions[0] == versions[1] != versions[2]
    assert len(versions[0]) == 16


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_every_stored_type_comes_out_as_float32(tmp_path: Path, dtype: str) -> None:
    dense = np.random.default_rng(0).normal(size=(60, DIM)).astype(np.float32)
    scales = np.abs(dense).max(axis=1) / 127
    table = ItemTable(np.round(dense / scales[:, None]).astype(np.int8), scales) if dtype == "int8" else ItemTable(
        dense.astype(dtype)
    )  # fmt: skip

    opened = write_bundle(
        tmp_path / "b", encoder=mean_encoder(), table=table, items=toy_items(), golden=golden_of(table, [[1]]),
        manifest={"created_at": "now", "max_history": 3, "repeat_consumption": True},
    )  # fmt: skip

    assert opened.table.dense().dtype == np.float32
    assert np.allclose(opened.table.dense(), dense, atol=0.05)
    assert np.array_equal(opened.table.gather([5, 2]), opened.table.dense()[[5, 2]])


def test_rewriting_a_bundle_replaces_it_and_leaves_nothing_aside(tmp_path: Path) -> None:
    first, second = (write_toy(tmp_path / "bundle", seed=seed).manifest.version for seed in (0, 1))

    assert open_bundle(tmp_path / "bundle").manifest.version == second != first
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_failed_write_leaves_the_old_bundle(toy: Bundle) -> None:
    table = ItemTable(np.full((60, DIM), np.nan, dtype=np.float32))

    with pytest.raises(BundleCorruptError, match="NaN"):
        write_bundle(
            toy.path, encoder=b"", table=table, items=toy_items(), golden=toy.golden,
            manifest={"created_at": "now", "max_history": 3, "repeat_consumption": True},
        )  # fmt: skip

    assert open_bundle(toy.path).manifest.version == toy.manifest.version
    assert [path.name for path in toy.path.parent.iterdir()] == ["bundle"]


def test_unknown_extra_manifest_field_is_ignored(toy: Bundle) -> None:
    rewrite_manifest(toy.path, lambda manifest: manifest.update(colour="red"))

    assert open_bundle(toy.path).manifest.version == toy.manifest.version


def test_missing_directory_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match="training export"):
        open_bundle(tmp_path / "nothing")


def test_any_flipped_bit_is_refused(toy: Bundle) -> None:
    rng = np.random.default_rng(0)
    for name in FILES[:-1]:
        whole = (toy.path / name).read_bytes()
        for place in rng.integers(len(whole), size=25):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            (toy.path / name).write_bytes(damaged)
            with pytest.raises(BundleCorruptError, match=name):
                open_bundle(toy.path)
        (toy.path / name).write_bytes(whole)

    assert open_bundle(toy.path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncate", "empty", "append", "remove", "link", "hard_link", "directory", "fifo"])
def test_damaged_file_is_refused_by_name(toy: Bundle, name: str, damage: str) -> None:
    path = toy.path / name
    whole = path.read_bytes()
    elsewhere = toy.path.parent / "elsewhere"
    elsewhere.write_bytes(whole)
    path.unlink()
    match damage:
        case "truncate":
            path.write_bytes(whole[:-1] if name != "manifest.json" else whole[:-3])
        case "empty":
            path.write_bytes(b"")
        case "append":
            path.write_bytes(whole + b"x")
        case "link":
            path.symlink_to(elsewhere)
        case "hard_link":
            path.hardlink_to(elsewhere)
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)

    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        open_bundle(toy.path)


def test_unlisted_file_is_refused(toy: Bundle) -> None:
    (toy.path / "extra.bin").write_bytes(b"x")

    with pytest.raises(BundleCorruptError, match=r"extra\.bin: not listed"):
        open_bundle(toy.path)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/b", "..", ".hidden", "", "a" * 101, "manifest.json", "a\n"]
)
def test_file_name_that_leaves_the_directory_is_refused(toy: Bundle, name: str) -> None:
    rewrite_manifest(toy.path, lambda manifest: manifest["files"].update({name: {"sha256": "0" * 64, "size": 1}}))

    with pytest.raises(BundleCorruptError, match="not an allowed file name"):
        open_bundle(toy.path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": 3}, BundleFormatError),
        ({"format": 2}, BundleCorruptError),
        ({"format": "1"}, BundleFormatError),
        ({"format": None}, BundleFormatError),
        ({"tie_rule": "file order"}, BundleFormatError),
        ({"version": "0" * 16}, BundleCorruptError),
        ({"version": 5}, BundleCorruptError),
        ({"dim": DIM + 1}, BundleCorruptError),
        ({"dim": 0}, BundleCorruptError),
        ({"dim": True}, BundleCorruptError),
        ({"n_items": 59}, BundleCorruptError),
        ({"max_history": -1}, BundleCorruptError),
        ({"max_history": 1.5}, BundleCorruptError),
        ({"repeat_consumption": 1}, BundleCorruptError),
        ({"files": []}, BundleCorruptError),
        ({"files": {"items.jsonl": {"sha256": 5, "size": 1}}}, BundleCorruptError),
        ({"files": {"items.jsonl": {"sha256": "x", "size": True}}}, BundleCorruptError),
        ({"quality": None}, BundleCorruptError),
    ],
)
def test_wrong_manifest_field_is_refused(toy: Bundle, change: dict[str, Any], error: type[BundleError]) -> None:
    rewrite_manifest(toy.path, lambda manifest: manifest.update(change), keep_version=True)

    with pytest.raises(error, match=r"manifest\.json|item_embeddings\.npy|items\.jsonl"):
        open_bundle(toy.path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b"[" * 100_000, b'{"format": NaN}', b"\xff"])
def test_manifest_that_is_no_object_is_refused(toy: Bundle, content: bytes) -> None:
    (toy.path / "manifest.json").write_bytes(content)

    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(toy.path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((60, DIM + 1), np.float32),
        np.zeros((59, DIM), np.float32),
        np.zeros((DIM, 60), np.float32),
        np.zeros((60, DIM), np.float64),
        np.zeros((60, DIM), np.int8),
        np.full((60, DIM), np.inf, np.float32),
        np.array([[None] * DIM] * 60, dtype=object),
    ],
    ids=["wider", "shorter", "transposed", "float64", "int8_without_scales", "infinite", "pickled"],
)
def test_item_table_of_the_wrong_kind_is_refused(toy: Bundle, tmp_path: Path, array: np.ndarray) -> None:
    replace_file(toy.path, "item_embeddings.npy", npy(array, tmp_path))

    with pytest.raises(BundleCorruptError, match=r"item_embeddings\.npy|item_scales\.npy"):
        open_bundle(toy.path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("items.jsonl", lambda lines: lines[:-1]),
        ("items.jsonl", lambda lines: [*lines[:-1], lines[0]]),
        ("items.jsonl", lambda lines: [*lines[:-1], '{"item_id": "", "popularity": 1}']),
        ("items.jsonl", lambda lines: [*lines[:-1], '{"item_id": "a\\u0000", "popularity": 1}']),
        ("items.jsonl", lambda lines: [*lines[:-1], '{"item_id": "a"}']),
        ("items.jsonl", lambda lines: [*lines[:-1], '{"item_id": "a", "popularity": NaN}']),
        ("items.jsonl", lambda lines: [*lines[:-1], '{"item_id": "a", "popularity": 1e999}']),
        ("items.jsonl", lambda lines: [*lines[:-1], '{"item_id": "a", "popularity": 1' + "0" * 400 + "}"]),
        ("items.jsonl", lambda lines: [*lines[:-1], "5"]),
        ("golden.jsonl", lambda lines: []),
        ("golden.jsonl", lambda lines: [*lines, "{}"]),
        ("golden.jsonl", lambda lines: [*lines, '{"history": [], "k": 1, "items": [["nobody", 1.0]]}']),
        ("golden.jsonl", lambda lines: [*lines, "{"]),
    ],
)
def test_wrong_line_is_refused_by_file(toy: Bundle, name: str, change: Callable[[list[str]], list[str]]) -> None:
    lines = change((toy.path / name).read_text().splitlines())
    replace_file(toy.path, name, "".join(line + "\n" for line in lines).encode())

    with pytest.raises(BundleCorruptError, match=name):
        open_bundle(toy.path)


def test_histories_are_padded_on_the_left_and_cut_to_the_newest(toy: Bundle) -> None:
    history, length = pad_histories(toy.table, [[1, 2], [], list(range(9))], max_history=4)

    assert history.shape == (3, 4, DIM)
    assert length.tolist() == [2, 0, 4]
    assert not history[0, :2].any() and not history[1].any()
    assert np.array_equal(history[0, 2:], toy.table.dense()[[1, 2]])
    assert np.array_equal(history[2], toy.table.dense()[[5, 6, 7, 8]])


def test_popularity_order_breaks_ties_by_id() -> None:
    items = [Item("b", 1.0), Item("a", 1.0), Item("c", 2.0)]

    assert popularity_order(items).tolist() == [2, 1, 0]


@pytest.mark.parametrize("item_id", ["", "a" * 129, "a\x00", "a\nb", "\x7f", "\x85", "\ud800"])
def test_bad_item_id_is_refused(item_id: str) -> None:
    with pytest.raises(ValueError, match="id must"):
        check_item_id(item_id)


@pytest.mark.parametrize("item_id", ["a", "a" * 128, "0444778", "é", "e\u0301", "🙂", "a b", "{x}:%"])
def test_good_item_id_is_returned_unchanged(item_id: str) -> None:
    assert check_item_id(item_id) == item_id
