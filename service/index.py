"""The item matrix: exact scores of every item, and the K highest. Ids become rows here, and rows become ids.

What must not be shown is masked before the top-K, so that exclusions never shorten the answer while items are left.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from service.bundle import Bundle, Float32, Int64, popularity_order
from service.errors import NonFiniteError

Ranked = list[tuple[int, float]]


class Index:
    """Exact search over one catalogue."""

    def __init__(self, bundle: Bundle) -> None:
        self._matrix = bundle.table.dense()
        self._biases = bundle.table.biases
        self.item_ids = [item.item_id for item in bundle.items]
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self._popular = popularity_order(bundle.items)
        self._popularity = np.array([item.popularity for item in bundle.items], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.item_ids)

    def find_rows(self, item_ids: Iterable[str]) -> tuple[list[int], list[str]]:
        """Return the rows of the known ids, in order and with repeats, and the unknown ids, each once."""
        rows: list[int] = []
        unknown: dict[str, None] = {}
        for item_id in item_ids:
            row = self._rows.get(item_id)
            if row is None:
                unknown[item_id] = None
            else:
                rows.append(row)
        return rows, list(unknown)

    def score(self, user: Float32, candidates: Sequence[int] | None = None) -> Float32:
        """Return user · item (+ bias) of every item, or of the candidate rows. Raises NonFiniteError.

        user: float32 [dim]. Returns float32 [n_items] or [len(candidates)].
        """
        matrix = self._matrix if candidates is None else self._matrix[np.asarray(candidates, dtype=np.int64)]
        scores: Float32 = matrix @ user
        if self._biases is not None:
            scores += self._biases if candidates is None else self._biases[np.asarray(candidates, dtype=np.int64)]
        if not np.isfinite(scores).all():
            raise NonFiniteError("a score is NaN or infinity")
        return scores

    def top(self, scores: Float32, k: int, masked: Iterable[int], candidates: Sequence[int] | None = None) -> Ranked:
        """Return the k best (row, score), best first, without the masked rows. Overwrites scores."""
        if candidates is None:
            hidden = np.fromiter(masked, dtype=np.int64)
            rows = None
        else:
            rows = np.asarray(candidates, dtype=np.int64)
            hidden = np.flatnonzero(np.isin(rows, np.fromiter(masked, dtype=np.int64)))
        scores[hidden] = -np.inf
        best = _best_places(scores, k)
        return [
            (int(place if rows is None else rows[place]), float(scores[place]))
            for place in best
            if scores[place] != -np.inf
        ]

    def most_popular(self, k: int, masked: Iterable[int], candidates: Sequence[int] | None = None) -> Ranked:
        """Return the k most popular (row, popularity) without the masked rows: the answer that needs no model."""
        hidden = set(masked)
        allowed = None if candidates is None else set(candidates)
        best: Ranked = []
        for row in self._popular.tolist():
            if row in hidden or (allowed is not None and row not in allowed):
                continue
            best.append((row, float(self._popularity[row])))
            if len(best) == k:
                break
        return best


def _best_places(scores: Float32, k: int) -> Int64:
    cut = max(0, len(scores) - k)
    places = np.argpartition(scores, cut)[cut:] if cut else np.arange(len(scores))
    order: Int64 = places[np.lexsort((places, -scores[places]))]
    return order
