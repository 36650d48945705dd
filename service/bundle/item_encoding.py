"""The item encoder of a bundle: vectors for items that the model was not trained on, from what is said of them.

    item_encoder.onnx       input: features int64 [batch, width], numbers of hash_text(), zeros on the right;
                            outputs: vector float32 [batch, dim], in the place of a row of the item table, and
                            confidence float32 [batch], from 0 to 1: the cosine that vector and true vector are
                            expected to have
    item_golden.jsonl       {"title"?, "description"?, "attributes", "vector": [dim numbers], "confidence"}: what a
                            loaded encoder must give within ITEM_TOLERANCE × max|vector|

The manifest's field is {"hashing", "buckets", "offset", "prior_count"}. score(user, new item) = user · vector + offset
in the place of user · item: vector and offset are fitted on items held out of the encoder's training, so that a new
item competes with the others as its chances are. prior_count: the count that the trend has of a new item before events
are known of it, that of an ordinary item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle.array import Float32
from service.bundle.encoder import read_encoder
from service.bundle.error import BundleCorruptError
from service.bundle.item_text import HASHING, ItemText
from service.bundle.strict_json import finite, read_lines

ITEM_ENCODER = "item_encoder.onnx"
ITEM_GOLDEN = "item_golden.jsonl"
MOST_BUCKETS = 1 << 24
MOST_NUMBER = 1e9
ITEM_TOLERANCE = 1e-4
"""How far off a number of a golden vector may be, as a share of the greatest of it; and a confidence, as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class ItemGolden:
    """An item that is in no bundle, and what the encoder gives for it. vector: float32 [dim]."""

    text: ItemText
    vector: Float32
    confidence: float


@dataclass(frozen=True, slots=True)
class ItemEncoding:
    """An item encoder. graph: the ONNX model. golden: what it must give. The rest: see the manifest's field above."""

    graph: bytes
    golden: Sequence[ItemGolden]
    buckets: int
    offset: float = 0.0
    prior_count: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the field of the manifest."""
        return {
            "hashing": HASHING,
            "buckets": self.buckets,
            "offset": float(self.offset),
            "prior_count": float(self.prior_count),
        }


def parse_item_encoder(fields: object) -> dict[str, Any]:
    """Return the buckets, offset and prior_count of a manifest's field. Raises ValueError, which says why."""
    if not isinstance(fields, Mapping):
        raise ValueError("item_encoder: not an object")
    if fields.get("hashing") != HASHING:
        raise ValueError(f"item_encoder: hashing {str(fields.get('hashing'))[:20]!r}, this version has {HASHING}")
    buckets = fields.get("buckets")
    if type(buckets) is not int or not 1 <= buckets <= MOST_BUCKETS:
        raise ValueError(f"item_encoder: buckets must be a whole number from 1 to {MOST_BUCKETS}")
    numbers = {name: fields.get(name) for name in ("offset", "prior_count")}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= MOST_NUMBER:
            raise ValueError(f"item_encoder: {name} must be a number, and at most {MOST_NUMBER:g}")
    if float(numbers["prior_count"] or 0) < 0:
        raise ValueError("item_encoder: prior_count is negative")
    return {"buckets": buckets, **{name: float(number or 0) for name, number in numbers.items()}}


def read_item_encoding(path: Path, fields: Mapping[str, Any], dim: int) -> ItemEncoding:
    """Read the item encoder of the bundle at path. fields: of the manifest. Raises BundleCorruptError."""
    graph = read_encoder(path / ITEM_ENCODER)
    return ItemEncoding(graph, _read_golden(path / ITEM_GOLDEN, dim), **parse_item_encoder(fields))


def golden_fields(golden: ItemGolden) -> dict[str, Any]:
    """Return a line of item_golden.jsonl as JSON."""
    text = golden.text
    said = {name: value for name, value in (("title", text.title), ("description", text.description)) if value}
    attributes = {name: list(values) for name, values in text.attributes.items()}
    vector = [float(number) for number in golden.vector]
    return {**said, "attributes": attributes, "vector": vector, "confidence": float(golden.confidence)}


def _read_golden(path: Path, dim: int) -> list[ItemGolden]:
    answers = []
    for number, fields in read_lines(path):
        try:
            answers.append(_golden_of(fields, dim))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as exc:
            raise BundleCorruptError(f"{path}:{number}: not a golden item: {exc}") from exc
    if not answers:
        raise BundleCorruptError(f"{path}: no golden items")
    return answers


def _golden_of(fields: Any, dim: int) -> ItemGolden:
    title, description = fields.get("title"), fields.get("description")
    if any(value is not None and not isinstance(value, str) for value in (title, description)):
        raise ValueError("title and description are texts")
    attributes = {str(name): [str(value) for value in values] for name, values in fields["attributes"].items()}
    numbers = [finite(number) for number in fields["vector"]]
    if max(map(abs, numbers), default=0) > MOST_NUMBER:
        raise ValueError(f"a number of its vector is above {MOST_NUMBER:g}")
    vector = np.array(numbers, dtype=np.float32)
    if vector.shape != (dim,):
        raise ValueError(f"its vector has {len(vector)} numbers, the bundle's have {dim}")
    return ItemGolden(ItemText(title, description, attributes), vector, finite(fields["confidence"]))
