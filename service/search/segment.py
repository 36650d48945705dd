"""Live items beside the table of a bundle: their vectors come after its rows, and are scored exactly beside any search.

A row never changes its meaning. What an item is made of may be set again; nothing is ever taken out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32, Int64, ItemTable
from service.search.addend import Addends, Boosted, Standing
from service.search.protocol import Allowed, Masked, Ranked, Search, rank

_LEAST_ROOM = 256


class GrownTable:
    """The item table of a bundle, with live items after its rows.

    made: the table. n_made: how many rows it has. embeddings, parts: its own.
    """

    def __init__(self, made: ItemTable) -> None:
        self.made, self.embeddings, self.parts = made, made.embeddings, made.parts
        self.n_made, dim = len(made.embeddings), made.embeddings.shape[1]
        self._vectors: Float32 = np.zeros((0, dim), dtype=np.float32)
        self._inputs: Float32 = np.zeros((0, dim), dtype=np.float32)
        self._biases: Float32 = np.zeros(0, dtype=np.float32)
        self.n_live = 0

    def __len__(self) -> int:
        return self.n_made + self.n_live

    @property
    def vectors(self) -> Float32:
        """The vectors of live items, float32 [n_live, dim]."""
        return self._vectors[: self.n_live]

    @property
    def biases(self) -> Float32:
        """The biases of live items, float32 [n_live]."""
        return self._biases[: self.n_live]

    def set(self, row: int, vector: Float32, given: Float32, bias: float) -> None:
        """Let a live row have a vector, that which histories are made of, and a bias. The next row may be a new one."""
        place = row - self.n_made
        if place == len(self._vectors):
            more = max(_LEAST_ROOM, place // 2)
            self._vectors = np.concatenate([self._vectors, np.zeros((more, len(vector)), dtype=np.float32)])
            self._inputs = np.concatenate([self._inputs, np.zeros((more, len(vector)), dtype=np.float32)])
            self._biases = np.concatenate([self._biases, np.zeros(more, dtype=np.float32)])
        self._vectors[place], self._inputs[place], self._biases[place] = vector, given, bias
        self.n_live = max(self.n_live, place + 1)

    def pick(self, rows: Sequence[int] | Int64) -> Float32:
        """Return the vectors that users are multiplied with, of some rows, float32 [len(rows), dim]."""
        return self._mixed(rows, self.made.pick, self._vectors) if self.n_live else self.made.pick(rows)

    def gather(self, rows: Sequence[int] | Int64) -> Float32:
        """Return the vectors that histories are made of, of some rows, float32 [len(rows), dim]."""
        return self._mixed(rows, self.made.gather, self._inputs) if self.n_live else self.made.gather(rows)

    def biases_of(self, rows: Int64) -> Float32 | None:
        """Return the biases of rows, float32 [len(rows)]; None where no item has one."""
        if not self.n_live:
            return None if self.made.biases is None else self.made.biases[rows]
        found: Float32 = np.zeros(len(rows), dtype=np.float32)
        is_live = rows >= self.n_made
        found[is_live] = self._biases[rows[is_live] - self.n_made]
        if self.made.biases is not None:
            found[~is_live] = self.made.biases[rows[~is_live]]
        return found

    def _mixed(self, rows: Sequence[int] | Int64, made: Any, live: Float32) -> Float32:
        chosen = np.asarray(rows, dtype=np.int64)
        is_live = chosen >= self.n_made
        if not is_live.any():
            vectors: Float32 = made(chosen)
            return vectors
        found: Float32 = np.empty((len(chosen), live.shape[1]), dtype=np.float32)
        found[is_live] = live[chosen[is_live] - self.n_made]
        found[~is_live] = made(chosen[~is_live])
        return found


@dataclass(slots=True, eq=False)
class _Both:
    """What was scored: by the search, and of the live items, float32 [batch, n_live]."""

    made: Any
    live: Float32


class Extended:
    """A search over a bundle's table and the live items after it; the live ones are all scored."""

    def __init__(self, search: Search[Any], table: GrownTable) -> None:
        """search: over the table's own rows."""
        self._search, self._table, self.recall = search, table, search.recall

    def describe(self) -> dict[str, Any]:
        """Return the field `index` of GET /model."""
        return self._search.describe()

    def follow(self, standing: Standing) -> None:
        """As the search says."""
        self._search.follow(standing)

    def score(
        self,
        users: Float32,
        k: int,
        n_masked: int,
        addends: Addends | None = None,
        allowed: Allowed | None = None,
    ) -> _Both:
        """Return the scores, as the search and as exact search has them. Raises ModelError."""
        n_made = self._table.n_made
        of_made = None if allowed is None else [None if mask is None else mask[:n_made] for mask in allowed]
        made = self._search.score(users, k, n_masked, _cut(addends, n_made), of_made)
        rows = np.arange(n_made, len(self._table))
        with np.errstate(all="ignore"):
            live: Float32 = users @ self._table.vectors.T
            live += self._table.biases
            for own, addend in zip(live, addends or (), strict=False):
                own += addend.at(rows)
        for own, mask in zip(live, allowed or (), strict=False):
            if mask is not None:
                own[len(mask) - n_made :] = -np.inf
                own[: len(mask) - n_made][~mask[n_made:]] = -np.inf
        return _Both(made, live)

    def best(self, scores: _Both, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user the k best rows that are not masked, or None if one of its scores is not finite."""
        n_made = self._table.n_made
        hidden = [np.asarray(rows, dtype=np.int64) for rows in masked]
        made = self._search.best(scores.made, k, [rows[rows < n_made] for rows in hidden])
        found: list[Ranked | None] = []
        for ranked, own, rows in zip(made, scores.live, hidden, strict=True):
            later = rows[rows >= n_made] - n_made
            own[later[later < len(own)]] = -np.inf
            found.append(None if ranked is None or not (own < np.inf).all() else self._merge(ranked, own, k))
        return found

    def _merge(self, ranked: Ranked, own: Float32, k: int) -> Ranked:
        """Return the k best of what the search found and of the live items. own: their scores, -inf where masked."""
        least = ranked[1][k - 1] if len(ranked[0]) >= k > 0 else -np.inf
        places = np.flatnonzero(own > least)
        if not len(places):
            return ranked
        rows = np.concatenate([np.asarray(ranked[0], dtype=np.int64), places + self._table.n_made])
        return rank(rows, np.concatenate([ranked[1], own[places]]), k)


def _cut(addends: Addends | None, n_made: int) -> Addends | None:
    """Return addends as the search over the table's own rows takes them."""
    if addends is None:
        return None
    return [
        Boosted(each.addend, each.boost[:n_made]) if isinstance(each, Boosted) and len(each.boost) > n_made else each
        for each in addends
    ]


def lengthened(values: NDArray[Any], n: int, fill: float) -> NDArray[Any]:
    """Return values with the fill after them, so that there are n; as they are where there are as many."""
    if len(values) >= n:
        return values
    return np.concatenate([values, np.full(n - len(values), fill, dtype=values.dtype)])
