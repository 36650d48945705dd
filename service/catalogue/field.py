"""The fields of items that a request asks for: the title, and attributes of every kind."""

import json
from collections.abc import Sequence
from typing import Any

from service.bundle import Item
from service.catalogue.attributes import Attributes
from service.catalogue.filter import nearest, shown
from service.errors import FieldError

TITLE = "title"
TAKEN = frozenset({"item_id", "score", "parts", "because", "explored", TITLE})
"""An attribute of such a name cannot be asked for: in an answer the name is something else."""


def check_fields(fields: Sequence[str], attributes: Attributes) -> Sequence[str]:
    """Return the fields, each once. Raises FieldError for one that the items do not have, with the nearest name."""
    known = [TITLE, *(name for name in attributes if name not in TAKEN)]
    for place, name in enumerate(fields):
        if name not in known:
            raise FieldError(f"fields.{place}", f"the items have no field {shown(name)}; {nearest(name, known)}")
    return list(dict.fromkeys(fields))


def pick_fields(item: Item, fields: Sequence[str]) -> bytes:
    """Return the fields of an item as JSON without the brace at the start; null for what it lacks."""
    values = {**item.attributes, **item.numbers, **item.booleans, TITLE: item.title}
    text = json.dumps({name: _said(values.get(name)) for name in fields}, ensure_ascii=False)
    return text.encode("utf-8", "replace")[1:]  # a lone surrogate, which a title may hold, is not JSON


def _said(value: Any) -> Any:
    """Return a value, and null for an attribute without one: a filter takes it for lacking, too."""
    return None if value == [] else value
