"""The bundle as a directory, formats 1 and 2.

    manifest.json           what the model is, and sha256 and size of every other file
    user_encoder.onnx       inputs: history float32 [batch, time <= max_history, dim], newest last, zeros on the left;
                            length int64 [batch]; output: user float32 [batch, dim]
    item_embeddings.npy     float32 | float16 | int8 [n_items, dim]; int8 with item_scales.npy float32 [n_items]
    input_embeddings.npy    optional float32 [n_items, dim]: histories are made of these vectors instead
    item_biases.npy         optional float32 [n_items], in format 1 only
    items.jsonl             row i: {"item_id", "title"?, "attributes": {name: [values]}, "popularity"}; in format 2 also
                            "numbers"? {name: number} and "booleans"? {name: bool}, whose names the manifest lists
    golden.jsonl            {"history": [item_id], "k", "items": [[item_id, score]]}

Format 1: score(user, item) = user · item (+ bias). Format 2 has one of four fields more in its manifest, or more.
`history_types` says which types of events enter histories (service/bundle/history_type.py), `similar` how items that go
with others are scored (service/bundle/similar.py). `item_encoder` says that there is an encoder of new items, in two
files of its own (service/bundle/item_encoding.py). `score` says that the score
is a sum that this is one part of, and which parts there are (service/bundle/score.py says how they add up). With it
there are these files more:

    neighbours.npy          int32 [n_items, M], with neighbour_weights.npy int8 [n_items, M] and neighbour_scales.npy
                            float32 [n_items]; where the part is there
    trend_counts.npy        float32 [1, n_items], decayed to as_of; where the part is there
    golden.jsonl            also "now": Unix seconds; "gap_s": seconds since the last event, null where not known;
                            "counts": {item_id: count}; items not listed have the bundle's count decayed to now

The answer is the K highest. Nothing else is needed to reproduce the model. A bundle without a part that is new is
written as format 1. One of format 2 without `score` is user · item with numbers or booleans.

The file table is checked first (see manifest), then the shape and the values of each file. The encoder is not run.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle.array import check_range, open_array
from service.bundle.encoder import read_encoder
from service.bundle.error import BundleCorruptError
from service.bundle.item import Item, Items, name_values, read_items
from service.bundle.item_encoding import ITEM_ENCODER, ITEM_GOLDEN, ItemEncoding, golden_fields, read_item_encoding
from service.bundle.manifest import (
    ADDITIONS,
    BIASES,
    EMBEDDINGS,
    ENCODER,
    FORMAT,
    GOLDEN,
    INPUT_EMBEDDINGS,
    ITEMS,
    MANIFEST,
    NEIGHBOUR_SCALES,
    NEIGHBOUR_WEIGHTS,
    NEIGHBOURS,
    SCALES,
    SUM_FORMAT,
    TREND_COUNTS,
    Manifest,
    bundle_version,
    check_files,
    fingerprint,
    read_manifest,
)
from service.bundle.score import Neighbours, Parts, parse_score
from service.bundle.strict_json import finite, read_lines
from service.bundle.table import ItemTable


@dataclass(frozen=True, slots=True)
class Golden:
    """A request and its exact answer, by which a loaded model is checked.

    history: item ids, oldest first. items: the k best (item_id, score), the best first; nothing was excluded. The rest
    is of format 2: the Unix time of the request, the seconds since the user's last event (None: not known), and the
    counts of items whose count is not the bundle's decayed to now.
    """

    history: Sequence[str]
    k: int
    items: Sequence[tuple[str, float]]
    now: float = 0.0
    gap_s: float | None = None
    counts: Mapping[str, float] = field(default_factory=dict)


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

    table, items, manifest: what they have of ADDITIONS makes the bundle one of format 2.
    manifest: the fields of Manifest that are not computed here (created_at, max_history, repeat_consumption, ...).
    A bundle that is already at out is replaced. A crash never leaves a mix of both.
    Raises BundleError if what was given is no valid bundle; what was at out is then unchanged.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_files(aside, encoder, table, items, golden)
        files = {path.name: fingerprint(path) for path in sorted(aside.iterdir())}
        score = {} if table.parts is None else table.parts.rule.to_json()
        types, similar = (manifest.get(name) or {} for name in ("history_types", "similar"))
        newcomers = {} if table.encoding is None else table.encoding.to_json()
        computed = {
            "version": bundle_version(files, score, types, newcomers, similar),
            "n_items": int(table.embeddings.shape[0]),
            "dim": int(table.embeddings.shape[1]),
            "files": files,
            "score": score,
            "item_encoder": newcomers,
            **name_values(items),
        }
        additions = {name: computed.get(name) or manifest.get(name) for name in ADDITIONS}
        computed["format"] = SUM_FORMAT if any(additions.values()) else FORMAT
        whole = asdict(Manifest(**{**manifest, **computed}))
        for name in (name for name, value in additions.items() if not value):
            del whole[name]
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
    items = read_items(path / ITEMS, manifest.n_items, manifest.numbers, manifest.booleans)
    golden = _read_golden(path / GOLDEN, set(items.ids), is_sum=table.parts is not None)
    return Bundle(path, manifest, table, items, golden)


def _write_files(path: Path, encoder: bytes, table: ItemTable, items: Sequence[Item], golden: Sequence[Golden]) -> None:
    arrays = {EMBEDDINGS: table.embeddings, SCALES: table.scales, BIASES: table.biases, INPUT_EMBEDDINGS: table.inputs}
    if (parts := table.parts) is not None:
        arrays[TREND_COUNTS] = parts.counts
        if (near := parts.neighbours) is not None:
            arrays |= {NEIGHBOURS: near.rows, NEIGHBOUR_WEIGHTS: near.weights, NEIGHBOUR_SCALES: near.scales}
    (path / ENCODER).write_bytes(encoder)
    for name, array in arrays.items():
        if array is not None:
            np.save(path / name, np.ascontiguousarray(array), allow_pickle=False)
    if (encoding := table.encoding) is not None:
        (path / ITEM_ENCODER).write_bytes(encoding.graph)
        _write_synced(path / ITEM_GOLDEN, "".join(_dump_line(golden_fields(each)) for each in encoding.golden))
    _write_synced(path / ITEMS, "".join(_dump_line(_item_fields(item)) for item in items))
    _write_synced(path / GOLDEN, "".join(_dump_line(_golden_fields(answer, parts)) for answer in golden))


def _item_fields(item: Item) -> dict[str, Any]:
    fields: dict[str, Any] = {"item_id": item.item_id}
    if item.title is not None:
        fields["title"] = item.title
    attributes = {name: list(values) for name, values in item.attributes.items()}
    fields |= {"attributes": attributes}
    if item.numbers:
        fields["numbers"] = {name: float(number) for name, number in item.numbers.items()}
    if item.booleans:
        fields["booleans"] = {name: bool(value) for name, value in item.booleans.items()}
    return fields | {"popularity": float(item.popularity)}


def _golden_fields(answer: Golden, parts: Parts | None) -> dict[str, Any]:
    fields = {"history": answer.history, "k": answer.k, "items": answer.items}
    if parts is not None:
        fields |= {"now": answer.now, "gap_s": answer.gap_s, "counts": dict(answer.counts)}
    return fields


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
    embeddings = open_array(path / EMBEDDINGS, shape, ("float32", "float16", "int8"))
    vectors = {
        name: open_array(path / name, shape[:1], ("float32",)) for name in (SCALES, BIASES) if name in manifest.files
    }
    if (embeddings.dtype == np.int8) != (SCALES in vectors):
        raise BundleCorruptError(f"{path / SCALES}: belongs to an int8 table, and only to one")
    if BIASES in vectors and manifest.score:
        raise BundleCorruptError(f"{path / BIASES}: format 2 has no biases, the trend is in their place")
    inputs = None
    if INPUT_EMBEDDINGS in manifest.files:
        inputs = open_array(path / INPUT_EMBEDDINGS, shape, ("float32",))
    parts, encoding = _open_parts(path, manifest), _open_encoding(path, manifest)
    return ItemTable(embeddings, vectors.get(SCALES), vectors.get(BIASES), inputs, parts, encoding)


def _open_encoding(path: Path, manifest: Manifest) -> ItemEncoding | None:
    for name in (ITEM_ENCODER, ITEM_GOLDEN):
        if (name in manifest.files) != bool(manifest.item_encoder):
            raise BundleCorruptError(f"{path / name}: belongs to the manifest's item_encoder, and only to that")
    return read_item_encoding(path, manifest.item_encoder, manifest.dim) if manifest.item_encoder else None


def _open_parts(path: Path, manifest: Manifest) -> Parts | None:
    rule = parse_score(manifest.score) if manifest.score else None
    wanted = {
        **dict.fromkeys((NEIGHBOURS, NEIGHBOUR_WEIGHTS, NEIGHBOUR_SCALES), rule is not None and rule.neighbours),
        TREND_COUNTS: rule is not None and rule.trend,
    }
    for name, is_wanted in wanted.items():
        if bool(is_wanted) != (name in manifest.files):
            raise BundleCorruptError(f"{path / name}: belongs to a part of the score, and only to that")
    if rule is None:
        return None
    n_items = manifest.n_items
    neighbours = counts = None
    if rule.neighbours is not None:
        rows = open_array(path / NEIGHBOURS, (n_items, None), ("int32",))
        check_range(path / NEIGHBOURS, rows, -1, n_items - 1)
        weights = open_array(path / NEIGHBOUR_WEIGHTS, rows.shape, ("int8",))
        scales = open_array(path / NEIGHBOUR_SCALES, (n_items,), ("float32",))
        neighbours = Neighbours(*map(np.asarray, (rows, weights, scales)))  # indexing a memory map is slow
    if rule.trend is not None:
        counts = open_array(path / TREND_COUNTS, (1, n_items), ("float32",))
        check_range(path / TREND_COUNTS, counts, 0, np.inf)
    return Parts(rule, neighbours, counts)


def _read_golden(path: Path, known: set[str], *, is_sum: bool) -> list[Golden]:
    answers: list[Golden] = []
    for number, fields in read_lines(path):
        try:
            answers.append(_golden_of(fields, is_sum=is_sum))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as exc:
            raise BundleCorruptError(f"{path}:{number}: not a golden answer: {exc}") from exc
        if not known.issuperset([item_id for item_id, _ in answers[-1].items] + list(answers[-1].counts)):
            raise BundleCorruptError(f"{path}:{number}: names an item that is not in {ITEMS}")
    if not answers:
        raise BundleCorruptError(f"{path}: no golden answers")
    return answers


def _golden_of(fields: Any, *, is_sum: bool) -> Golden:
    best = [(str(item_id), finite(score)) for item_id, score in fields["items"]]
    answer = Golden([str(item_id) for item_id in fields["history"]], int(fields["k"]), best)
    if not is_sum:
        return answer
    gap_s = None if fields["gap_s"] is None else finite(fields["gap_s"])
    counts = {str(item_id): finite(count) for item_id, count in fields["counts"].items()}
    if (gap_s is not None and gap_s < 0) or min(counts.values(), default=0) < 0:
        raise ValueError("a gap or a count is negative")
    return replace(answer, now=finite(fields["now"]), gap_s=gap_s, counts=counts)
