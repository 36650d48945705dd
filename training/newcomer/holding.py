"""Hold items out whole: no event of them is left to train on, as if they were to join the catalogue later.

The events of validation and test that took such an item are the requests by which an encoder of new items is judged.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.data.event import Int64
from training.data.prepared import Prepared, all_events
from training.data.split import TRAIN
from training.evaluation.question import Question


@dataclass(frozen=True, eq=False)
class Held:
    """Data of which some items were held out. known: the rest of it, whose rows are those of known_rows, renumbered.

    rows, known_rows: of the items held out and of the others, in the whole catalogue, ascending.
    """

    whole: Prepared
    known: Prepared
    rows: Int64
    known_rows: Int64

    def ask(self) -> Question:
        """Return the requests whose item was held out: events of validation and test, each asked with what is known.

        Targets are places in rows. Histories have the known items alone, as rows of known.
        """
        return self._ask(np.flatnonzero(np.isin(self.whole.item, self.rows) & (self.whole.part != TRAIN)))

    def ask_all(self, most: int) -> Question:
        """Return requests of validation and test as ask does, of any item, at most so many. Others' targets are -1."""
        place = np.flatnonzero(self.whole.part != TRAIN)
        return self._ask(np.sort(np.random.default_rng(0).permutation(place)[:most]))

    def _ask(self, place: Int64) -> Question:
        """Return the requests of the events at some positions."""
        is_held = np.isin(self.whole.item, self.rows)
        before = np.concatenate([[0], np.cumsum(~is_held)])  # known events before each event
        row = np.searchsorted(self.rows, self.whole.item[place]).clip(max=len(self.rows) - 1)
        return Question(
            all_events(self.known),
            self.whole.user[place].astype(np.int64),
            target=np.where(is_held[place], row, -1),
            exclude_seen=False,
            n_items=len(self.rows),
            stop=before[place],
        )


def hold_items(prepared: Prepared, share: float, seed: int = 0) -> Held:
    """Hold a share of the items out, drawn with a seed: one at least, and one at least is left."""
    n_items = len(prepared.items)
    n_held = min(max(1, round(share * n_items)), n_items - 1)
    rows = np.sort(np.random.default_rng(seed).choice(n_items, n_held, replace=False))
    known_rows = np.setdiff1d(np.arange(n_items), rows)
    return Held(prepared, _without(prepared, rows, known_rows), rows, known_rows)


def _without(prepared: Prepared, rows: Int64, known_rows: Int64) -> Prepared:
    """Return the data without the events of some rows; known_rows are the items that are left."""
    keep: NDArray[np.bool_] = ~np.isin(prepared.item, rows)
    return replace(
        prepared,
        items=[prepared.items[row] for row in known_rows],
        user=prepared.user[keep],
        item=np.searchsorted(known_rows, prepared.item[keep]).astype(prepared.item.dtype),
        timestamp_ms=prepared.timestamp_ms[keep],
        part=prepared.part[keep],
        weight=None if prepared.weight is None else prepared.weight[keep],
    )
