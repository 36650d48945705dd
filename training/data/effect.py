"""Which rows of a table of interactions are in histories, by what the types of events do: as the service keeps them.

The rules are those of the service (see service/bundle/history_type.py). Rows that only go to the stream, hide or undo
are left out once they have been looked at, and so is what was undone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Effect, HistoryTypes, settle

_CODES = {effect: code for code, effect in enumerate(Effect)}
_EFFECTS = list(Effect)
MARKS = [_CODES[Effect.HIDE], _CODES[Effect.UNDO]]
"""The codes of effects_of() of rows that hide or undo: they show no liking, whatever their weight."""


@dataclass(frozen=True, eq=False)
class Told:
    """What is told of all rows, arrays [n_rows]: event, the code of its type, -1 for none; user, item; ms."""

    event: NDArray[np.int32]
    event_codes: Mapping[str, int]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    ms: NDArray[np.int64]


def effects_of(
    event: NDArray[np.int32], codes: Mapping[str, int], history_types: Mapping[str, Any] | None
) -> NDArray[np.uint8]:
    """Return what each row does [n_rows], as the place in Effect. history_types: as a bundle says it."""
    types = HistoryTypes(history_types)
    lookup = np.full(len(codes) + 1, _CODES[types.effect(None)], dtype=np.uint8)  # the last is that of no type, -1
    for text, code in codes.items():
        lookup[code] = _CODES[types.effect(text)]
    return lookup[event]


def leave_out(
    told: Told, history_types: Mapping[str, Any] | None, keep: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which of the kept rows are in histories, and how many are not, by reason. keep: flags [n_rows]."""
    effects = effects_of(told.event, told.event_codes, history_types)
    is_undone = np.zeros(len(keep), dtype=bool)
    is_undone[_undone(told, effects, keep)] = True
    reasons = {
        "event_only_in_stream": effects == _CODES[Effect.STREAM],
        "event_hides_item": effects == _CODES[Effect.HIDE],
        "event_undoes": effects == _CODES[Effect.UNDO],
        "undone": is_undone,
    }
    dropped = {}
    for reason, holds in reasons.items():
        dropped[reason] = int((keep & holds).sum())
        keep = keep & ~holds
    return keep, dropped


def _undone(told: Told, effects: NDArray[np.uint8], keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the places of the rows that another one undoes."""
    pair = told.user.astype(np.int64) << 32 | told.item.astype(np.int64)
    undoing = np.unique(pair[keep & (effects == _CODES[Effect.UNDO])])
    if not len(undoing):
        return np.zeros(0, dtype=np.int64)
    places = np.flatnonzero(keep & (effects != _CODES[Effect.STREAM]) & np.isin(pair, undoing))
    does = [_EFFECTS[code] for code in effects[places].tolist()]
    is_valid = settle(list(zip(pair[places].tolist(), told.ms[places].tolist(), does, strict=True)))
    return places[~np.array(is_valid, dtype=bool)]
