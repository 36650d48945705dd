"""What differs between two answers to one request: items that came, went or moved, and their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

_CLOSE = 1e-5


@dataclass(frozen=True, slots=True)
class Line:
    """An item of one of two lists or of both: its places, from 1, its scores and their parts; None where it is not."""

    item_id: str
    before: int | None
    after: int | None
    score_before: float | None
    score_after: float | None
    parts_before: Mapping[str, float] | None
    parts_after: Mapping[str, float] | None

    @property
    def what(self) -> str:
        """What became of the item: came, went, moved, scored (only its score is another) or same."""
        if self.before is None:
            return "came"
        if self.after is None:
            return "went"
        if self.before != self.after:
            return "moved"
        return "same" if self.score_before == self.score_after else "scored"


@dataclass(frozen=True, slots=True)
class Difference:
    """is_same: the bytes are equal, apart from what says how long things took. is_close: the items and their order are
    the same, and scores differ by rounding at most. lines: of all items, in the order of the later list, then those
    that went. fields: of the answers beside the items that differ, before and after."""

    is_same: bool
    is_close: bool
    lines: Sequence[Line]
    fields: Mapping[str, tuple[Any, Any]]


def compare(
    before: str, after: str, parts_before: Sequence[Mapping[str, float]], parts_after: Sequence[Mapping[str, float]]
) -> Difference:
    """Return what differs between the bodies of two answers. parts: of each item's score; empty where not known."""
    one, other = orjson.loads(before), orjson.loads(after)
    lines = _lines(one["items"], other["items"], parts_before, parts_after)
    names = [name for name in dict.fromkeys([*one, *other]) if name != "items"]
    fields = {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
    is_close = not fields and all(_is_close(line) for line in lines)
    return Difference(before == after, is_close, lines, fields)


def _lines(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    parts_before: Sequence[Mapping[str, float]],
    parts_after: Sequence[Mapping[str, float]],
) -> list[Line]:
    olds = {item["item_id"]: place for place, item in enumerate(before)}
    news = {item["item_id"]: place for place, item in enumerate(after)}
    lines = []
    for item_id in [*news, *(each for each in olds if each not in news)]:
        old, new = olds.get(item_id), news.get(item_id)
        lines.append(
            Line(
                item_id,
                None if old is None else old + 1,
                None if new is None else new + 1,
                None if old is None else before[old]["score"],
                None if new is None else after[new]["score"],
                parts_before[old] if old is not None and old < len(parts_before) else None,
                parts_after[new] if new is not None and new < len(parts_after) else None,
            )
        )
    return lines


def _is_close(line: Line) -> bool:
    if line.before != line.after or line.score_before is None or line.score_after is None:
        return False
    return abs(line.score_before - line.score_after) <= _CLOSE * max(1.0, abs(line.score_before))
