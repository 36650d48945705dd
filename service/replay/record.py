"""What is kept of an answer so that it can be made again, and of the surroundings that many answers share.

A record has the request with its scenario resolved, the history and the vector as they were used, the time, and the
answer. Surroundings are what else the scores of a version depend on: the counts of the trend, and the live items. Both
are packed as zlib of JSON; behind the JSON of surroundings a line end and the counts follow, float32.
"""

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.bundle import Float32

_LEVEL = 1
_MOST_BYTES = 64 << 20
_TIMES = ("took_ms", "debug")
"""The fields of an answer that say how long things took."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptAnswer:
    """An answer and what it was made of.

    path: of the request. asked: its resolved body, JSON. at: the Unix time of the scores. seen, hidden: item ids, as
    they were read of the user, oldest first. last_at: the Unix time of the last event, NaN where it is not known.
    vector: of the user, float32 [dim], as it was cached; None where the answer had it made. level, reasons: of the
    lookup. explore: the seed by which a place went to a live item. surroundings: the id of those. answer: its body,
    without what says how long things took.
    """

    recommendation_id: str
    version: str
    path: str
    asked: str
    at: float
    user_id: str | None
    seen: Sequence[str]
    hidden: Sequence[str]
    last_at: float
    vector: Float32 | None
    level: str
    reasons: Sequence[str]
    explore: Sequence[int]
    surroundings: str
    answer: str

    def pack(self) -> bytes:
        """Return it as bytes."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["vector"] = None if self.vector is None else base64.b64encode(self.vector.tobytes()).decode()
        fields["last_at"] = None if math.isnan(self.last_at) else self.last_at
        fields["explore"] = [str(each) for each in self.explore]  # more than 64 bits
        return zlib.compress(orjson.dumps(fields), _LEVEL)

    @classmethod
    def unpack(cls, packed: bytes) -> "KeptAnswer":
        """Return what was packed. Raises ValueError where it cannot be that."""
        fields = _fields_of(_inflate(packed))
        try:
            vector, last_at = fields["vector"], fields["last_at"]
            fields["vector"] = None if vector is None else np.frombuffer(base64.b64decode(vector), dtype=np.float32)
            fields["last_at"] = math.nan if last_at is None else float(last_at)
            fields["explore"] = tuple(int(each) for each in fields["explore"])
            kept = cls(**fields)
            _check(kept)
        except (TypeError, KeyError) as exc:
            raise ValueError("no record of an answer") from exc
        return kept


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What the scores of a version depend on beside request and user.

    live_ids: of the rows after those of the bundle, in their order. places: how far the changes of each shard of the
    live items were known, token and number. counts: of the trend, float32 [rows]; empty where there is none.
    """

    live_ids: Sequence[str]
    places: Sequence[tuple[str, int]]
    counts: Float32

    def pack(self) -> bytes:
        """Return them as bytes."""
        fields = {"live_ids": self.live_ids, "places": self.places}
        return zlib.compress(orjson.dumps(fields) + b"\n" + self.counts.tobytes(), _LEVEL)

    @classmethod
    def unpack(cls, packed: bytes) -> "Surroundings":
        """Return what was packed. Raises ValueError where it cannot be that."""
        head, _, counts = _inflate(packed).partition(b"\n")
        fields = _fields_of(head)
        try:
            places = [(str(token), int(number)) for token, number in fields["places"]]
            return cls([str(each) for each in fields["live_ids"]], places, np.frombuffer(counts, dtype=np.float32))
        except (TypeError, KeyError) as exc:
            raise ValueError("no surroundings of an answer") from exc


def _check(kept: KeptAnswer) -> None:
    """Raise ValueError, TypeError or KeyError unless a record has the types that it is written with."""
    texts = (kept.recommendation_id, kept.version, kept.path, kept.asked, kept.level, kept.surroundings, kept.answer)
    listed = (kept.seen, kept.hidden, kept.reasons)
    are_texts = all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in listed)
    if not all(isinstance(text, str) for text in texts) or not are_texts or type(kept.at) is not float:
        raise ValueError("no record of an answer")
    answer = orjson.loads(kept.answer)
    if not all(isinstance(item["item_id"], str) for item in answer["items"]) or "quality" not in answer:
        raise ValueError("no answer in the record")


def without_times(body: bytes) -> str:
    """Return the JSON of an answer without the fields that say how long things took."""
    fields: Mapping[str, Any] = orjson.loads(body)
    return orjson.dumps({name: value for name, value in fields.items() if name not in _TIMES}).decode()


def _inflate(packed: bytes) -> bytes:
    """Return what was compressed, unless it is more than a record can be. Raises ValueError."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, _MOST_BYTES)
    except zlib.error as exc:
        raise ValueError("not compressed") from exc
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("cut off, or too long")
    return text


def _fields_of(text: bytes) -> dict[str, Any]:
    fields = orjson.loads(text)  # its error is a ValueError
    if not isinstance(fields, dict):
        raise ValueError("no object")
    return fields
