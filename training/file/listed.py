"""Lists that were written as text into one field: ['a', 'b'] as Python and numpy print them, JSON's, and [a, b].

A table that held lists and was saved as CSV has them so. Text that holds objects, [{'id': 1, 'name': 'a'}], is nested.
"""

import ast
import re

import polars as pl

from training.file.identifier import MISSING

_PART = re.compile(
    r"""\s*+(?:(?P<quoted>'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")|(?P<bare>[^\[\]{}'",]++))?+\s*+,?""", re.DOTALL
)
_NESTED = r"(?s)^\[?\s*\{.*\}\s*\]?$"


def as_lists(text: pl.Series) -> pl.Series | None:
    """Return a column of text as lists of text, where all its values are lists; else None. Missing values stay null.

    At least one must have a quote or a comma inside: [REC] alone is a name.
    """
    values = text.drop_nulls().unique(maintain_order=True)
    if not len(values) or not values.str.contains(r"(?s)^\[.*\]$").all() or not values.str.contains("['\",]").any():
        return None
    lists = [_items_of(value[1:-1]) for value in values]
    if None in lists:
        return None
    places = pl.DataFrame({"value": values, "list": pl.Series(lists, dtype=pl.List(pl.String))})
    joined = text.to_frame("value").join(places, on="value", how="left", maintain_order="left")
    return joined["list"].alias(text.name)


def is_nested(text: pl.Series) -> bool:
    """Return whether all values of a column of text are objects, or lists of objects."""
    values = text.drop_nulls()
    values = values.filter(~values.str.contains(r"^\[\s*\]$"))
    return bool(len(values)) and bool(values.str.contains(_NESTED).all())


def _items_of(inner: str) -> list[str] | None:
    """Return the items of what stands between brackets; None where that is no list."""
    items, at = [], 0
    while at < len(inner):
        part = _PART.match(inner, at)
        if part is None or part.end() == at:
            return None
        item = _unquoted(part["quoted"]) if part["quoted"] else (part["bare"] or "")
        if (item := item.strip()) and item.lower() not in MISSING:
            items.append(item)
        at = part.end()
    return items


def _unquoted(item: str) -> str:
    try:
        return str(ast.literal_eval(item))
    except (SyntaxError, ValueError):  # an escape that is none, or a line end inside
        return item[1:-1]
