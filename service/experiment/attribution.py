"""What the events of an experiment count for: which version, which user, which place of the list.

Users belong to the version that they are assigned to, whatever their events name: that alone was decided by chance, so
that alone may be tested. An answer that came from the live version after all, because the other one failed, counts
against the one that failed. Nobody has to remember who was shown what, and there is no window within which something
counts: what a user does is that user's, from the beginning of the experiment to its end.

Impressions and clicks are counted for the version whose answer an event names; without an id, for the version of the
user. An id of a third version, such as that of a list from before the experiment, is of neither.

An impression is an event of that type. Any other event that neither hides nor undoes is a click where it names an
answer or a position. It is a conversion if its type is among those of the setting; where that is empty, if its type
enters histories.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntFlag, StrEnum
from hashlib import blake2b
from typing import Any

import orjson

from service.bundle import Effect
from service.experiment.answer_id import prefix_of
from service.experiment.assignment import Assignment
from service.experiment.record import Experiment
from service.user.event import EffectOf
from service.user.stream import Entry

IMPRESSION = "impression"
HIT_POSITIONS = 10
"""A click at one of so many places, from 1, is a hit."""
_ANSWER_ID = re.compile(r"[0-9a-f]{32}")
_END_OF_TIME = 1e11


class Version(StrEnum):
    """One of the two versions of an experiment."""

    OTHER = "other"
    LIVE = "live"


class Mark(IntFlag):
    """What is kept of a user. OTHER: assigned to the other version; else to the live one."""

    SHOWN = 1
    CONVERTED = 2
    HIT = 4
    OTHER = 8


@dataclass(slots=True)
class Page:
    """What some entries of the stream add. events: `version:impressions:place` and the like. users: by name."""

    events: Counter[str] = field(default_factory=Counter)
    users: dict[bytes, Mark] = field(default_factory=dict)


def name_user(user_id: str) -> bytes:
    """Return the name under which a user is counted, 8 bytes. Of a million users two share one once in 37 million."""
    return blake2b(user_id.encode(errors="surrogatepass"), digest_size=8, person=b"retort tally").digest()


class Attribution:
    """Attributes the events of one experiment."""

    def __init__(self, experiment: Experiment, effect_of: EffectOf) -> None:
        """effect_of: of the live version."""
        self._effect_of, self._conversions = effect_of, frozenset(experiment.conversions)
        self._assignment = Assignment(experiment.salt, experiment.share)
        self._started = math.floor(experiment.started * 1000) / 1000  # events have milliseconds
        self._of_prefix = {prefix_of(experiment.version): Version.OTHER, prefix_of(experiment.live): Version.LIVE}

    def count(self, entries: Iterable[Entry], page: Page) -> None:
        """Add entries of the stream that came after the beginning; what is no event adds nothing.

        Events whose own time is before the beginning count for nobody, and are told.
        """
        for _, event in entries:
            fields = _read(event)
            if fields is None:
                continue
            if fields["timestamp"] >= self._started:
                self._add(page, fields)
            else:
                page.events["older"] += 1

    def _add(self, page: Page, fields: dict[str, Any]) -> None:
        type_ = fields.get("event")
        effect = self._effect_of(type_)
        if type_ != IMPRESSION and effect in (Effect.HIDE, Effect.UNDO):
            return
        is_other = self._assignment.takes(fields["user_id"])
        assigned = Version.OTHER if is_other else Version.LIVE
        answered = self._answered_by(fields.get("recommendation_id"), assigned)
        place = _place_of(fields.get("position"))
        is_named = fields.get("recommendation_id") is not None or place is not None
        marks = Mark.OTHER if is_other else Mark(0)
        if type_ == IMPRESSION:
            self._note(page, answered, "impressions", place)
            marks |= Mark.SHOWN
        elif is_named:
            self._note(page, answered, "clicks", place)
            marks |= Mark.HIT if place is not None and place <= HIT_POSITIONS else Mark(0)
        if type_ != IMPRESSION and self._is_conversion(type_, effect):
            marks |= Mark.CONVERTED
        if answered is not None and answered is not assigned:
            page.events["astray"] += 1
        if marks & ~Mark.OTHER:
            name = name_user(fields["user_id"])
            page.users[name] = page.users.get(name, Mark(0)) | marks

    def _is_conversion(self, type_: str | None, effect: Effect) -> bool:
        return type_ in self._conversions if self._conversions else effect is Effect.HISTORY

    def _answered_by(self, answer_id: Any, assigned: Version) -> Version | None:
        """Return the version of the answer that an event names; the assigned one where it names none."""
        if not isinstance(answer_id, str) or not _ANSWER_ID.fullmatch(answer_id):
            return assigned
        return self._of_prefix.get(answer_id[:8])

    def _note(self, page: Page, version: Version | None, what: str, place: int | None) -> None:
        if version is None:
            page.events["elsewhere"] += 1
            return
        shown = "none" if place is None else str(place) if place <= HIT_POSITIONS else "more"
        page.events[f"{version}:{what}:{shown}"] += 1


def _place_of(position: Any) -> int | None:
    return position if type(position) is int and position >= 1 else None


def _read(event: bytes) -> dict[str, Any] | None:
    """Return the fields of an entry's event; None if it is none."""
    try:
        fields = orjson.loads(event)
        at, user_id, type_ = fields["timestamp"], fields["user_id"], fields.get("event")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    is_event = type(at) in (int, float) and 0 <= at < _END_OF_TIME and isinstance(user_id, str)
    return fields if is_event and isinstance(type_, str | None) else None
