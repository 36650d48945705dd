"""The columns of a catalogue: the values of one attribute of all items, and which items have some of them.

A text attribute may have several values an item; numbers and booleans have one. An item may lack any of them. Texts are
kept as UTF-8 in one piece and items as codes of them, because a million Python strings would take 70 MB.

Columns change as live items do: set() gives an item other values, and grow() makes room for items that come later. A
text column keeps what was changed beside what it was made of. Masks, and what codes() returns, stay as they are.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Int64
from service.catalogue.growing import Growing

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


class Texts(Sequence[str]):
    """Different texts, each with a number: those of the bundle as Words, and after them those that came later."""

    def __init__(self, words: Words) -> None:
        self._words, self._later = words, dict[str, int]()
        self._in_order: list[str] = []

    def __len__(self) -> int:
        return len(self._words) + len(self._in_order)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        n_words = len(self._words)
        return self._words[number] if number < n_words else self._in_order[number - n_words]

    def find(self, text: str) -> int | None:
        """Return the number of a text; None where it is not among them."""
        found = self._later.get(text) if self._later else None
        return self._words.find(text) if found is None else found

    def number(self, text: str) -> int:
        """Return the number of a text, a new one where it is not among them yet."""
        if (found := self.find(text)) is None:
            found = self._later[text] = len(self)
            self._in_order.append(text)
        return found


class TextColumn:
    """A text attribute. values: every text that an item has, or had."""

    kind = "text"

    def __init__(self, values: Words, codes: Int32, starts: Int32) -> None:
        """codes: the numbers of row i's texts are codes[starts[i] : starts[i + 1]], in the order of the bundle."""
        self.values = Texts(values)
        self._codes, self._starts = codes, starts
        rows = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
        order = np.argsort(codes, kind="stable")
        self._rows = rows[order]  # by text: those of text c are _rows[_ends[c] : _ends[c + 1]]
        self._ends = np.searchsorted(codes[order], np.arange(len(values) + 1))
        self._n_items = len(starts) - 1
        self._own: dict[int, list[int]] = {}  # changed rows, and their codes
        self._rows_of: dict[int, set[int]] = {}  # codes, and the changed rows that have them
        self._changed: Int64 | None = None

    def having(self, texts: Collection[str]) -> Mask:
        """Return which items have one of the texts; one that no item has matches nothing."""
        mask = np.zeros(self._n_items, dtype=np.bool_)
        codes = [code for text in texts if (code := self.values.find(text)) is not None]
        for code in codes:
            if code < len(self._ends) - 1:
                mask[self._rows[self._ends[code] : self._ends[code + 1]]] = True
        if self._own:
            mask[self._changed_rows()] = False
            for code in codes:
                mask[list(self._rows_of.get(code, ()))] = True
        return mask

    def made_with(self, text: str) -> Int32:
        """Return the rows that had a text when the column was made."""
        code = self.values.find(text)
        if code is None or code >= len(self._ends) - 1:
            return self._rows[:0]
        return self._rows[self._ends[code] : self._ends[code + 1]]

    def lacking(self) -> Mask:
        """Return which items have no text."""
        mask: Mask = np.ones(self._n_items, dtype=np.bool_)
        mask[: len(self._starts) - 1] = np.diff(self._starts) == 0
        if self._own:
            mask[self._changed_rows()] = [not codes for codes in self._own.values()]
        return mask

    def codes(self) -> tuple[Int32, Int32]:
        """Return the numbers of all items' texts, and where each item's begin, as the constructor takes them."""
        if not self._own and self._n_items == len(self._starts) - 1:
            return self._codes, self._starts
        n_made = len(self._starts) - 1
        lengths = np.zeros(self._n_items, dtype=np.int32)
        lengths[:n_made] = np.diff(self._starts)
        is_kept = np.ones(n_made, dtype=np.bool_)
        for row, codes in self._own.items():
            lengths[row] = len(codes)
            if row < n_made:
                is_kept[row] = False
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        merged = np.empty(starts[-1], dtype=np.int32)
        is_old = np.ones(len(merged), dtype=np.bool_)
        for row, codes in self._own.items():
            merged[starts[row] : starts[row + 1]] = codes
            is_old[starts[row] : starts[row + 1]] = False
        merged[is_old] = self._codes[np.repeat(is_kept, np.diff(self._starts))]
        return merged, starts

    def grow(self, n_items: int) -> None:
        """Make room for n_items; those that are new have no text."""
        self._n_items = max(n_items, self._n_items)

    def set(self, row: int, texts: Sequence[str] | None) -> None:
        """Give an item other texts, or none."""
        for code in self._own.get(row, ()):
            self._rows_of[code].discard(row)
        if row not in self._own:
            self._changed = None
        self._own[row] = codes = [self.values.number(text) for text in dict.fromkeys(texts or ())]
        for code in codes:
            self._rows_of.setdefault(code, set()).add(row)

    def _changed_rows(self) -> Int64:
        if self._changed is None:
            self._changed = np.fromiter(self._own, dtype=np.int64, count=len(self._own))
        return self._changed


class NumberColumn:
    """A number attribute. numbers: float64 [n_items], NaN where an item has none.

    The different numbers are kept in order, and of each item the place of its own: tests/bench/README.md, "A list of
    numbers". Items that were changed since are looked at one by one.
    """

    kind = "number"

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        self._numbers = Growing(numbers, np.nan)
        self._different, places = np.unique(numbers, return_inverse=True)  # NaN is the last, and one
        self._places = places.astype(np.int32)
        self._own: set[int] = set()
        self._changed: Int64 | None = None

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The numbers of all items."""
        return self._numbers.values

    def having(self, numbers: Collection[float]) -> Mask:
        """Return which items have one of the numbers."""
        wanted = np.fromiter(numbers, dtype=np.float64)
        place = np.minimum(np.searchsorted(self._different, wanted), len(self._different) - 1)
        are_wanted = np.zeros(len(self._different), dtype=np.bool_)
        are_wanted[place[self._different[place] == wanted]] = True
        mask = np.zeros(len(self.numbers), dtype=np.bool_)
        are_wanted.take(self._places, out=mask[: len(self._places)], mode="clip")
        if self._own:
            rows = self._changed_rows()
            mask[rows] = np.isin(self.numbers[rows], wanted)
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

    def grow(self, n_items: int) -> None:
        """Make room for n_items; those that are new have no number."""
        self._numbers.grow(n_items)

    def set(self, row: int, number: float | None) -> None:
        """Give an item another number, or none."""
        self.numbers[row] = np.nan if number is None else number
        if row not in self._own:
            self._own.add(row)
            self._changed = None

    def _changed_rows(self) -> Int64:
        if self._changed is None:
            self._changed = np.fromiter(self._own, dtype=np.int64, count=len(self._own))
        return self._changed


class BooleanColumn:
    """A boolean attribute. states: int8 [n_items]; 1 yes, 0 no, -1 where an item has none."""

    kind = "boolean"

    def __init__(self, states: NDArray[np.int8]) -> None:
        self._states = Growing(states, _ABSENT)

    @property
    def states(self) -> NDArray[np.int8]:
        """The states of all items."""
        return self._states.values

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

    def grow(self, n_items: int) -> None:
        """Make room for n_items; those that are new have none."""
        self._states.grow(n_items)

    def set(self, row: int, boolean: bool | None) -> None:
        """Give an item another boolean, or none."""
        self.states[row] = _ABSENT if boolean is None else int(boolean)


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
