"""The items of a bundle: ids and popularity in memory, titles and attributes in the file. A part of service.bundle.

Every line is checked when the bundle is opened; what a search needs is kept as columns, and an Item is parsed again
when it is asked for: a million of them in memory would be 160 MB of every worker. Needs the standard library and numpy.
"""

import hashlib
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import BundleCorruptError, parse_json

MAX_ID_LENGTH = 128
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NO_ATTRIBUTES: Mapping[str, Sequence[str]] = {}


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the catalogue. popularity: a count or weight, higher is more popular."""

    item_id: str
    popularity: float
    title: str | None = None
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Items(Sequence[Item]):
    """Row i is line i of the file. ids: list of str; popularity: float64 [n_items]."""

    def __init__(self, path: Path, ids: list[str], popularity: NDArray[np.float64], starts: NDArray[np.int64]) -> None:
        """starts: where each line begins, in bytes."""
        self.ids, self.popularity = ids, popularity
        self._path, self._starts = path, starts

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | Sequence[Item]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        with self._path.open("rb") as file:
            file.seek(int(self._starts[row]))
            return _item_of(parse_json(self._path, file.readline()))

    def __iter__(self) -> Iterator[Item]:
        return (_item_of(fields) for _, fields in read_lines(self._path))


def check_item_id(item_id: str) -> str:
    """Return item_id unchanged. Raises ValueError unless it is 1..128 code points without control characters."""
    if not 1 <= len(item_id) <= MAX_ID_LENGTH:
        raise ValueError(f"an id must have 1 to {MAX_ID_LENGTH} characters, this one has {len(item_id)}")
    if _CONTROL.search(item_id):
        raise ValueError("an id must not contain control characters or lone surrogates")
    return item_id


def read_items(path: Path, n_items: int) -> Items:
    """Read and check items.jsonl. Raises BundleCorruptError."""
    ids, popularity, starts = [], array("d"), array("q", [0])
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            starts.append(starts[-1] + len(line))
            fields = parse_json(f"{path}:{number}", line)
            try:
                item = _item_of(fields)
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as exc:
                raise BundleCorruptError(f"{path}:{number}: not an item: {exc}") from exc
            ids.append(item.item_id)
            popularity.append(item.popularity)
    if len(ids) != n_items:
        raise BundleCorruptError(f"{path}: {len(ids)} items, the manifest says {n_items}")
    if len(set(ids)) != n_items:
        raise BundleCorruptError(f"{path}: the same item_id twice")
    return Items(path, ids, np.array(popularity), np.array(starts[:-1]))


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, parsed line) of a file. Raises BundleCorruptError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield number, parse_json(f"{path}:{number}", line)


def finite(value: Any) -> float:
    """Return a finite float. Raises ValueError."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number


def popularity_order(items: Iterable[Item]) -> NDArray[np.int64]:
    """Return the rows of items, most popular first; ties by item_id."""
    if isinstance(items, Items):
        keys = list(zip((-items.popularity).tolist(), items.ids, strict=True))
    else:
        keys = [(-item.popularity, item.item_id) for item in items]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _item_of(fields: Any) -> Item:
    attributes = {str(name): [str(v) for v in values] for name, values in fields.get("attributes", {}).items()}
    return Item(
        check_item_id(fields["item_id"]),
        finite(fields["popularity"]),
        fields.get("title"),
        attributes or _NO_ATTRIBUTES,  # one for all: of a million items, 64 MB
    )


def tie_hash(user_id: str, item_id: str) -> bytes:
    """Return the 4 bytes that order events of one user and one time.

    In file order a tie would leak the future. So would a hash of the item alone: the last of every basket is then an
    item of high hash, which a model learns (of online_retail's test items 86 % were in the top fifth of all hashes).
    """
    return hashlib.blake2b(f"{user_id}\0{item_id}".encode(), digest_size=4).digest()
