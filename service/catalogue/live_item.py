"""A live item: what a caller has put, changed or withdrawn since the bundle was made, as the store keeps it.

A record is whole (PUT), or it changes an item of the bundle (PATCH), or it withdraws an item (DELETE). What it says of
an item counts until a bundle that is newer than the record brings that item. A withdrawal counts until the item is put
again; one of a new item keeps what was said of it, of which its vector in histories is made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from service.bundle import Item

NAMED = ("attributes", "numbers", "booleans")
"""The fields that are merged name by name."""
MOST_RECORD_BYTES = 32 << 10
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class LiveItem:
    """One record.

    at: when it was written, Unix seconds. version: of the model that its vectors belong to. fields: as in the body of
    the request; null takes away what the bundle says. kind: put, patch or gone.
    """

    at: float
    kind: Literal["put", "patch", "gone"]
    fields: Mapping[str, Any]
    version: str = ""

    def pack(self) -> bytes:
        """Return the record as the store keeps it."""
        return orjson.dumps({"at": self.at, "kind": self.kind, "fields": self.fields, "version": self.version})

    @property
    def expires_at(self) -> float | None:
        """The Unix time from which the item is not shown; None where there is none."""
        expires_at: float | None = self.fields.get("expires_at")
        return expires_at

    def is_shown(self, now: float) -> bool:
        """Whether the item may be in answers at a Unix time."""
        return self.kind != "gone" and (self.expires_at is None or now < self.expires_at)

    def applies_to(self, *, is_known: bool, bundle_at: float) -> bool:
        """Whether the record says something of an item in a version. is_known: its bundle has the item.

        bundle_at: when the bundle was made, Unix seconds. What the bundle says later is newer; a withdrawal stands.
        """
        if self.kind == "gone":
            return is_known or bool(self.fields)
        return self.at >= bundle_at if is_known else self.kind == "put"

    def withdrawn(self, at: float, *, is_known: bool) -> "LiveItem":
        """Return the record that withdraws the item. is_known: a bundle has it, and knows its vector."""
        keeps = self.kind != "patch" and not is_known
        return LiveItem(at, "gone", self.fields if keeps else {}, self.version if keeps else "")

    def merge(self, fields: Mapping[str, Any], at: float, version: str) -> "LiveItem":
        """Return the record with other fields over its own, name by name."""
        merged = {**self.fields, **{name: value for name, value in fields.items() if name not in NAMED}}
        for kind in NAMED:
            if kind in fields:
                merged[kind] = {**self.fields.get(kind, _NONE), **fields[kind]}
        vectors_of = version if "vectors" in fields else self.version
        return LiveItem(at, self.kind, merged if self.kind == "patch" else without_nulls(merged), vectors_of)

    def over(self, item_id: str, base: Item | None) -> Item:
        """Return the item that the record makes, over what the bundle says of it, if it does."""
        if self.kind != "patch" or base is None:
            named = {kind: self.fields.get(kind, _NONE) for kind in NAMED}
            popularity = 0.0 if base is None else base.popularity
            return Item(item_id, popularity, self.fields.get("title"), **named)
        named = {
            kind: {
                name: value
                for name, value in {**getattr(base, kind), **self.fields.get(kind, _NONE)}.items()
                if value is not None
            }
            for kind in NAMED
        }
        return Item(item_id, base.popularity, self.fields.get("title", base.title), **named)


def read_live_item(packed: bytes) -> LiveItem | None:
    """Return a record of the store; None of what this service has not written."""
    try:
        found = orjson.loads(packed)
        item = LiveItem(float(found["at"]), found["kind"], found["fields"], str(found["version"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return item if item.kind in ("put", "patch", "gone") and _are_fields(item.fields, item.kind) else None


def _are_fields(fields: Any, kind: str) -> bool:
    """Whether fields have the forms that this service writes: others would fail wherever an item is shown."""
    if not isinstance(fields, dict) or not all(fits(fields.get(name)) for name, fits in _SINGLE.items()):
        return False
    null = (None,) if kind == "patch" else ()
    for name, fits in _OF_NAMES.items():
        named = fields.get(name, _NONE)
        if not isinstance(named, dict) or not all(value in null or fits(value) for value in named.values()):
            return False
    return True


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


_SINGLE: Mapping[str, Callable[[Any], bool]] = {
    "title": lambda value: value is None or isinstance(value, str),
    "description": lambda value: value is None or isinstance(value, str),
    "like": lambda value: value is None or _are_texts(value),
    "vectors": lambda value: value is None or (isinstance(value, list) and all(map(_is_number, value))),
    "expires_at": lambda value: value is None or _is_number(value),
}
_OF_NAMES: Mapping[str, Callable[[Any], bool]] = {
    "attributes": _are_texts,
    "numbers": _is_number,
    "booleans": lambda value: isinstance(value, bool),
}


def without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields without those that are null, and without the names that are."""
    kept = {name: value for name, value in fields.items() if value is not None}
    for kind in NAMED:
        if kind in kept:
            kept[kind] = {name: value for name, value in kept[kind].items() if value is not None}
    return kept


def texts_of(item: Item, description: str | None) -> Sequence[str]:
    """Return what can be read of an item: its title and its description."""
    return [text for text in (item.title, description) if text]
