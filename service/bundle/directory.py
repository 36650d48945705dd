"""The bundle as a directory, format 1.

    manifest.json           what the model is, and sha256 and size of every other file
    user_encoder.onnx       inputs: history float32 [batch, time <= max_history, dim], newest last, zeros on the left;
                            length int64 [batch]; output: user float32 [batch, dim]
    item_embeddings.npy     float32 | float16 | int8 [n_items, dim]; int8 with item_scales.npy float32 [n_items]
    input_embeddings.npy    optional float32 [n_items, dim]: histories are made of these vectors instead
    item_biases.npy         optional float32 [n_items]
    items.jsonl             row i: {"item_id", "title"?, "attributes": {name: [values]}, "popularity"}
    golden.jsonl            {"history": [item_id], "k", "items": [[item_id, score]]}

score(user, item) = user · item (+ bias); the answer is the K highest. Nothing else is needed to reproduce the model.

The file table is checked first (see manifest), then the shape and the values of each file. The encoder is not run.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.encoder import read_encoder
from service.bundle.error import BundleCorruptError
from service.bundle.item import Item, Items, read_items
from service.bundle.manifest import (
    BIASES,
    EMBEDDINGS,
    ENCODER,
    GOLDEN,
    INPUT_EMBEDDINGS,
    ITEMS,
    MANIFEST,
    SCALES,
    Manifest,
    bundle_version,
    check_files,
    fingerprint,
    read_manifest,
)
from service.bundle.strict_json import finite, read_lines
from service.bundle.table import ItemTable


@dataclass(frozen=True, slots=True)
class Golden:
    """A request and its exact answer, by which a loaded model is checked.

    history: item ids, oldest first. items: the k best (item_id, score), the best first; nothing was excluded.
    """

    history: Sequence[str]
    k: int
    items: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were checked, open for reading. The arrays of the table are memory maps."""

    path: Path
    manifest: Manifest
    table: ItemTable
    items: Items
    golden: Sequence[Golden]

    @property
    def encoder(self) -> bytes:
        """The ONNX model as bytes, which refer to nothing outside of them. Raises BundleCorruptError."""
        return read_encoder(self.path / ENCODER)


def write_bundle(
    out: Path,
    *,
    encoder: bytes,
    table: ItemTable,
    items: Sequence[Item],
    golden: Sequence[Golden],
    manifest: Mapping[str, Any],
) -> Bundle:
    """Write a bundle beside out, check it, rename it to out, and return it opened again.

    manifest: the fields of Manifest that are not computed here (created_at, max_history, repeat_consumption, ...).
    A bundle that is already at out is replaced. A crash never leaves a mix of both.
    Raises BundleError if what was given is no valid bundle; what was at out is then unchanged.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_files(aside, encoder, table, items, golden)
        files = {path.name: fingerprint(path) for path in sorted(aside.iterdir())}
        n_items, dim = table.embeddings.shape
        computed = {"version": bundle_version(files), "dim": int(dim), "n_items": int(n_items), "files": files}
        whole = asdict(Manifest(**{**manifest, **computed}))
        _write_synced(aside / MANIFEST, json.dumps(whole, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
        aside.chmod(0o755)
        open_bundle(aside)
        _replace_directory(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return open_bundle(out)


def open_bundle(path: Path) -> Bundle:
    """Check every file of the bundle at path and open it. Raises BundleError naming the file that is wrong."""
    path = Path(path)
    manifest = read_manifest(path)
    check_files(path, manifest)
    table = _open_table(path, manifest)
    items = read_items(path / ITEMS, manifest.n_items)
    golden = _read_golden(path / GOLDEN, set(items.ids))
    return Bundle(path, manifest, table, items, golden)


def _write_files(path: Path, encoder: bytes, table: ItemTable, items: Sequence[Item], golden: Sequence[Golden]) -> None:
    arrays = {EMBEDDINGS: table.embeddings, SCALES: table.scales, BIASES: table.biases, INPUT_EMBEDDINGS: table.inputs}
    (path / ENCODER).write_bytes(encoder)
    for name, array in arrays.items():
        if array is not None:
            np.save(path / name, np.ascontiguousarray(array), allow_pickle=False)
    _write_synced(path / ITEMS, "".join(_dump_line(_item_fields(item)) for item in items))
    _write_synced(path / GOLDEN, "".join(_dump_line(asdict(answer)) for answer in golden))


def _item_fields(item: Item) -> dict[str, Any]:
    fields: dict[str, Any] = {"item_id": item.item_id}
    if item.title is not None:
        fields["title"] = item.title
    attributes = {name: list(values) for name, values in item.attributes.items()}
    return fields | {"attributes": attributes, "popularity": float(item.popularity)}


def _dump_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace_directory(aside: Path, out: Path) -> None:
    if not out.exists():
        aside.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old / out.name)
    aside.rename(out)
    shutil.rmtree(old)


def _open_table(path: Path, manifest: Manifest) -> ItemTable:
    shape = (manifest.n_items, manifest.dim)
    embeddings = _open_array(path / EMBEDDINGS, shape, ("float32", "float16", "int8"))
    vectors = {
        name: _open_array(path / name, shape[:1], ("float32",)) for name in (SCALES, BIASES) if name in manifest.files
    }
    if (embeddings.dtype == np.int8) != (SCALES in vectors):
        raise BundleCorruptError(f"{path / SCALES}: belongs to an int8 table, and only to one")
    inputs = None
    if INPUT_EMBEDDINGS in manifest.files:
        inputs = _open_array(path / INPUT_EMBEDDINGS, shape, ("float32",))
    return ItemTable(embeddings, vectors.get(SCALES), vectors.get(BIASES), inputs)


def _open_array(path: Path, shape: tuple[int, ...], dtypes: Sequence[str]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise BundleCorruptError(f"{path}: not a .npy array") from exc
    if array.shape != shape or array.dtype.name not in dtypes:
        raise BundleCorruptError(
            f"{path}: {array.dtype.name} {list(array.shape)}, expected {' or '.join(dtypes)} {list(shape)}"
        )
    if array.dtype.kind == "f" and not _all_finite(array):
        raise BundleCorruptError(f"{path}: contains NaN or infinity")
    return array


def _all_finite(array: NDArray[Any], rows_at_once: int = 65536) -> bool:
    return all(
        bool(np.isfinite(array[start : start + rows_at_once]).all()) for start in range(0, len(array), rows_at_once)
    )


def _read_golden(path: Path, known: set[str]) -> list[Golden]:
    answers: list[Golden] = []
    for number, fields in read_lines(path):
        try:
            best = [(str(item_id), finite(score)) for item_id, score in fields["items"]]
            answers.append(Golden([str(item_id) for item_id in fields["history"]], int(fields["k"]), best))
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise BundleCorruptError(f"{path}:{number}: not a golden answer: {exc}") from exc
        if not known.issuperset(item_id for item_id, _ in answers[-1].items):
            raise BundleCorruptError(f"{path}:{number}: names an item that is not in {ITEMS}")
    if not answers:
        raise BundleCorruptError(f"{path}: no golden answers")
    return answers
