"""What the client gets where it asks for many lists at once, and what it knows of scenarios."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from service.client.answer import Item, Quality, Reading, Recommendation, read_items
from service.client.error import RefusedError


@dataclass(frozen=True, slots=True)
class Slot:
    """One list of a page. raw: the list as it came."""

    name: str
    items: Sequence[Item]
    quality: Quality
    raw: Mapping[str, Any]

    @property
    def item_ids(self) -> list[str]:
        """The ids of the items, best first."""
        return [item.item_id for item in self.items]


@dataclass(frozen=True, slots=True)
class Page:
    """An answer of POST /page. slots: by name, in the order of the request. raw: the answer as it came."""

    recommendation_id: str
    user_id: str | None
    model_version: str
    slots: Mapping[str, Slot]
    ignored_ids: Sequence[str]
    took_ms: float
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Return an answer. Raises UnreadableError."""
        with Reading():
            return cls(
                recommendation_id=raw["recommendation_id"],
                user_id=raw["user_id"],
                model_version=raw["model_version"],
                slots={each["name"]: _slot(each) for each in raw["slots"]},
                ignored_ids=raw["ignored_ids"],
                took_ms=float(raw["took_ms"]),
                raw=raw,
            )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario. source: file or store. fields: what it says."""

    name: str
    source: str
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Return an answer. Raises UnreadableError."""
        with Reading():
            return cls(raw["name"], raw["source"], dict(raw["scenario"]))


def read_batch(raw: Any) -> list[Recommendation | RefusedError]:
    """Return the answers of POST /recommend/batch. Raises UnreadableError."""
    with Reading():
        listed = list(raw["answers"])
    return [_refused(each) if "error" in each else Recommendation.of(each) for each in listed]


def read_names(raw: Any) -> dict[str, str]:
    """Return the names of GET /scenarios, and where each comes from. Raises UnreadableError."""
    with Reading():
        return {each["name"]: each["source"] for each in raw["scenarios"]}


def _slot(raw: Any) -> Slot:
    quality = Quality(raw["quality"]["level"], raw["quality"]["reasons"])
    return Slot(raw["name"], read_items(raw), quality, raw)


def _refused(raw: Any) -> RefusedError:
    with Reading():
        error = raw["error"]
        return RefusedError(str(error["message"]), code=str(error["code"]), details=error.get("details") or ())
