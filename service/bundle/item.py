"""The items of a bundle. Ids and popularity are kept in memory; titles and attributes stay in the file.

Every line of the file is checked when the bundle is opened. An Item is parsed again each time it is asked for: a
million of them in memory would cost every worker 160 MB (tests/bench/README.md, "Items stay in the file"). The file is
mapped into memory, so that it stays readable when another bundle takes its place.
"""

import hashlib
import math
import mmap
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from service.bundle.error import BundleCorruptError
from service.bundle.strict_json import finite, parse_json

MAX_ID_LENGTH = 128
MAX_NAMES = 1024
"""The most different names that the numbers of all items may have, and as many the booleans."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the catalogue.

    popularity: a count or a weight; the higher, the more popular. attributes: {"genre": ["noir", "crime"], ...}.
    numbers: {"price": 9.5, ...}. booleans: {"in_stock": true, ...}. What an item lacks is left out.
    """

    item_id: str
    popularity: float
    title: str | None = None
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    booleans: Mapping[str, bool] = field(default_factory=dict)


class Items(Sequence[Item]):
    """All items of a bundle: item i is line i of the file and row i of the item table.

    ids: list of str; popularity: float64 [n_items]. Both are in memory; an Item is read from the file.
    """

    def __init__(self, path: Path, ids: list[str], popularity: NDArray[np.float64], starts: NDArray[np.int64]) -> None:
        """starts: int64 [n_items], the offset of each line in the file, in bytes."""
        self.ids, self.popularity = ids, popularity
        self._path, self._starts = path, starts
        with path.open("rb") as file:
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | Sequence[Item]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        start = int(self._starts[row])
        end = self._lines.find(b"\n", start)
        return _item_of(parse_json(self._path, self._lines[start : end if end >= 0 else None]))

    def __iter__(self) -> Iterator[Item]:
        return (self[row] for row in range(len(self)))


def check_item_id(item_id: str) -> str:
    """Return item_id unchanged. Raises ValueError unless it has 1 to 128 code points and no control characters."""
    if not 1 <= len(item_id) <= MAX_ID_LENGTH:
        raise ValueError(f"an id must have 1 to {MAX_ID_LENGTH} characters, this one has {len(item_id)}")
    if _CONTROL.search(item_id):
        raise ValueError("an id must not contain control characters or lone surrogates")
    return item_id


def read_items(path: Path, n_items: int, numbers: Sequence[str] = (), booleans: Sequence[str] = ()) -> Items:
    """Read items.jsonl and check every line. Raises BundleCorruptError unless it holds n_items different items.

    numbers, booleans: the names of all that the items have, as the manifest lists them.
    """
    ids, popularity, starts = [], array("d"), array("q", [0])
    seen: dict[str, set[str]] = {"attributes": set(), "numbers": set(), "booleans": set()}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            starts.append(starts[-1] + len(line))
            fields = parse_json(f"{path}:{number}", line)
            try:
                item = _item_of(fields)
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as exc:
                raise BundleCorruptError(f"{path}:{number}: not an item: {exc}") from exc
            for kind, names in seen.items():
                names.update(getattr(item, kind))
            ids.append(item.item_id)
            popularity.append(item.popularity)
    if len(ids) != n_items:
        raise BundleCorruptError(f"{path}: {len(ids)} items, the manifest says {n_items}")
    if len(set(ids)) != n_items:
        raise BundleCorruptError(f"{path}: the same item_id twice")
    _check_names(path, seen, {"numbers": set(numbers), "booleans": set(booleans)})
    return Items(path, ids, np.array(popularity), np.array(starts[:-1]))


def name_values(items: Iterable[Item]) -> dict[str, list[str]]:
    """Return the names of all `numbers` and all `booleans` of items, ascending; a kind that no item has is left out."""
    found: dict[str, set[str]] = {"numbers": set(), "booleans": set()}
    for item in items:
        found["numbers"].update(item.numbers)
        found["booleans"].update(item.booleans)
    return {kind: sorted(names) for kind, names in found.items() if names}


def popularity_order(items: Iterable[Item]) -> NDArray[np.int64]:
    """Return the rows of items, the most popular first, int64 [n_items]; equally popular ones in the order of ids."""
    if isinstance(items, Items):
        keys = list(zip((-items.popularity).tolist(), items.ids, strict=True))
    else:
        keys = [(-item.popularity, item.item_id) for item in items]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def tie_hash(user_id: str, item_id: str) -> bytes:
    """Return 4 bytes: events of one user and one time are ordered by them.

    The order in the file may tell the model what comes next. So does a hash of the item alone, which a model learns
    (tests/bench/README.md, "Ties in time are ordered by user and item").
    """
    return hashlib.blake2b(f"{user_id}\0{item_id}".encode(), digest_size=4).digest()


def _item_of(fields: Any) -> Item:
    attributes = {str(name): [str(v) for v in values] for name, values in fields.get("attributes", {}).items()}
    return Item(
        check_item_id(fields["item_id"]),
        finite(fields["popularity"]),
        fields.get("title"),
        attributes or _NONE,  # one empty mapping for all items, not one each: 64 MB of a million
        _numbers_of(fields["numbers"]) if "numbers" in fields else _NONE,
        _booleans_of(fields["booleans"]) if "booleans" in fields else _NONE,
    )


def _numbers_of(fields: Mapping[str, Any]) -> Mapping[str, float]:
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"numbers[{name[:100]!r}] is no finite number: {str(value)[:100]}")
    return {name: float(value) for name, value in fields.items()}


def _booleans_of(fields: Mapping[str, Any]) -> Mapping[str, bool]:
    for name, value in fields.items():
        if not isinstance(value, bool):
            raise ValueError(f"booleans[{name[:100]!r}] is neither true nor false: {str(value)[:100]}")
    return fields


def _check_names(path: Path, seen: Mapping[str, set[str]], named: Mapping[str, set[str]]) -> None:
    """Raise BundleCorruptError unless the manifest names what the items have, and no name is of two kinds."""
    for kind, names in named.items():
        if wrong := sorted(names ^ seen[kind]):
            where = "only in the manifest" if wrong[0] in names else "not in the manifest"
            raise BundleCorruptError(f"{path}: {kind}[{wrong[0][:100]!r}] is {where}")
    kinds = [(seen["attributes"] & seen["numbers"]), (seen["booleans"] & (seen["attributes"] | seen["numbers"]))]
    if twice := sorted(set().union(*kinds)):
        raise BundleCorruptError(f"{path}: {twice[0][:100]!r} is of two kinds: text, number, boolean")
