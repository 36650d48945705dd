"""What the lists did to the clicks that a refresh takes: how both fell by place, and by the popularity of the items.

The accepted events have it where clients send an `impression` of each item shown, and name the answer or the place in
what followed. A click is then an event that names either, and neither hides nor undoes. Nothing is concluded of it
here: a refresh keeps the counts, and its report shows them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.bundle import Effect, HistoryTypes
from training.data.prepared import Prepared
from training.evaluation.breakdown import QUINTILES, popularity_quintile
from training.loop.event_file import EventFile, events_of
from training.loop.propensity import IMPRESSION, MOST_PLACE, Places, Propensity, count_places

FIRST_OF = (*range(1, 11), 11, 21, 51)  # the first place of each row; the last one is open
NEW = "new"


@dataclass(slots=True)
class Shown:
    """How often each item was shown, and clicked in a list."""

    impressions: Counter[str] = field(default_factory=Counter)
    clicks: Counter[str] = field(default_factory=Counter)


def measure_bias(
    files: Sequence[EventFile], history_types: Mapping[str, Any] | None, before: Prepared, propensity: Propensity
) -> dict[str, Any] | None:
    """Return the events of some files by place and by popularity, as JSON; None where none is of a list.

    before: what the live model was trained on, from which the popularity is. propensity: how places are looked at.
    """
    shown = count_items(files, history_types)
    if not shown.impressions and not shown.clicks:
        return None
    return {
        "places": by_place(count_places(files, history_types), propensity),
        "slope": propensity.slope,
        "popularity": by_popularity(shown, before),
    }


def count_items(files: Sequence[EventFile], history_types: Mapping[str, Any] | None) -> Shown:
    """Count the impressions, and the clicks that name an answer or a place, of each item."""
    shown, types = Shown(), HistoryTypes(history_types)
    for each in files:
        for event in events_of(each):
            kind = event.get("event")
            if kind == IMPRESSION:
                shown.impressions[event["item_id"]] += 1
            elif event.get("recommendation_id") is None and event.get("position") is None:
                continue
            elif types.effect(kind) not in (Effect.HIDE, Effect.UNDO):
                shown.clicks[event["item_id"]] += 1
    return shown


def by_place(places: Places, propensity: Propensity) -> list[dict[str, Any]]:
    """Return a row for each range of places that has an event: from, to, impressions, clicks, looked_at.

    looked_at: impressions, each times how often its place is looked at beside the first; None where that is not known.
    """
    rows = []
    for first, following in zip(FIRST_OF, (*FIRST_OF[1:], MOST_PLACE + 1), strict=True):
        inside = range(first, following)
        n_shown = sum(places.impressions[place] for place in inside)
        n_clicks = sum(places.clicks[place] for place in inside)
        looked_at = None
        if propensity.slope is not None:
            looked_at = sum(places.impressions[place] * place**-propensity.slope for place in inside)
        if n_shown or n_clicks:
            rows.append({"from": first, "to": following - 1, "impressions": n_shown, "clicks": n_clicks,
                         "looked_at": looked_at})  # fmt: skip
    return rows


def by_popularity(shown: Shown, before: Prepared) -> list[dict[str, Any]]:
    """Return a row for each fifth of the training events, 1 the best sellers, and one for items that had no event then.

    A row has its group, how many items are in it (None of the new ones: nobody knows all), impressions and clicks.
    """
    quintile = popularity_quintile(np.array([item.popularity for item in before.items]))
    number_of = {item.item_id: str(place + 1) for item, place in zip(before.items, quintile.tolist(), strict=True)}
    n_items = Counter(number_of.values())
    impressions, clicks = (_by_group(counts, number_of) for counts in (shown.impressions, shown.clicks))
    return [
        {"group": group, "items": None if group == NEW else n_items[group], "impressions": impressions[group],
         "clicks": clicks[group]}
        for group in (*(str(number + 1) for number in range(QUINTILES)), NEW)
    ]  # fmt: skip


def _by_group(counts: Mapping[str, int], number_of: Mapping[str, str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for item_id, n in counts.items():
        found[number_of.get(item_id, NEW)] += n
    return found
