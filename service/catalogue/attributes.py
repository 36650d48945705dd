"""What is known of the items of one version: a column for each attribute, made when the version is loaded.

Live items change it, one row at a time, between two requests. Masks that were made before are not changed: the next
request makes new ones.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Item
from service.catalogue.column import BooleanColumn, Column, Int32, NumberColumn, TextColumn, TextColumnBuilder, Words
from service.catalogue.mask_cache import MaskCache

MOST_NEW = 200
"""So many attributes may come with live items: each is a column of the whole catalogue, and is there for good."""


class Attributes:
    """The columns of all items, and the masks that were lately made of them.

    names, numbers, booleans: the names of the text, number and boolean attributes, ascending. masks: of this version,
    and gone with it.
    """

    def __init__(self, columns: dict[str, Column], n_items: int) -> None:
        """columns: by name, each of n_items items."""
        self._columns, self._n_items = columns, n_items
        self.masks = MaskCache()
        self._merged: dict[str, tuple[Int32, Int32]] = {}
        self._most = len(columns) + MOST_NEW
        self._n_made = n_items
        self._given: dict[int, list[str]] = {}  # by row that was changed: the names that it has
        self._sort_names()

    def _sort_names(self) -> None:
        self.names, self.numbers, self.booleans = (
            sorted(name for name, column in self._columns.items() if isinstance(column, kind))
            for kind in (TextColumn, NumberColumn, BooleanColumn)
        )

    @classmethod
    def of(cls, items: Sequence[Item]) -> "Attributes":
        """Return the attributes of items, which are read once, in order."""
        texts: dict[str, TextColumnBuilder] = {}
        numbers: dict[str, NDArray[np.float64]] = {}
        booleans: dict[str, NDArray[np.int8]] = {}
        n_items = len(items)
        for row, item in enumerate(items):
            for name, values in item.attributes.items():
                if name not in texts:
                    texts[name] = TextColumnBuilder()
                texts[name].add(row, values)
            for name, number in item.numbers.items():
                if name not in numbers:
                    numbers[name] = np.full(n_items, np.nan)
                numbers[name][row] = number
            for name, boolean in item.booleans.items():
                if name not in booleans:
                    booleans[name] = np.full(n_items, -1, dtype=np.int8)
                booleans[name][row] = boolean
        columns: dict[str, Column] = {name: builder.finish(n_items) for name, builder in texts.items()}
        columns |= {name: NumberColumn(column) for name, column in numbers.items()}
        columns |= {name: BooleanColumn(column) for name, column in booleans.items()}
        return cls(columns, n_items)

    def __len__(self) -> int:
        return self._n_items

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def column(self, name: str) -> Column:
        """Return the column of an attribute. Raises KeyError where there is none of that name."""
        return self._columns[name]

    def codes(self, name: str) -> tuple[Sequence[str], Int32, Int32]:
        """Return a text attribute as codes: its values, codes and starts.

        The values of row i are values[code] for code in codes[starts[i] : starts[i + 1]]. Raises KeyError where no text
        attribute has that name.
        """
        column = self._columns[name]
        if not isinstance(column, TextColumn):
            raise KeyError(name)
        if name not in self._merged:
            self._merged[name] = column.codes()
        return column.values, *self._merged[name]

    def kind_of(self, name: str) -> str | None:
        """Return what the values of an attribute are: text, number or boolean; None where no item has it."""
        column = self._columns.get(name)
        return None if column is None else column.kind

    def has_room(self, n_names: int) -> bool:
        """Whether so many attributes that no item has may come with live items."""
        return len(self._columns) + n_names <= self._most

    def grow(self, n_items: int) -> None:
        """Make room for n_items; those that are new have nothing until change() says what."""
        if n_items > self._n_items:
            self._n_items = n_items
            for column in self._columns.values():
                column.grow(n_items)
            self._forget()

    def change(self, row: int, item: Item) -> None:
        """Let a row be an item as it is now.

        A value of another kind than its attribute's is left out, and so are attributes that there is no room for.
        """
        given: dict[str, tuple[str, Any]] = {
            name: (kind, value)
            for kind, values in (("text", item.attributes), ("number", item.numbers), ("boolean", item.booleans))
            for name, value in values.items()
        }
        if new := {name: kind for name, (kind, _) in given.items() if name not in self._columns}:
            room = max(0, self._most - len(self._columns))
            self._columns |= {name: self._empty(kind) for name, kind in islice(new.items(), room)}
            self._sort_names()
        known = [name for name in given if name in self._columns]
        before = self._given.get(row, self._columns if row < self._n_made else ())
        for name in {*before, *known}:
            column = self._columns[name]
            kind, value = given.get(name, (column.kind, None))
            column.set(row, value if kind == column.kind else None)
        self._given[row] = known
        self._forget()

    def _empty(self, kind: str) -> Column:
        """Return a column of which no item has a value yet."""
        if kind == "number":
            return NumberColumn(np.full(self._n_items, np.nan))
        if kind == "boolean":
            return BooleanColumn(np.full(self._n_items, -1, dtype=np.int8))
        none = np.zeros(0, dtype=np.int32)
        return TextColumn(Words([]), none, np.zeros(self._n_items + 1, dtype=np.int32))

    def _forget(self) -> None:
        """Forget what was made of the columns as they were."""
        self.masks.clear()
        self._merged.clear()
