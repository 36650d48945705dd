"""The vector of a new item: from what its caller says of it, until a training knows better.

A vector that is given is taken, if it is of this version. Else, if no items are named that it is like, the bundle's
item encoder makes one of what is said in words, and its offset, which training has calibrated, is the bias. All else is
a weighed mean of directions: that of the items it is like (weight 3), that of the encoder (2), and in a bundle that
has no encoder that of the items which share values of its attributes (1), the rare values counting more. Where nothing
is known it is the mean of all items. Such a vector gets the typical length of an item's, and a bias that a quarter of
the items do not reach, so that it competes with the others and does not lead them.

What histories are made of, where that is another table, is the mean of the items whose vectors are most like its own.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from service.bundle import Float32, Int64, Item, ItemText
from service.catalogue.attributes import Attributes
from service.catalogue.column import TextColumn
from service.catalogue.growing import Growing
from service.catalogue.live_item import LiveItem
from service.errors import ModelError
from service.model.item_encoder import ItemEncoder
from service.search.segment import GrownTable

_SAMPLE = 10_000
_MOST_SHARING = 500
_MOST_KEPT = 20_000
_N_NEAR = 10
_LEAST = 1e-6
_WEIGHTS = {"vectors": 1.0, "like": 3.0, "text": 2.0, "attributes": 1.0}
New = tuple[int, Item, LiveItem]
"""A live row, its item, and the record that made it."""


class Newcomers:
    """Makes vectors of new items for one catalogue."""

    def __init__(
        self,
        table: GrownTable,
        attributes: Attributes,
        find: Callable[[str], int | None],
        version: str,
        encoder: ItemEncoder | None,
    ) -> None:
        """find: returns the row of an id, if there is one. version, encoder: of the model."""
        self._table, self._attributes, self._find, self._version = table, attributes, find, version
        self._encoder = encoder
        rows = np.linspace(0, table.n_made - 1, min(_SAMPLE, table.n_made)).astype(np.int64)
        vectors = table.made.pick(rows)
        lengths = np.linalg.norm(vectors, axis=1)
        self._rows, self._directions = rows, vectors / np.maximum(lengths, 1e-12)[:, None]
        self._length, self._mean = float(np.median(lengths)), vectors.mean(axis=0)
        biases = table.made.biases
        self._bias = 0.0 if biases is None else float(np.quantile(biases[rows], 0.25))
        self._certainties = Growing(np.zeros(0, dtype=np.float32), 0.0)
        self._of_value: dict[tuple[str, str], tuple[Float32, float] | None] = {}

    def add(self, new: Sequence[New]) -> list[list[str]]:
        """Give live rows their vectors; return what each is made of, the weightiest first. Rows come in their order."""
        encoded, sure = self._encode(new)
        origins = [self._add(*each, encoded.get(each[0])) for each in new]
        self._certainties.grow(self._table.n_live)
        for (row, *_), origin in zip(new, origins, strict=True):
            known = {"vectors": 1.0, "text": sure.get(row, 0.0)}
            self._certainties.values[row - self._table.n_made] = known.get(origin[0], 0.0) if len(origin) == 1 else 0.0
        return origins

    def certainties(self, places: Int64) -> Float32:
        """Return how sure the vectors of live items are, float32 [len(places)], as cosines with the true ones.

        places: of live items. 1: it was given. What the encoder says: it alone made it. 0: of every other kind.
        """
        found: Float32 = self._certainties.values[places]
        return found

    def _add(self, row: int, item: Item, record: LiveItem, encoded: Float32 | None) -> list[str]:
        parts = self._parts(item, record, encoded)
        if self._encoder is not None and list(parts) == ["text"]:
            vector = parts["text"]
            self._table.set(row, vector, self._given(vector), self._encoder.offset)
            return ["text"]
        total = sum((_WEIGHTS[name] * _direction(part) for name, part in parts.items()), np.zeros(()))
        length = float(np.linalg.norm(total))
        vector = (total * (self._length / length)).astype(np.float32) if length > _LEAST else self._mean
        self._table.set(row, vector, self._given(vector), self._bias)
        return list(parts) if length > _LEAST else ["nothing"]

    def _parts(self, item: Item, record: LiveItem, encoded: Float32 | None) -> dict[str, Float32]:
        """Return what a vector is made of, the weightiest first."""
        vectors = record.fields.get("vectors")
        if vectors is not None and record.version == self._version and len(vectors) == len(self._mean):
            return {"vectors": np.asarray(vectors, dtype=np.float32)}
        sharing = self._sharing(item) if encoded is None else None
        found = (("like", self._like(record)), ("text", encoded), ("attributes", sharing))
        return {name: direction for name, direction in found if direction is not None}

    def _encode(self, new: Sequence[New]) -> tuple[dict[int, Float32], dict[int, float]]:
        """Return what the encoder makes of items, by row, and how sure it is; nothing where nothing is said."""
        texts = {
            row: ItemText(item.title, record.fields.get("description"), item.attributes) for row, item, record in new
        }
        said = {row: text for row, text in texts.items() if text.title or text.description or text.attributes}
        if self._encoder is None or not said:
            return {}, {}
        try:
            vectors, confidences = self._encoder.encode(list(said.values()))
        except ModelError:
            return {}, {}  # as in a bundle that has no encoder
        return dict(zip(said, vectors, strict=True)), dict(zip(said, confidences.tolist(), strict=True))

    def _given(self, vector: Float32) -> Float32:
        """Return what histories are made of."""
        if self._table.made.inputs is None:
            return vector
        likeness = self._directions @ vector
        near = np.argpartition(-likeness, min(_N_NEAR, len(likeness)) - 1)[:_N_NEAR]
        mean: Float32 = self._table.made.gather(self._rows[near]).mean(axis=0)
        return mean

    def _like(self, record: LiveItem) -> Float32 | None:
        rows = [row for item_id in record.fields.get("like") or () if (row := self._find(item_id)) is not None]
        known = [row for row in rows if row < len(self._table)]
        return _mean_direction(self._table.pick(known)) if known else None

    def _sharing(self, item: Item) -> Float32 | None:
        """Return the direction of the items that share values, weighed by how rare each value is."""
        found = [
            shared
            for name, texts in item.attributes.items()
            for text in dict.fromkeys(texts)
            if (shared := self._value(name, text)) is not None
        ]
        total = sum((weight * direction for direction, weight in found), np.zeros(()))
        return np.asarray(total, dtype=np.float32) if found else None

    def _value(self, name: str, text: str) -> tuple[Float32, float] | None:
        """Return the direction and the weight of a value; None where no item of the bundle has it."""
        if (name, text) not in self._of_value:
            if len(self._of_value) >= _MOST_KEPT:
                self._of_value.clear()
            self._of_value[name, text] = self._measure(name, text)
        return self._of_value[name, text]

    def _measure(self, name: str, text: str) -> tuple[Float32, float] | None:
        column = self._attributes.column(name) if name in self._attributes else None
        rows = column.made_with(text) if isinstance(column, TextColumn) else None
        if rows is None or not len(rows):
            return None
        chosen = rows.astype(np.int64)[np.linspace(0, len(rows) - 1, min(_MOST_SHARING, len(rows))).astype(np.int64)]
        weight = math.log(1 + self._table.n_made / len(rows))
        return _mean_direction(self._table.made.pick(chosen)), weight


def _direction(vector: Float32) -> Float32:
    direction: Float32 = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return direction


def _mean_direction(vectors: Float32) -> Float32:
    """Return the mean of the directions of vectors, float32 [n, dim]."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    mean: Float32 = (vectors / lengths[:, None]).mean(axis=0)
    return mean
