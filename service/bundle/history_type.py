"""What an event does, by its type: the field `history_types` of a manifest, and the order in which events undo others.

    {"purchase": 1, "view": 0.2, "click": 0, "skip": "hide", "unlike": "undo", "*": 1}

A number is the weight with which a type enters histories; 0: it only goes to the stream of events. "hide" takes the
item out for that user, "undo" undoes the newest event of that user and item. "*" stands for every type that is not
listed, and for events without a type; where it is left out these only go to the stream. Types of BUILT_IN that are not
listed do what stands there. Without the field, BUILT_IN and {"*": 1} hold.

Training and serving use this module, so that both have the same histories of the same events.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from enum import StrEnum
from typing import Any

MOST_TYPES, MOST_TYPE_LENGTH, MOST_WEIGHT = 200, 64, 1e6
OTHERS = "*"


class Effect(StrEnum):
    """What an event does: enters the history, only goes to the stream, hides the item, or undoes an event."""

    HISTORY = "history"
    STREAM = "stream"
    HIDE = "hide"
    UNDO = "undo"


BUILT_IN: Mapping[str, Any] = {"impression": 0, "dislike": "hide", "hide": "hide", "remove": "undo"}
_ORDER = {Effect.HISTORY: 0, Effect.HIDE: 1, Effect.UNDO: 2}


class HistoryTypes:
    """What each type of event does."""

    def __init__(self, listed: object = None) -> None:
        """listed: the field of the manifest; None or empty where it has none. Raises ValueError."""
        self._listed: dict[str, Any] = {**BUILT_IN, **_checked(listed or {OTHERS: 1})}
        self._effects = {name: _effect_of(value) for name, value in self._listed.items()}
        self._other = self._effects.pop(OTHERS, Effect.STREAM)

    def effect(self, type_: str | None) -> Effect:
        """Return what an event of a type does. None: it names no type."""
        return self._other if type_ is None else self._effects.get(type_, self._other)

    def weight(self, type_: str | None) -> float:
        """Return the weight with which an event of a type enters histories; 0 where it does not."""
        value = self._listed.get(OTHERS if type_ is None else type_, self._listed.get(OTHERS, 0))
        return 0.0 if isinstance(value, str) else float(value)

    def to_json(self) -> dict[str, Any]:
        """Return every rule, the built-in ones too."""
        return {OTHERS: 0, **self._listed}


def combine_types(
    events: Sequence[str], weights: Mapping[str, float], effects: Mapping[str, str]
) -> Mapping[str, Any] | None:
    """Return the field of a manifest; None where everything is as it is without the field. Raises ValueError.

    events: the types that enter; none: all. weights: of types that enter, where it is not 1. effects: by type, one of
    Effect.
    """
    if not events and not weights and not effects:
        return None
    entering = list(events) or [*weights, *(name for name, effect in effects.items() if effect == Effect.HISTORY)]
    listed: dict[str, Any] = {name: weights.get(name, 1.0) for name in entering}
    for name, effect in effects.items():
        is_silent = effect in (Effect.HIDE, Effect.UNDO, Effect.STREAM)
        if is_silent and name in listed:
            raise ValueError(f"{name!r} cannot both enter histories and be {effect!r}")
        if is_silent:
            listed[name] = 0 if effect == Effect.STREAM else str(effect)
        else:
            listed[name] = weights.get(name, 1.0)
    return _checked(listed if events else {OTHERS: 1, **listed})


def settle(events: Sequence[tuple[Hashable, float, Effect]]) -> list[bool]:
    """Return which of some events are not undone, in their order. Each has its item, its time, and what it does.

    They may come in any order. An event that undoes takes back the newest event of its item that is not undone yet, up
    to its own time, whatever that one does; or none. Events of one item and time that do the same are one. At one time
    events enter first, then hide, then undo. Those that only go to the stream are left out by the caller.
    """
    stacks: dict[Hashable, list[tuple[Hashable, float, Effect]]] = {}
    undone: set[tuple[Hashable, float, Effect]] = set()
    for event in sorted(set(events), key=lambda event: (event[1], _ORDER[event[2]])):
        stack = stacks.setdefault(event[0], [])
        if event[2] is not Effect.UNDO:
            stack.append(event)
        elif stack:
            undone.add(stack.pop())
    return [event not in undone for event in events]


def _checked(listed: object) -> Mapping[str, Any]:
    """Return the field if it is one. Raises ValueError."""
    if not isinstance(listed, Mapping) or not 1 <= len(listed) <= MOST_TYPES:
        raise ValueError(f"history_types must be an object of 1 to {MOST_TYPES} types")
    for name, value in listed.items():
        if not isinstance(name, str) or not 1 <= len(name) <= MOST_TYPE_LENGTH:
            raise ValueError(f"history_types: a type has 1 to {MOST_TYPE_LENGTH} characters, not {str(name)[:100]!r}")
        name.encode()  # a lone surrogate could not be shown
        is_weight = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_WEIGHT
        is_word = value in (Effect.HIDE.value, Effect.UNDO.value) and name != OTHERS
        if not is_weight and not (isinstance(value, str) and is_word):
            words = "" if name == OTHERS else ", or hide, or undo"
            raise ValueError(f"history_types[{name!r}] must be a weight from 0 to {MOST_WEIGHT:g}{words}")
    return listed


def _effect_of(value: Any) -> Effect:
    if isinstance(value, str):
        return Effect(value)
    return Effect.HISTORY if value > 0 and math.isfinite(value) else Effect.STREAM
