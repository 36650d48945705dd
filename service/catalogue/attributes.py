"""What is known of the items of one version: a column for each attribute, made once, when the version is loaded."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.bundle import Item
from service.catalogue.column import BooleanColumn, Column, Int32, NumberColumn, TextColumn, TextColumnBuilder
from service.catalogue.mask_cache import MaskCache


class Attributes:
    """The columns of all items, and the masks that were lately made of them.

    names, numbers, booleans: the names of the text, number and boolean attributes, ascending. masks: of this version,
    and gone with it.
    """

    def __init__(self, columns: dict[str, Column], n_items: int) -> None:
        """columns: by name, each of n_items items."""
        self._columns, self._n_items = columns, n_items
        self.names, self.numbers, self.booleans = (
            sorted(name for name, column in columns.items() if isinstance(column, kind))
            for kind in (TextColumn, NumberColumn, BooleanColumn)
        )
        self.masks = MaskCache()

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
        return column.values, column.codes, column.starts
