"""The Python client of the service, sync and async. Import its names from here, never from the files below.

It needs httpx (`pip install 'retort[client]'`) and nothing else of this package.
"""

from service.client.answer import (
    ErasedUser,
    Event,
    EventsAnswer,
    Item,
    ItemsAnswer,
    Quality,
    Recommendation,
    Refusal,
    UserData,
    UserEvent,
)
from service.client.client import AsyncClient, Options
from service.client.error import (
    ClientError,
    DeadlineError,
    EventsLostError,
    LostEvent,
    PassingError,
    QueueFullError,
    RefusedError,
    UnreachableError,
    UnreadableError,
)
from service.client.lists import Page, Scenario, Slot
from service.client.outbox import Counts
from service.client.sync import Client

__all__ = [
    "AsyncClient", "Client", "ClientError", "Counts", "DeadlineError", "ErasedUser", "Event", "EventsAnswer",
    "EventsLostError", "Item", "ItemsAnswer", "LostEvent", "Options", "Page", "PassingError", "Quality",
    "QueueFullError", "Recommendation", "Refusal", "RefusedError", "Scenario", "Slot", "UnreachableError",
    "UnreadableError", "UserData", "UserEvent",
]  # fmt: skip
