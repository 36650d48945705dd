"""Every item as a few 4-bit codes, all of which are looked at for every user. The only module that names faiss.

Codes are made in the metric of the users: items are stretched along the directions in which users differ (and users
shrunk by as much, so that every product stays what it is), because an error counts only as far as a user sees it. Of
1 M items of 128 dimensions, drawn from a fit to a trained table, the 2,000 best by their codes (32 bytes an item)
hold .990 of the true best 100, and .987 without the stretching.

No inverted lists: an inner product over many even dimensions has no neighbourhoods. On the same items, lists that held
.969 of the best 100 were 24 % of all rows, and .77 without the stretching; a pass over all codes takes 1.3 ms (one core
of an AMD EPYC with AVX-512, faiss 1.15).
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64

_FLOOR = 0.1
"""The least that a direction counts, as a share of the average one: no sample of users shows all that will come."""
_BITS = 4
_INDEX, _MAP = "codes.faiss", "user_map.npy"
Float64 = NDArray[np.float64]


def is_installed() -> bool:
    """Whether faiss is there, and loads."""
    try:
        _faiss()
    except ImportError:
        return False
    return True


def versions() -> dict[str, str]:
    """Return what codes are only as good as: the library's version."""
    return {"faiss": str(_faiss().__version__)}


class Codes:
    """The codes of a catalogue."""

    def __init__(self, index: Any, user_map: Float32) -> None:
        """index: faiss's. user_map: float32 [dim, width], from users to the space of the codes."""
        self._index, self._user_map = index, user_map

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def nearest(self, users: Float32, depth: int) -> Int64:
        """Return the rows of the depth best by code, best first, int64 [batch, depth]; users: float32 [batch, dim]."""
        rows: Int64 = self._index.search(users @ self._user_map, min(depth, len(self)))[1]
        return rows

    def save(self, directory: Path) -> None:
        """Write two files. Raises OSError."""
        try:
            _faiss().write_index(self._index, str(directory / _INDEX))
        except RuntimeError as exc:  # faiss's only one
            raise OSError(None, "faiss could not write") from exc
        np.save(directory / _MAP, self._user_map, allow_pickle=False)


def open_codes(directory: Path) -> Codes:
    """Read what save() wrote. Raises OSError or ValueError."""
    try:
        index = _faiss().read_index(str(directory / _INDEX))
    except RuntimeError as exc:  # faiss's only one
        raise ValueError(f"{directory / _INDEX}: {exc}") from exc
    return Codes(index, np.load(directory / _MAP, allow_pickle=False))


class Coder:
    """Learns codes from some users and items, and then codes every item."""

    def __init__(self, users: Float32, items: Float32, dims_per_code: int) -> None:
        """users: float32 [n, dim]; items: float32 [m, dim], a sample; dims_per_code: 1 or 2."""
        faiss = _faiss()
        self._item_map, self._offset, self._user_map = _fit_maps(users, items, dims_per_code)
        width = self._item_map.shape[1]
        self._index = faiss.IndexPQFastScan(width, width // dims_per_code, _BITS, faiss.METRIC_INNER_PRODUCT)
        self._index.train(self._map(items))

    def add(self, items: Float32) -> None:
        """Code the next items, float32 [rows, dim]."""
        self._index.add(self._map(items))

    def finish(self) -> Codes:
        """Return the codes of what was added."""
        return Codes(self._index, self._user_map)

    def _map(self, items: Float32) -> Float32:
        return np.ascontiguousarray(items @ self._item_map - self._offset, dtype=np.float32)


def _fit_maps(users: Float32, items: Float32, dims_per_code: int) -> tuple[Float32, Float32, Float32]:
    """Return item map [dim, width], offset [width] and user map [dim, width].

    (item @ item_map) · (user @ user_map) is item · user; the offset moves every item's score by the same.
    """
    directions = users / np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-12)
    weight, axes = np.linalg.eigh(directions.T.astype(np.float64) @ directions / len(directions))
    weight = np.sqrt(np.maximum(weight, _FLOOR * weight.mean()))
    stretch, shrink = (axes * weight) @ axes.T, (axes / weight) @ axes.T
    spread, turn = np.linalg.eigh(np.cov((items @ stretch).T).reshape(len(axes), len(axes)))
    turn = turn[:, _deal(spread, dims_per_code)]
    width = -(-turn.shape[1] // dims_per_code) * dims_per_code
    turn = np.pad(turn, ((0, 0), (0, width - turn.shape[1])))
    item_map = stretch @ turn
    offset = items.mean(axis=0) @ item_map
    return (item_map.astype(np.float32), offset.astype(np.float32), (shrink @ turn).astype(np.float32))


def _deal(spread: Float64, dims_per_code: int) -> Int64:
    """Return the order of dimensions that pairs the widest with the narrowest: each code then bears about as much."""
    order = np.argsort(spread)[::-1]
    if dims_per_code == 1:
        return order
    half = -(-len(order) // 2)
    pairs = [(order[i], order[-1 - i]) for i in range(len(order) - half)]
    dealt = [dim for pair in pairs for dim in pair]
    return np.array(dealt + ([order[half - 1]] if len(order) % 2 else []), dtype=np.int64)


def _faiss() -> Any:
    """Import faiss, one thread: 0.26 s and 15 MB that a small catalogue need not pay."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    return faiss
