"""What the client sends and gets: plain frozen classes. Fields that a newer service adds stand in `raw`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from service.client.error import UnreadableError


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a user did with an item, as POST /events takes it. timestamp: Unix seconds."""

    user_id: str
    item_id: str
    type: str | None = None
    timestamp: float | None = None
    value: float | None = None
    recommendation_id: str | None = None
    position: int | None = None
    explored: bool | None = None
    event_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Item:
    """An item of an answer. raw: all that the service said of it."""

    item_id: str
    score: float
    raw: Mapping[str, Any]

    @property
    def is_explored(self) -> bool:
        """Whether it is a new item that is shown to learn of it."""
        return self.raw.get("explored") is True


@dataclass(frozen=True, slots=True)
class Quality:
    """How good an answer could be made. level: full, degraded or fallback. reasons: the most important one first."""

    level: str
    reasons: Sequence[str]


def read_items(raw: Any) -> list[Item]:
    """Return the items of a list."""
    return [Item(each["item_id"], float(each["score"]), each) for each in raw["items"]]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An answer of POST /recommend or POST /similar. raw: as it came, with what was asked for beside."""

    recommendation_id: str
    user_id: str | None
    model_version: str
    items: Sequence[Item]
    quality: Quality
    ignored_ids: Sequence[str]
    took_ms: float
    raw: Mapping[str, Any]

    @property
    def item_ids(self) -> list[str]:
        """The ids of the items, best first."""
        return [item.item_id for item in self.items]

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Return an answer. Raises UnreadableError."""
        with Reading():
            return cls(
                recommendation_id=raw["recommendation_id"],
                user_id=raw["user_id"],
                model_version=raw["model_version"],
                items=read_items(raw),
                quality=Quality(raw["quality"]["level"], raw["quality"]["reasons"]),
                ignored_ids=raw["ignored_ids"],
                took_ms=float(raw["took_ms"]),
                raw=raw,
            )


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that was not stored. index: its place among those that were sent."""

    index: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class EventsAnswer:
    """An answer of POST /events: what is accepted is stored."""

    accepted: int
    duplicates: int
    rejected: Sequence[Refusal]

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Return an answer. Raises UnreadableError."""
        with Reading():
            refused = [Refusal(int(each["index"]), each["reason"], each["message"]) for each in raw["rejected"]]
            return cls(int(raw["accepted"]), int(raw["duplicates"]), refused)


@dataclass(frozen=True, slots=True)
class ItemsAnswer:
    """An answer of POST /items: what is accepted is stored. visible_ms: until the process that answered showed it.

    ignored_ids: of items that accepted ones are said to be like, and that are not known.
    """

    accepted: int
    rejected: Sequence[Refusal]
    visible_ms: float
    ignored_ids: Sequence[str] = ()

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Return an answer. Raises UnreadableError."""
        with Reading():
            refused = [Refusal(int(each["index"]), each["reason"], each["message"]) for each in raw["rejected"]]
            return cls(int(raw["accepted"]), refused, float(raw["visible_ms"]), raw.get("ignored_ids", ()))


@dataclass(frozen=True, slots=True)
class UserEvent:
    """An event that is kept of a user. key: its event_id, or its time in ms."""

    item_id: str
    timestamp: float
    key: str
    type: str | None


@dataclass(frozen=True, slots=True)
class UserData:
    """What is kept of a user. raw: the answer as it came."""

    user_id: str
    history: Sequence[UserEvent]
    hidden: Sequence[UserEvent]
    removed: Sequence[UserEvent]
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Return an answer. Raises UnreadableError."""

        def events(name: str) -> list[UserEvent]:
            return [UserEvent(*(each[part] for part in ("item_id", "timestamp", "key", "type"))) for each in raw[name]]

        with Reading():
            return cls(raw["user_id"], events("history"), events("hidden"), events("removed"), raw)


@dataclass(frozen=True, slots=True)
class ErasedUser:
    """What was erased. is_complete: nothing of the user is left, in the store and in memory; if not, ask again."""

    user_id: str
    is_complete: bool
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Return an answer. Raises UnreadableError."""
        with Reading():
            is_complete = bool(raw["event_stream"]["complete"] and raw["memory"]["complete"])
            return cls(raw["user_id"], is_complete, raw)


class Reading:
    """Words what goes wrong while an answer is taken apart."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, KeyError | TypeError | ValueError | AttributeError):
            raise UnreadableError(f"the answer is not of the form that is documented: {exc!r}") from exc
