"""Exact search: score every item, then choose the k best.

Masked rows, and those that are not allowed, are given a score of -inf before the choice, so an exclusion never shortens
the answer while items are left.

The choice has two steps, because sorting out 20,000 scores takes longer than computing them. The items are divided into
groups, and the k-th greatest of the groups' maxima is a score that at least k items reach. Only the groups that reach
it are looked through, and only the items that reach it are sorted.

An int8 table is multiplied as it is, with users of 14 bits. What rounding took off them is made up for in the scores of
the best alone. So only items whose scores differ by about 1e-5 may change places at the end of the list.

What both bring: tests/bench/README.md, "The best k are chosen by groups" and "Users have 14 bits".
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from service.bundle import Float32, Int64, ItemTable
from service.search.addend import Addends, Standing
from service.search.matmul import Int8MatMul, MatMul
from service.search.protocol import Allowed, Masked, Ranked

_GROUP = 32
_LOWEST = np.finfo(np.float32).min


@dataclass(slots=True, eq=False)
class Scored:
    """The scores of all items for a batch of users, float32 [batch, n_columns >= n_items].

    lost: what rounding took off the users, float32 [batch, dim]; None where they were not rounded.
    """

    scores: Float32
    lost: Float32 | None


class Exact:
    """Scores the whole catalogue, from a copy of its table."""

    recall = 1.0

    def __init__(self, table: ItemTable) -> None:
        self._table, self._embeddings = table, np.asarray(table.embeddings)
        self._n_items, dim = table.embeddings.shape
        self._n_groups = -(-self._n_items // _GROUP)
        # Item j is column j, and a member of group j % n_groups; columns past the last item are never in an answer.
        n_columns = self._n_groups * _GROUP
        self._product: MatMul | Int8MatMul
        if table.scales is None:
            columns = np.zeros((dim, n_columns), dtype=np.float32)
            columns[:, : self._n_items] = table.dense().T
            self._product = MatMul(columns)
        else:
            integers = np.zeros((dim, n_columns), dtype=np.int8)
            integers[:, : self._n_items] = table.embeddings.T
            self._product = Int8MatMul(integers, np.resize(table.scales, n_columns))

    def describe(self) -> dict[str, Any]:
        """Return the field `index` of GET /model."""
        return {"kind": "exact", "recall_at_100": self.recall}

    def follow(self, standing: Standing) -> None:
        """Do nothing: the whole trend is added to every user's scores."""

    def score(
        self,
        users: Float32,
        k: int,
        n_masked: int,
        addends: Addends | None = None,
        allowed: Allowed | None = None,
    ) -> Scored:
        """Return user · item (+ bias, + addend) of every item, for users float32 [batch, dim]. Raises ModelError."""
        scores, lost = self._product.multiply(users)
        if self._table.biases is not None:
            scores[:, : self._n_items] += self._table.biases
        if addends is not None:
            for own, addend in zip(scores, addends, strict=True):
                addend.add_to(own[: self._n_items])
        for own, rows in zip(scores, allowed or (), strict=False):
            if rows is not None:
                np.copyto(own[: self._n_items], -np.inf, where=~rows)
        scores[:, self._n_items :] = -np.inf
        return Scored(scores, lost)

    def best(self, scores: Scored, k: int, masked: Masked) -> list[Ranked | None]:
        """Return for each user the k best rows that are not masked, or None if one of its scores is not finite.

        scores: what score() returned; it is overwritten.
        """
        n_users = len(scores.scores)
        for own, hidden in zip(scores.scores, masked, strict=True):
            if len(hidden):
                own[hidden] = -np.inf
        groups = scores.scores.reshape(n_users, _GROUP, self._n_groups)
        with np.errstate(all="ignore"):
            maxima = groups.max(axis=1)
            cuts = _cuts(scores.scores, maxima, k)
            owners, rows, values = _reaching(groups, maxima, cuts, 4 * k)
            if scores.lost is not None:
                values += self._products(rows, scores.lost[owners])
            order = np.lexsort((rows, -values, owners))
            rows, values = rows[order], values[order]
            is_whole = (maxima.max(axis=1) < np.inf).tolist()  # not true of infinity, nor of NaN
        starts = np.searchsorted(owners, np.arange(n_users + 1)).tolist()
        found: list[Ranked | None] = []
        for user in range(n_users):
            start, end = starts[user], min(starts[user] + k, starts[user + 1])
            found.append((rows[start:end].tolist(), values[start:end]) if is_whole[user] else None)
        return found

    def _products(self, rows: Int64, vectors: Float32) -> Float32:
        """Return the product of each row with a vector of its own, float32 [len(rows), dim], without bias."""
        items = self._embeddings.take(rows, axis=0).astype(np.float32)
        products: Float32 = np.einsum("ij,ij->i", items, vectors)
        return products if self._table.scales is None else products * self._table.scales[rows]


def _cuts(scores: Float32, maxima: Float32, k: int) -> Float32:
    """Return for each user a score that at least k columns reach, or all if there are fewer; [batch]."""
    candidates = maxima
    if 2 * k > maxima.shape[1]:  # too few groups: smaller ones
        members = 1
        while members < _GROUP and scores.shape[1] >= 8 * members * k:
            members *= 2
        candidates = scores.reshape(len(scores), members, -1).max(axis=1) if members > 1 else scores
    place = max(0, candidates.shape[1] - k)
    cuts: Float32 = np.maximum(np.partition(candidates, place, axis=1)[:, place], _LOWEST)
    return cuts


def _reaching(groups: Float32, maxima: Float32, cuts: Float32, most: int) -> tuple[Int64, Int64, Float32]:
    """Return which user and which column each score that reaches its user's cut belongs to, and the score.

    groups: the scores, [batch, members, n_groups]. They are in the order of users. Where very many scores are equal,
    only `most` are returned of each user.
    """
    n_users, n_members, n_groups = groups.shape
    scores = groups.reshape(n_users, n_members * n_groups)
    if most > n_groups:  # most groups have one
        owners, columns = np.divmod(np.flatnonzero(scores >= cuts[:, None]), scores.shape[1])
        if len(owners) <= most * n_users:
            return owners, columns, scores[owners, columns]
    users, places = np.nonzero(maxima >= cuts[:, None])
    members = groups[users, :, places]
    at, member = np.nonzero(members >= cuts[users, None])
    if len(at) <= most * n_users:
        return users[at], member * n_groups + places[at], members[at, member]
    columns = scores.argpartition(max(0, scores.shape[1] - most), axis=1)[:, -most:]
    owners = np.repeat(np.arange(n_users), columns.shape[1])
    values = scores[owners, columns.ravel()]
    kept = values > -np.inf
    return owners[kept], columns.ravel()[kept], values[kept]
