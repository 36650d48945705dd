"""A few users for the eye: what they took, what the teacher and the student would have shown, what they took next.

Drawn with a fixed seed, half among the users whose next item the student shows and half among the others, so that the
page shows failures as well as successes, and says that it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.bundle import Item
from training.evaluation.judge import Ranking
from training.evaluation.question import Question

SHOWN = 6  # users
HISTORY, LISTED, FOUND_AT = 6, 6, 10


@dataclass(frozen=True)
class Line:
    """An item on the page. is_target: it is what the user took next."""

    text: str
    note: str
    is_target: bool = False


@dataclass(frozen=True)
class Example:
    """A user. lists: (model, its rank of the target, its best items)."""

    n_before: int  # events before those shown
    history: list[Line]
    target: Line
    lists: list[tuple[str, int, list[Line]]]


def draw_examples(question: Question, rankings: dict[str, Ranking], items: Sequence[Item]) -> list[Example]:
    """Return the examples. rankings: of the models to show, the last one deciding what is a success."""
    found = list(rankings.values())[-1].ranks <= FOUND_AT
    known = question.target >= 0
    rng = np.random.default_rng(0)
    places: list[int] = []
    for pool in (np.flatnonzero(found & known), np.flatnonzero(~found & known)):
        places += rng.choice(pool, min(SHOWN // 2, len(pool)), replace=False).tolist()
    return [_example(question, rankings, items, place) for place in places]


def _example(question: Question, rankings: dict[str, Ranking], items: Sequence[Item], place: int) -> Example:
    target = int(question.target[place])
    seen = question.seen(question.users[place : place + 1])[0]
    lists = [
        (name, int(ranking.ranks[place]), [_line(items, int(row), target) for row in ranking.top[place, :LISTED]])
        for name, ranking in rankings.items()
    ]
    history = [_line(items, int(row), target) for row in seen[-HISTORY:]]
    return Example(len(seen) - len(history), history, _line(items, target, target), lists)


def _line(items: Sequence[Item], row: int, target: int) -> Line:
    item = items[row]
    values = [value for of in item.attributes.values() for value in of]
    return Line(item.title or item.item_id, ", ".join(values[:3]), row == target)
