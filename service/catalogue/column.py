"""The columns of a catalogue: the values of one attribute of all items, and which items have some of them.

A text attribute may have several values an item; numbers and booleans have one. An item may lack any of them. Texts are
kept as UTF-8 in one piece and items as codes of them, because a million Python strings would take 70 MB.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Int64

Mask = NDArray[np.bool_]
"""Which items something is true of, bool [n_items]."""
Int32 = NDArray[np.int32]
_ABSENT = -1


class Words(Sequence[str]):
    """Different texts in the order of their UTF-8, found by bisection. The number of a text is its place."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        """texts: ascending, each once, in UTF-8."""
        self._text = b"".join(texts)
        self._ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        return self._read(range(len(self))[number]).decode("utf-8", "surrogatepass")

    def find(self, text: str) -> int | None:
        """Return the number of a text; None where it is not among them."""
        wanted = text.encode("utf-8", "surrogatepass")
        number = bisect_left(range(len(self)), wanted, key=self._read)
        return number if number < len(self) and self._read(number) == wanted else None

    def _read(self, number: int) -> bytes:
        return self._text[self._ends[number] : self._ends[number + 1]]


class TextColumn:
    """A text attribute.

    values: every text that an item has. starts: int32 [n_items + 1]; codes: the numbers of row i's texts are
    codes[starts[i] : starts[i + 1]], in the order of the bundle.
    """

    kind = "text"

    def __init__(self, values: Words, codes: Int32, starts: Int32) -> None:
        self.values, self.codes, self.starts = values, codes, starts
        rows = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
        order = np.argsort(codes, kind="stable")
        self._rows = rows[order]  # by text: those of text c are _rows[_ends[c] : _ends[c + 1]]
        self._ends = np.searchsorted(codes[order], np.arange(len(values) + 1))

    def having(self, texts: Collection[str]) -> Mask:
        """Return which items have one of the texts; one that no item has matches nothing."""
        mask = np.zeros(len(self.starts) - 1, dtype=np.bool_)
        for text in texts:
            if (code := self.values.find(text)) is not None:
                mask[self._rows[self._ends[code] : self._ends[code + 1]]] = True
        return mask

    def lacking(self) -> Mask:
        """Return which items have no text."""
        mask: Mask = np.diff(self.starts) == 0
        return mask


class NumberColumn:
    """A number attribute. numbers: float64 [n_items], NaN where an item has none.

    The different numbers are kept in order, and of each item the place of its own: tests/bench/README.md, "A list of
    numbers".
    """

    kind = "number"

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        self.numbers = numbers
        self._different, places = np.unique(numbers, return_inverse=True)  # NaN is the last, and one
        self._places = places.astype(np.int32)

    def having(self, numbers: Collection[float]) -> Mask:
        """Return which items have one of the numbers."""
        wanted = np.fromiter(numbers, dtype=np.float64)
        place = np.minimum(np.searchsorted(self._different, wanted), len(self._different) - 1)
        are_wanted = np.zeros(len(self._different), dtype=np.bool_)
        are_wanted[place[self._different[place] == wanted]] = True
        mask: Mask = are_wanted.take(self._places)
        return mask

    def between(self, bounds: Mapping[str, float]) -> Mask:
        """Return which items have a number inside of all bounds, by the names of COMPARISONS."""
        mask = np.ones(len(self.numbers), dtype=np.bool_)
        for name, bound in bounds.items():
            mask &= COMPARISONS[name](self.numbers, bound)
        return mask

    def lacking(self) -> Mask:
        """Return which items have no number."""
        return np.isnan(self.numbers)


class BooleanColumn:
    """A boolean attribute. states: int8 [n_items]; 1 yes, 0 no, -1 where an item has none."""

    kind = "boolean"

    def __init__(self, states: NDArray[np.int8]) -> None:
        self.states = states

    def having(self, booleans: Collection[bool]) -> Mask:
        """Return which items have one of the booleans."""
        mask = np.zeros(len(self.states), dtype=np.bool_)
        for boolean in booleans:
            mask |= self.states == int(boolean)
        return mask

    def lacking(self) -> Mask:
        """Return which items have none."""
        mask: Mask = self.states == _ABSENT
        return mask


Column = TextColumn | NumberColumn | BooleanColumn
COMPARISONS = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal, "eq": np.equal}
"""The bounds of a range, by their names in a filter."""


class TextColumnBuilder:
    """Takes the texts of items, row by row in ascending order."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._taken, self._rows = array("i"), array("i")

    def add(self, row: int, texts: Sequence[str]) -> None:
        """Take what an item has; a text that it has twice counts once."""
        for text in dict.fromkeys(texts):
            self._taken.append(self._codes.setdefault(text, len(self._codes)))
            self._rows.append(row)

    def finish(self, n_items: int) -> TextColumn:
        """Return the column of n_items items."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in self._codes]
        order = sorted(range(len(encoded)), key=encoded.__getitem__)
        number_of: Int64 = np.empty(len(order), dtype=np.int64)
        number_of[order] = np.arange(len(order))
        codes = number_of[np.asarray(self._taken)].astype(np.int32)
        n_each = np.bincount(np.asarray(self._rows), minlength=n_items)
        starts = np.concatenate([[0], np.cumsum(n_each)]).astype(np.int32)
        return TextColumn(Words([encoded[place] for place in order]), codes, starts)
