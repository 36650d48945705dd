"""How much less is looked at what stands lower in a list, and what a click there weighs for it.

An explored item stands at a place that was drawn, so that how often it is clicked by place says how often the places
are looked at, and nothing of the items. What is estimated is one number: a place is looked at place ** -slope times as
often as the first (Joachims, Swaminathan and Schnabel 2017). It is that under which the clicks on explored items are
most likely to have come where they did, given where the items stood; the likelihood is concave, and its curvature gives
the standard error.

A click is then worth place ** slope, at most 10: so often the same item would have been clicked at the first place.
What users found without a list, and events that name no place, weigh 1.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.bundle import Effect, HistoryTypes
from training.loop.event_file import EventFile, events_of

IMPRESSION = "impression"
LOOKED_BACK = 20  # of the newest files of events, so that the cost of a refresh stays bounded
LEAST_CLICKS, MOST_ERROR = 100, 0.5
MOST_WEIGHT = 10.0
MOST_SLOPE = 5.0
MOST_PLACE = 1000  # of those that a request may ask for


@dataclass(slots=True)
class Places:
    """Events by the place that they name. clicks is of all but impressions and what hides or undoes."""

    impressions: Counter[int] = field(default_factory=Counter)
    clicks: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Propensity:
    """How a place is looked at. slope: None where it is not known, with all weights 1. sentence: what is said of it."""

    slope: float | None
    error: float | None
    sentence: str

    def weight(self, place: Any) -> float:
        """Return what an event weighs that names a place, from 1 on; 1 for what is no place."""
        if self.slope is None or type(place) is not int or place < 1:
            return 1.0
        return min(MOST_WEIGHT, float(place**self.slope))


UNWEIGHED = Propensity(None, None, "events are not weighed by their place")


def given(slope: float) -> Propensity:
    """Return the propensity of a slope that was found elsewhere."""
    return Propensity(slope, None, f"clicks weigh place ** {slope:g}, at most {MOST_WEIGHT:g}")


def count_places(
    files: Sequence[EventFile], history_types: Mapping[str, Any] | None, *, explored: bool = False
) -> Places:
    """Count the events of some files by the place that they name. explored: only those of explored items."""
    places, types = Places(), HistoryTypes(history_types)
    for each in files:
        for event in events_of(each):
            place, kind = event.get("position"), event.get("event")
            if type(place) is not int or not 1 <= place <= MOST_PLACE or (explored and not event.get("explored")):
                continue
            if kind == IMPRESSION:
                places.impressions[place] += 1
            elif types.effect(kind) not in (Effect.HIDE, Effect.UNDO):
                places.clicks[place] += 1
    return places


def estimate(places: Places) -> Propensity:
    """Return the propensity that explored items tell of; without a slope where they do not tell enough.

    places: of explored items alone. Clicks at places without an impression are left out.
    """
    shown = np.array(sorted(places.impressions))
    clicks = np.array([places.clicks[place] for place in shown.tolist()], dtype=np.float64)
    if not clicks.sum():
        why = "no explored item was both shown and clicked" if len(shown) else "no event is of an explored item"
        return _unknown(
            f"{why}, so there is nothing to estimate from: set RETORT_EXPLORE, and send impressions and "
            "clicks with position and explored"
        )
    n_clicks, logs = int(clicks.sum()), np.log(shown)
    n_shown = np.array([places.impressions[place] for place in shown.tolist()], dtype=np.float64)
    if n_clicks < LEAST_CLICKS or len(shown) < 2:
        return _unknown(
            f"{n_clicks} clicks on explored items at {len(shown)} places tell too little: {LEAST_CLICKS} clicks at two "
            "places or more are needed"
        )
    slope, variance = _fit(logs, n_shown, clicks)
    error = 1 / math.sqrt(n_clicks * variance) if variance > 0 else math.inf
    if error > MOST_ERROR:
        return _unknown(
            f"{n_clicks} clicks on explored items give a slope of {slope:.2f} ± {error:.2f}, and ± {MOST_ERROR} is the "
            "most: more clicks are needed, or lists of different lengths"
        )
    return Propensity(
        slope,
        error,
        f"clicks weigh place ** {slope:.2f} (± {error:.2f}, from {n_clicks} clicks on explored items at places "
        f"{shown[0]} to {shown[-1]}), at most {MOST_WEIGHT:g}",
    )


def _unknown(why: str) -> Propensity:
    return Propensity(None, None, f"events are not weighed by their place: {why}")


def _fit(logs: np.ndarray, n_shown: np.ndarray, clicks: np.ndarray) -> tuple[float, float]:
    """Return the most likely slope, from 0 to MOST_SLOPE, and the variance of the places' logarithms under it.

    logs, n_shown, clicks: of each place [P].
    """
    wanted, low, high = float((clicks * logs).sum() / clicks.sum()), 0.0, MOST_SLOPE
    for _ in range(50):  # the mean logarithm falls with the slope
        slope = (low + high) / 2
        mean, variance = _moments(logs, n_shown, slope)
        low, high = (slope, high) if mean > wanted else (low, slope)
    return slope, variance


def _moments(logs: np.ndarray, n_shown: np.ndarray, slope: float) -> tuple[float, float]:
    expected = n_shown * np.exp(-slope * logs)
    share = expected / expected.sum()
    mean = float((share * logs).sum())
    return mean, float((share * (logs - mean) ** 2).sum())
