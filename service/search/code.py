"""Every item as a few 4-bit codes, in lists of like items, of which a part is looked at. The only module naming faiss.

Codes and lists are made in the metric of the users: items are stretched along the directions in which users differ
(and users shrunk by as much, so that every product stays what it is), because an error counts only as far as a user
sees it. Without it an inner product over many even dimensions has no neighbourhoods: of 1 M items of 128 dimensions,
drawn from a fit to a trained table, a quarter of all lists held .77 of the true best 100, and .97 with it.

An item is coded as its difference from the middle of its list. Half of 256 lists and the best 2,000 by code held .9945
of the best 100, in 2.0 ms; all codes without lists needed the best 5,000 for .9924, in 2.4 ms (one core of a busy AMD
EPYC with AVX-512, faiss 1.15; 32 bytes an item, before what users do not see was left out).
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64

_FLOOR = 0.1
"""The least that a direction counts, as a share of the average one: no sample of users shows all that will come."""
_SEEN = 0.99
"""The share of the items' spread, as users see it, that is coded.

194 to 258 of 384 dimensions hold it (1 M items drawn from a fit to each of three trained tables), so that codes are a
third to a half smaller. The depth that finds the best 100 stays the same on two of the fits and grows from 1,000 to
2,000 on the third, whose users see more directions: the search is still quicker there.
"""
_BITS = 4
_ROUNDS = 8
_EACH_USER, _EACH_LIST = 11, 13
"""Ways of faiss to go through lists: for one user after another, or for all users who ask a list.

Microseconds for 1, 2 and 8 users: of 20,000 items 69, 125 and 472 against 88, 152 and 581; of 100,000 162, 314 and
1,301 against 196, 356 and 1,445; of 1 M, whose codes leave the cache, 1,868, 3,681 and 9,477 against 2,164, 3,660 and
8,503.
"""
_FEW = 2
_CACHED_BYTES = 16 << 20
_INDEX, _MAP = "codes.faiss", "user_map.npy"
Float64 = NDArray[np.float64]


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

    @property
    def n_bytes(self) -> int:
        """The size of all codes."""
        return int(self._index.code_size) * len(self)

    @property
    def share(self) -> float:
        """The share of all lists that is looked at."""
        return float(self._index.nprobe / self._index.nlist)

    @share.setter
    def share(self, share: float) -> None:
        self._index.nprobe = max(1, round(share * self._index.nlist))

    def nearest(self, users: Float32, depth: int, *, is_thorough: bool = False) -> Int64:
        """Return the rows of the depth best by code, best first, int64 [batch, depth], -1 past the last one found.

        users: float32 [batch, dim]. is_thorough: look at all lists.
        """
        queries, depth = users @ self._user_map, min(depth, len(self))
        if not is_thorough:
            return self._search(queries, depth)
        usual, self._index.nprobe = self._index.nprobe, self._index.nlist
        rows = self._search(queries, depth)
        self._index.nprobe = usual
        return rows

    def _search(self, queries: Float32, depth: int) -> Int64:
        self._index.implem = _EACH_USER if len(queries) <= _FEW or self.n_bytes <= _CACHED_BYTES else _EACH_LIST
        rows: Int64 = self._index.search(queries, depth)[1]
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
    if not (directory / _INDEX).exists():
        raise FileNotFoundError(directory / _INDEX)
    try:
        index = _faiss().read_index(str(directory / _INDEX))
    except RuntimeError as exc:  # faiss's only one
        raise ValueError(f"{directory / _INDEX}: {exc}") from exc
    return Codes(index, np.load(directory / _MAP, allow_pickle=False))


class Coder:
    """Learns codes from some users and items, and then codes every item."""

    def __init__(self, users: Float32, items: Float32, dims_per_code: int, n_lists: int) -> None:
        """users: float32 [n, dim]; items: float32 [m, dim], a sample; dims_per_code: 1 or 2."""
        faiss = _faiss()
        self._item_map, self._offset, self._user_map = _fit_maps(users, items, dims_per_code)
        sample, width = self._map(items), self._item_map.shape[1]
        middles = faiss.Kmeans(width, n_lists, niter=_ROUNDS, min_points_per_centroid=1)
        middles.train(sample)
        self._middles = middles.centroids
        by_distance = faiss.IndexFlatL2(width)
        by_distance.add(self._middles)
        self._index = faiss.IndexIVFPQFastScan(
            by_distance, width, n_lists, width // dims_per_code, _BITS, faiss.METRIC_INNER_PRODUCT
        )
        self._index.by_residual = True
        self._index.train(sample)

    def add(self, items: Float32) -> None:
        """Code the next items, float32 [rows, dim]."""
        self._index.add(self._map(items))

    def finish(self) -> Codes:
        """Return the codes of what was added. Items went to the nearest list; users ask those of the best product."""
        by_product = _faiss().IndexFlatIP(self._item_map.shape[1])
        by_product.add(self._middles)
        self._index.quantizer = by_product
        self._index.referenced_objects = [by_product]  # faiss would not keep it alive
        return Codes(self._index, self._user_map)

    def _map(self, items: Float32) -> Float32:
        return np.ascontiguousarray(items @ self._item_map - self._offset, dtype=np.float32)


def _fit_maps(users: Float32, items: Float32, dims_per_code: int) -> tuple[Float32, Float32, Float32]:
    """Return item map [dim, width], offset [width] and user map [dim, width].

    (item @ item_map) · (user @ user_map) is item · user but for what is not coded; the offset moves every item's score
    by the same.
    """
    directions = users / np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-12)
    weight, axes = np.linalg.eigh(directions.T.astype(np.float64) @ directions / len(directions))
    weight = np.sqrt(np.maximum(weight, _FLOOR * weight.mean()))
    stretch, shrink = (axes * weight) @ axes.T, (axes / weight) @ axes.T
    spread, turn = np.linalg.eigh(np.cov((items @ stretch).T).reshape(len(axes), len(axes)))
    turn = turn[:, _deal(spread, dims_per_code)]
    turn = np.pad(turn, ((0, 0), (0, -turn.shape[1] % dims_per_code)))
    item_map = stretch @ turn
    offset = items.mean(axis=0) @ item_map
    return (item_map.astype(np.float32), offset.astype(np.float32), (shrink @ turn).astype(np.float32))


def _deal(spread: Float64, dims_per_code: int) -> Int64:
    """Return the dimensions that count, wide ones paired with narrow ones: each code then bears about as much."""
    order = np.argsort(spread)[::-1]
    seen = np.cumsum(spread[order])
    order = order[: 1 + int(np.searchsorted(seen, _SEEN * seen[-1]))]
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
