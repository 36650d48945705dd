"""The filter of a request: which items may be in its answer, by their attributes.

    {"brand": ["A", "B"], "price": {"gte": 5, "lt": 50}, "in_stock": true, "not": {"tag": "adult"}, "any": [{...}]}

All conditions of a filter must hold. A list holds where one of its members does, and a single value is a list of one.
A range holds for numbers inside all of its bounds. null holds for items without the attribute; nothing else does. What
stands under "not" must not hold, not one of its conditions; of the filters under "any", at least one must hold.

An attribute that no item has, a value of another type, and a range that no number is inside of are errors. A value that
no item has is none: it matches nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from hashlib import blake2b
from typing import Any, NoReturn

import numpy as np
import orjson

from service.catalogue.attributes import Attributes
from service.catalogue.column import COMPARISONS, Column, Mask, NumberColumn
from service.errors import FieldError

MAX_DEPTH = 8
MAX_VALUES = 1000
_MOST_SHOWN = 10
_JOINING = ("and", "or", "all", "$and", "$or")
_SHOWN = 64


class FilterError(FieldError):
    """A filter that cannot be applied to the items of a version."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What is asked of one attribute: one of the values, inside one of the ranges, or lacking it."""

    name: str
    values: tuple[Any, ...]
    ranges: tuple[Mapping[str, float], ...]
    lacks: bool

    def mask(self, attributes: Attributes) -> Mask:
        """Return for which items it holds."""
        column: Any = attributes.column(self.name)
        masks = [column.between(bounds) for bounds in self.ranges]
        if self.values:
            masks.append(column.having(self.values))
        if self.lacks:
            masks.append(column.lacking())
        return reduce(np.logical_or, masks)


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions and groups, under "all" (a filter), "any" or "not"."""

    kind: str
    parts: tuple["Condition | Group", ...]

    def mask(self, attributes: Attributes) -> Mask:
        """Return for which items it holds."""
        masks = [part.mask(attributes) for part in self.parts]
        if self.kind == "all":
            return reduce(np.logical_and, masks, np.ones(len(attributes), dtype=np.bool_))
        whole = reduce(np.logical_or, masks)
        return ~whole if self.kind == "not" else whole


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that was checked against the attributes of a version."""

    group: Group
    attributes: Attributes
    key: bytes

    @property
    def is_known(self) -> bool:
        """Whether its mask is there already, of an equal filter."""
        return self.key in self.attributes.masks

    def mask(self) -> Mask:
        """Return for which items it holds, bool [n_items]. It is shared with equal filters, and cannot be written."""
        return self.attributes.masks.find(self.key, lambda: self.group.mask(self.attributes))


def parse(raw: Mapping[str, Any], attributes: Attributes, path: str = "filter") -> Filter:
    """Return the filter that a field of a request asks for.

    raw: as it was read from JSON. path: the field's name, for messages. Raises FilterError, which names what is wrong
    in it and the nearest known attribute.
    """
    group = _Reading(attributes, raw, path).whole()
    text = json.dumps(raw, sort_keys=True)  # orjson refuses integers of more than 64 bits
    return Filter(group, attributes, blake2b(text.encode(), digest_size=16).digest())


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: the known one that is most like it, or some that there are."""
    by_lower = {each.lower(): each for each in known}
    if close := get_close_matches(name[:_SHOWN].lower(), by_lower, 1):
        return f"did you mean {shown(by_lower[close[0]])}?"
    if not known:
        return "the items have none"
    more = ", ..." if len(known) > _MOST_SHOWN else ""
    return "there are " + ", ".join(map(shown, sorted(known)[:_MOST_SHOWN])) + more


def shown(value: Any) -> str:
    """Return a value as JSON for a message, cut to a bearable length."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # an integer of more than 64 bits
        text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class _Reading:
    """Reads one filter, and counts its values."""

    def __init__(self, attributes: Attributes, raw: Mapping[str, Any], path: str) -> None:
        self._attributes, self._raw, self._path = attributes, raw, path
        self._n_values = 0

    def whole(self) -> Group:
        return self._group("all", self._raw, self._path, 1, is_top=True)

    def _group(self, kind: str, raw: Any, path: str, depth: int, *, is_top: bool = False) -> Group:
        """Read the conditions of a filter, or those under a "not"."""
        if depth > MAX_DEPTH:
            _refuse(path, f"filters are nested at most {MAX_DEPTH} deep")
        if not isinstance(raw, Mapping):
            _refuse(path, f'a filter is an object such as {{"attribute": ["value"]}}, not {shown(raw)}')
        if not raw and not is_top:
            _refuse(path, "has no condition; leave it out")
        return Group(kind, tuple(self._part(name, value, f"{path}.{name}", depth) for name, value in raw.items()))

    def _part(self, name: str, raw: Any, path: str, depth: int) -> Condition | Group:
        if name == "not":
            return self._group("not", raw, path, depth + 1)
        if name == "any":
            if not isinstance(raw, list) or not raw:
                _refuse(path, "a list of filters, at least one")
            each = (self._group("all", one, f"{path}.{place}", depth + 1) for place, one in enumerate(raw))
            return Group("any", tuple(each))
        self._count(path)
        if name not in self._attributes:
            _refuse(path, f"the items have no attribute {shown(name)}; {_instead(name, self._attributes)}")
        return self._condition(name, raw, path)

    def _condition(self, name: str, raw: Any, path: str) -> Condition:
        members = raw if isinstance(raw, list) else [raw]
        if not members:
            _refuse(path, "an empty list matches nothing; leave it out")
        self._n_values += len(members) - 1
        self._count(path)
        column = self._attributes.column(name)
        values, ranges = [], []
        for place, member in enumerate(members):
            own = f"{path}.{place}" if isinstance(raw, list) else path
            if isinstance(member, Mapping):
                ranges.append(_range(column, name, member, own))
            elif member is not None:
                values.append(_value(column, name, member, own))
        return Condition(name, tuple(values), tuple(ranges), None in members)

    def _count(self, path: str) -> None:
        self._n_values += 1
        if self._n_values > MAX_VALUES:
            _refuse(path, f"a filter has at most {MAX_VALUES:,} names and values")


def _instead(name: str, attributes: Attributes) -> str:
    """Return what stands in a filter in the place of what is no attribute."""
    if name.lower() in _JOINING:
        return 'all conditions of a filter hold, and "any" takes a list of filters of which one holds'
    if name == "item_id":
        return "give ids as candidates, or exclude them"
    return nearest(name, list(attributes))


def _value(column: Column, name: str, value: Any, path: str) -> Any:
    """Check a value, which must be of the type of its column."""
    wanted = {"text": str, "number": int | float, "boolean": bool}[column.kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and column.kind != "boolean"):
        example = {"text": 'text, such as "A"', "number": "a number, such as 5", "boolean": "true or false"}
        _refuse(path, f"{shown(name)} is {example[column.kind]}, not {shown(value)}")
    return value if isinstance(value, str | bool) else _finite(value, path)


def _range(column: Column, name: str, raw: Mapping[str, Any], path: str) -> Mapping[str, float]:
    """Check a range: known bounds, each a finite number, that leave room for a number."""
    if not isinstance(column, NumberColumn):
        values = "true or false" if column.kind == "boolean" else 'values, such as ["A"]'
        _refuse(path, f"a range asks for numbers, and {shown(name)} is {column.kind}: give {values}")
    if not raw:
        _refuse(path, f"an empty range; give one of {', '.join(COMPARISONS)}")
    bounds: dict[str, float] = {}
    for bound, number in raw.items():
        own = f"{path}.{bound}"
        if bound not in COMPARISONS:
            _refuse(own, f"a range has no bound {shown(bound)}; {nearest(bound, list(COMPARISONS))}")
        if isinstance(number, bool) or not isinstance(number, int | float):
            _refuse(own, f"a bound is a number, not {shown(number)}")
        bounds[bound] = _finite(number, own)
    least = max(bounds.get(bound, -math.inf) for bound in ("gt", "gte", "eq"))
    most = min(bounds.get(bound, math.inf) for bound in ("lt", "lte", "eq"))
    is_open = bounds.get("gt") == least or bounds.get("lt") == most
    if least > most or (least == most and is_open):
        _refuse(path, f"no number is inside of {shown(raw)}")
    return bounds


def _finite(number: Any, path: str) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        _refuse(path, f"{shown(number)} is no finite number")
    return value


def _refuse(path: str, message: str) -> NoReturn:
    raise FilterError(path, message)
