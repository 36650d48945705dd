"""A few users for the reader to look at: what they took, what the models would have shown, what they took next.

The users are drawn with a fixed seed, half of them among those whose next item the student shows and half among the
others, so that the page shows failures as well as successes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.bundle import Item
from training.evaluation.judge import Ranking
from training.evaluation.question import Question

SHOWN_USERS = 6
SHOWN_HISTORY = 6  # newest items of a user's history
SHOWN_BEST = 6  # best items of a model
FOUND_AT = 10  # a model shows an item that it ranks among so many


@dataclass(frozen=True)
class ShownItem:
    """An item as it stands on the page."""

    title: str  # its id where it has no title
    note: str  # its first attribute values
    is_target: bool = False  # whether it is what the user took next


@dataclass(frozen=True)
class ShownList:
    """What one model would have shown a user."""

    model: str
    target_rank: int  # the rank of what the user took next
    best: list[ShownItem]


@dataclass(frozen=True)
class Example:
    """A user on the page."""

    n_before: int  # events before those shown
    history: list[ShownItem]  # oldest first
    target: ShownItem
    lists: list[ShownList]


def draw_examples(question: Question, rankings: dict[str, Ranking], items: Sequence[Item]) -> list[Example]:
    """Draw the users to show, and return them with what each model ranked best.

    rankings: of the models to show, by name; the last one decides for whom the next item was found. Users whose next
    item is not in the catalogue are not drawn.
    """
    found = list(rankings.values())[-1].ranks <= FOUND_AT
    known = question.target >= 0
    rng = np.random.default_rng(0)
    places: list[int] = []
    for candidates in (np.flatnonzero(found & known), np.flatnonzero(~found & known)):
        places += rng.choice(candidates, min(SHOWN_USERS // 2, len(candidates)), replace=False).tolist()
    return [_example(question, rankings, items, place) for place in places]


def _example(question: Question, rankings: dict[str, Ranking], items: Sequence[Item], place: int) -> Example:
    """Return the user at a place in the question."""
    target = int(question.target[place])
    seen = question.histories(np.array([place]))[0]
    lists = [
        ShownList(name, int(ranking.ranks[place]), _shown(items, ranking.top[place, :SHOWN_BEST].tolist(), target))
        for name, ranking in rankings.items()
    ]
    history = _shown(items, seen[-SHOWN_HISTORY:].tolist(), target)
    return Example(len(seen) - len(history), history, _shown(items, [target], target)[0], lists)


def _shown(items: Sequence[Item], rows: Sequence[int], target: int) -> list[ShownItem]:
    """Return the items of some rows as they stand on the page. target: the row that the user took next."""
    shown = []
    for row in rows:
        values = [value for of in items[row].attributes.values() for value in of]
        shown.append(ShownItem(items[row].title or items[row].item_id, ", ".join(values[:3]), row == target))
    return shown
