"""Every item as a few 4-bit codes, in lists of similar items, of which only a share is looked at.

Codes and lists are made in the space of the users. Items are stretched along the directions in which users differ, and
users are shrunk by as much, so every product stays what it is. An error in a direction then counts as much as users
notice it; without this, lists hold few of the best items. An item is coded as its difference from the centre of its
list. This is the only module that names faiss.

Where the score is a sum, one code more says how high an item stands in the trend, as one of 16 levels; users ask with
the trend's weight. Levels stay, but what each stands for may be set anew (see coded_trend).

What each choice brings: tests/bench/README.md, "Items are coded as users see them" and "Codes are in lists".
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, ItemTable

_FLOOR = 0.1
"""The least weight of a direction, as a share of the average one: the users at hand do not show all that will come."""
_SEEN = 0.99
"""The share of the items' spread, as users see it, that is coded; the rest is left out.

Codes become a third to a half smaller: tests/bench/README.md, "Only directions that users see are coded".
"""
_BITS = 4
_ROUNDS = 8
_EACH_USER, _EACH_LIST = 11, 13
"""faiss' numbers of two ways to go through lists: user by user, or list by list for all users who ask for it.

User by user is quicker for few users or codes that fit the cache: tests/bench/README.md, "Cached codes are gone through
user by user".
"""
_FEW_USERS = 2
_CACHED_BYTES = 16 << 20
_INDEX, _MAP, _LEVELS = "codes.faiss", "user_map.npy", "levels.npy"
Float64 = NDArray[np.float64]


def faiss_version() -> str:
    """Return the version of faiss. Codes written by one version are not read by another."""
    return str(_faiss().__version__)


def extend_users(users: Float32, table: ItemTable) -> Float32:
    """Return users, float32 [batch, dim], as codes are asked: with a column of ones where items have biases."""
    return users if table.biases is None else np.pad(users, ((0, 0), (0, 1)), constant_values=1)


def extend_items(items: Float32, rows: slice | Int64, table: ItemTable) -> Float32:
    """Return items, the float32 [n, dim] at rows, as they are coded: with a column of their biases if they have any."""
    return items if table.biases is None else np.concatenate([items, table.biases[rows, None]], axis=1)


class Codes:
    """The codes of a catalogue."""

    def __init__(self, index: Any, user_map: Float32, levels: NDArray[np.uint8] | None = None) -> None:
        """index: faiss' index of the items. user_map: float32 [dim, width], takes users to the space of the codes.

        levels: which level of the trend an item is coded as, uint8 [n_items]; None where the trend is not coded.
        """
        self._index, self._user_map, self.levels = index, user_map, levels
        self.heights = _heights(index)
        """What each level of the trend stands for, float32 [16]; may be written to where there are levels."""

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def n_bytes(self) -> int:
        """The size of all codes, in bytes."""
        return int(self._index.code_size) * len(self)

    @property
    def share(self) -> float:
        """The share of all lists that is looked at."""
        return float(self._index.nprobe / self._index.nlist)

    @share.setter
    def share(self, share: float) -> None:
        self._index.nprobe = max(1, round(share * self._index.nlist))

    def nearest(
        self,
        users: Float32,
        depth: int,
        *,
        trend: Float32 | None = None,
        is_thorough: bool = False,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Int64:
        """Return the rows that are best by code, the best first: int64 [batch, depth], -1 past the last one found.

        users: float32 [batch, dim], from extend_users(). trend: its weight for each user, float32 [batch]; None: none.
        is_thorough: look at all lists. allowed: bool [n_items], the rows that may be found; None for all.
        """
        queries, depth = self._ask(users, trend), min(depth, len(self))
        if allowed is not None:
            return self._search_allowed(queries, depth, allowed)
        if not is_thorough:
            return self._search(queries, depth)
        usual, self._index.nprobe = self._index.nprobe, self._index.nlist
        rows = self._search(queries, depth)
        self._index.nprobe = usual
        return rows

    def _ask(self, users: Float32, trend: Float32 | None) -> Float32:
        """Return what faiss is asked with, float32 [batch, width of the index]."""
        queries: Float32 = users @ self._user_map
        if self.levels is None:
            return queries
        width = queries.shape[1]
        asked = np.zeros((len(queries), self._index.d), dtype=np.float32)
        asked[:, :width] = queries
        if trend is not None:
            asked[:, width] = trend
        return asked

    def _search(self, queries: Float32, depth: int) -> Int64:
        is_quick = len(queries) <= _FEW_USERS or self.n_bytes <= _CACHED_BYTES
        self._index.implem = _EACH_USER if is_quick else _EACH_LIST
        rows: Int64 = self._index.search(queries, depth)[1]
        return rows

    def _search_allowed(self, queries: Float32, depth: int, allowed: NDArray[np.bool_]) -> Int64:
        """Look at all lists, and take only allowed rows."""
        faiss, bits = _faiss(), np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        rows: Int64 = self._index.search(
            queries, depth, params=faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nlist)
        )[1]
        return rows

    def save(self, directory: Path) -> None:
        """Write two files, and a third where there are levels. Raises OSError."""
        try:
            _faiss().write_index(self._index, str(directory / _INDEX))
        except RuntimeError as exc:  # faiss raises nothing else
            raise OSError(None, "faiss could not write") from exc
        np.save(directory / _MAP, self._user_map, allow_pickle=False)
        if self.levels is not None:
            np.save(directory / _LEVELS, self.levels, allow_pickle=False)


def open_codes(directory: Path) -> Codes:
    """Read what save() wrote. Raises FileNotFoundError if it is not there, ValueError if it is damaged."""
    if not (directory / _INDEX).exists():
        raise FileNotFoundError(directory / _INDEX)
    try:
        index = _faiss().read_index(str(directory / _INDEX))
    except RuntimeError as exc:  # faiss raises nothing else
        raise ValueError(f"{directory / _INDEX}: {exc}") from exc
    user_map = np.load(directory / _MAP, allow_pickle=False)
    has_levels = index.d > user_map.shape[1]
    return Codes(index, user_map, np.load(directory / _LEVELS, allow_pickle=False) if has_levels else None)


class CodeBuilder:
    """Learns a code from some users and items, then codes every item of a catalogue."""

    def __init__(
        self, users: Float32, items: Float32, *, dims_per_code: int, n_lists: int, trend: Float32 | None = None
    ) -> None:
        """users: float32 [n, dim], from extend_users(); items: float32 [m, dim], from extend_items().

        dims_per_code: how many dimensions one code of 4 bits stands for, 1 or 2. trend: how high the items stand,
        float32 [m], where that is coded too.
        """
        faiss = _faiss()
        self._item_map, self._offset, self._user_map = _fit_maps(users, items, dims_per_code)
        self._n_more = 0 if trend is None else dims_per_code
        self._levels: list[NDArray[np.uint8]] = []
        clustering = faiss.Kmeans(self._item_map.shape[1], n_lists, niter=_ROUNDS, min_points_per_centroid=1)
        clustering.train(self._map(items, None))
        self._centres = np.pad(clustering.centroids, ((0, 0), (0, self._n_more)))
        mapped, width = self._map(items, trend), self._centres.shape[1]
        by_distance = faiss.IndexFlatL2(width)
        by_distance.add(self._centres)
        self._index = faiss.IndexIVFPQFastScan(
            by_distance, width, n_lists, width // dims_per_code, _BITS, faiss.METRIC_INNER_PRODUCT
        )
        self._index.by_residual = True
        self._index.train(mapped)

    def add(self, items: Float32, trend: Float32 | None = None) -> None:
        """Code the next items of the catalogue, float32 [n_rows, dim], from extend_items().

        trend: how high they stand, float32 [n_rows], where that is coded too.
        """
        self._index.add(self._map(items, trend))
        if trend is not None:
            self._levels.append(_nearest_level(_heights(self._index), trend))

    def finish(self) -> Codes:
        """Return the codes of all items that were added.

        Items were put into the list of the nearest centre; users look into those whose centres score best.
        """
        by_product = _faiss().IndexFlatIP(self._centres.shape[1])
        by_product.add(self._centres)
        self._index.quantizer = by_product
        self._index.referenced_objects = [by_product]  # faiss would not keep it alive
        return Codes(self._index, self._user_map, np.concatenate(self._levels) if self._levels else None)

    def _map(self, items: Float32, trend: Float32 | None) -> Float32:
        """Return items as they are coded; the trend is a dimension of its own, in a code of its own."""
        mapped: Float32 = np.ascontiguousarray(items @ self._item_map - self._offset, dtype=np.float32)
        if trend is None:
            return mapped
        more = np.zeros((len(items), self._n_more), dtype=np.float32)
        more[:, 0] = trend
        return np.concatenate([mapped, more], axis=1)


def _heights(index: Any) -> Float32:
    """Return what faiss has learned the 16 values of the last code to stand for, as a view: writing changes them."""
    quantiser = index.pq
    centroids = _faiss().rev_swig_ptr(quantiser.centroids.data(), quantiser.centroids.size())
    heights: Float32 = centroids.reshape(quantiser.M, 1 << _BITS, -1)[-1, :, 0]
    return heights


def _nearest_level(heights: Float32, trend: Float32) -> NDArray[np.uint8]:
    """Return which of the heights each value is nearest to, as faiss codes it."""
    order = np.argsort(heights)
    edges = (heights[order][1:] + heights[order][:-1]) / 2
    return order.astype(np.uint8)[np.searchsorted(edges, trend)]


def _fit_maps(users: Float32, items: Float32, dims_per_code: int) -> tuple[Float32, Float32, Float32]:
    """Return the item map [dim, width], the offset [width] and the user map [dim, width].

    (item @ item_map) · (user @ user_map) is item · user, but for the directions that are left out. The offset is the
    mapped items' mean; taking it off changes all scores of a user by the same.
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
    """Return the dimensions to code, in the order of the codes.

    Where a code stands for two, a wide dimension is paired with a narrow one, so that codes bear about as much each.
    """
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
    """Import faiss, with one thread. Only now: it takes 0.26 s and 15 MB, which a small catalogue need not pay."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    return faiss
