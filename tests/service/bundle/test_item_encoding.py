"""The item encoder of a bundle: what is written is read back, and what is damaged is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import BundleCorruptError, BundleError, ItemGolden, bundle_version, fingerprint, open_bundle
from tests.service.toy import DIM, toy_encoding, write_toy

GOLDEN = "item_golden.jsonl"
LINE = {"title": "a", "attributes": {}, "vector": [0.0] * DIM, "confidence": 0.5}


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and make its version agree."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    said = (manifest.get(name) for name in ("score", "history_types", "item_encoder"))
    manifest["version"] = bundle_version(manifest["files"], *said)
    (path / "manifest.json").write_text(json.dumps(manifest))


def replace_file(path: Path, name: str, content: bytes) -> None:
    (path / name).write_bytes(content)
    rewrite(path, lambda manifest: manifest["files"].update({name: fingerprint(path / name)}))


def test_written_encoder_reads_back(tmp_path: Path) -> None:
    encoding = toy_encoding()

    bundle = open_bundle(write_toy(tmp_path / "bundle", encoding=encoding).path)

    again = bundle.table.encoding
    assert again is not None
    assert (again.graph, again.buckets, again.offset, again.prior_count) == (encoding.graph, 500, -0.5, 1.5)
    assert [each.text for each in again.golden] == [each.text for each in encoding.golden]
    for each, expected in zip(again.golden, encoding.golden, strict=True):
        assert each.vector == pytest.approx(expected.vector)
        assert each.confidence == pytest.approx(expected.confidence)
    assert bundle.manifest.format == 2
    assert bundle.manifest.item_encoder == {"hashing": 1, "buckets": 500, "offset": -0.5, "prior_count": 1.5}


def test_bundle_without_an_encoder_is_of_format_1(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle")

    assert bundle.manifest.format == 1 and bundle.table.encoding is None
    assert "item_encoder" not in json.loads((bundle.path / "manifest.json").read_text())


def test_version_says_how_the_encoder_is_used(tmp_path: Path) -> None:
    versions = {
        write_toy(tmp_path / "bundle", encoding=toy_encoding(offset=offset)).manifest.version for offset in (0.0, 1.0)
    }

    assert len(versions) == 2


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ([], "not an object"),
        ({"hashing": 2, "buckets": 500, "offset": 0, "prior_count": 0}, "hashing"),
        ({"buckets": 500, "offset": 0, "prior_count": 0}, "hashing"),
        ({"hashing": 1, "buckets": 0, "offset": 0, "prior_count": 0}, "buckets"),
        ({"hashing": 1, "buckets": True, "offset": 0, "prior_count": 0}, "buckets"),
        ({"hashing": 1, "buckets": 1 << 40, "offset": 0, "prior_count": 0}, "buckets"),
        ({"hashing": 1, "buckets": 500, "offset": "0", "prior_count": 0}, "offset"),
        ({"hashing": 1, "buckets": 500, "offset": 0}, "prior_count"),
        ({"hashing": 1, "buckets": 500, "offset": 0, "prior_count": -1}, "negative"),
        ({"hashing": 1, "buckets": 500, "offset": 10**400, "prior_count": 0}, "offset"),
        ({"hashing": 1, "buckets": 500, "offset": -1e300, "prior_count": 0}, "offset"),
    ],
)
def test_field_of_the_manifest_is_refused_when_it_is_wrong(tmp_path: Path, field: object, message: str) -> None:
    path = write_toy(tmp_path / "bundle", encoding=toy_encoding()).path
    rewrite(path, lambda manifest: manifest.update(item_encoder=field))

    with pytest.raises(BundleCorruptError, match=message):
        open_bundle(path)


@pytest.mark.parametrize("name", ["item_encoder.onnx", GOLDEN])
def test_encoder_is_refused_when_one_of_its_files_is_missing(tmp_path: Path, name: str) -> None:
    path = write_toy(tmp_path / "bundle", encoding=toy_encoding()).path
    (path / name).unlink()
    rewrite(path, lambda manifest: manifest["files"].pop(name))

    with pytest.raises(BundleCorruptError, match=name):
        open_bundle(path)


def test_files_of_an_encoder_are_refused_when_the_manifest_has_none(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "bundle", encoding=toy_encoding()).path
    rewrite(path, lambda manifest: manifest.update(item_encoder=None, format=1))
    rewrite(path, lambda manifest: manifest.pop("item_encoder"))

    with pytest.raises(BundleCorruptError, match="item_encoder"):
        open_bundle(path)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        json.dumps(LINE | {"vector": [0.0] * (DIM - 1)}),
        json.dumps(LINE | {"vector": ["x"] * DIM}),
        json.dumps(LINE | {"vector": [1e300] * DIM}),
        json.dumps(LINE | {"title": 3}),
        json.dumps(LINE | {"attributes": [1]}),
        json.dumps({name: value for name, value in LINE.items() if name != "confidence"}),
        '{"attributes": {}, "vector": [1e999], "confidence": 0}',
    ],
)
def test_golden_items_are_refused_when_they_are_damaged(tmp_path: Path, line: str) -> None:
    path = write_toy(tmp_path / "bundle", encoding=toy_encoding()).path
    replace_file(path, GOLDEN, line.encode() + b"\n")

    with pytest.raises(BundleCorruptError, match=f"{GOLDEN}:1"):
        open_bundle(path)


def test_golden_items_are_refused_when_there_are_none(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "bundle", encoding=toy_encoding()).path
    replace_file(path, GOLDEN, b"")

    with pytest.raises(BundleCorruptError, match="no golden items"):
        open_bundle(path)


def test_graph_is_refused_when_it_is_no_onnx_model(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "bundle", encoding=toy_encoding()).path
    replace_file(path, "item_encoder.onnx", b"\xff" * 100)

    with pytest.raises(BundleCorruptError, match=r"item_encoder\.onnx"):
        open_bundle(path)


def test_bundle_is_not_written_when_a_vector_is_not_finite(tmp_path: Path) -> None:
    encoding = toy_encoding()
    broken = ItemGolden(encoding.golden[0].text, np.full(DIM, np.nan, dtype=np.float32), 0.5)

    with pytest.raises((BundleError, ValueError)):
        write_toy(tmp_path / "bundle", encoding=replace(encoding, golden=[broken]))

    assert not (tmp_path / "bundle").exists()
