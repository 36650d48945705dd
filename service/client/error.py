"""The errors of the client, a tree: each has a code and a message, the service's own where it gave one.

ClientError
    RefusedError        the service refused the call, and would again (4xx, 501, 500)
    PassingError        the service refused the call for now (429, 503): retry_after_s says how long to wait
    UnreachableError    nobody answered
    DeadlineError       the deadline was over before the answer was there
    UnreadableError     what came was no answer of this service
    QueueFullError      an event was not taken: too many wait to be sent
    EventsLostError     events that were to be sent in the background were not stored
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class ClientError(Exception):
    """Anything that the client raises.

    code: as the service's documentation lists them, or a word of the client's. status: of HTTP, if there was an answer.
    details: of the service. retry_after_s: how long to wait, if the service said so.
    """

    code = "client_error"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.message, self.status, self.details, self.retry_after_s = message, status, details, retry_after_s

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class RefusedError(ClientError):
    """The service refused the call, and would refuse it again."""

    code = "refused"


class PassingError(ClientError):
    """The service refused the call for now."""

    code = "unavailable"


class UnreachableError(ClientError):
    """Nobody answered: no connection, or one that ended early."""

    code = "unreachable"


class DeadlineError(ClientError):
    """The deadline was over before the answer was there."""

    code = "deadline"


class UnreadableError(ClientError):
    """What came was no answer of this service."""

    code = "unreadable"


class QueueFullError(ClientError):
    """An event was not taken, because as many as may wait are waiting, or the client is closed."""

    code = "queue_full"


@dataclass(frozen=True, slots=True)
class LostEvent:
    """An event that was not stored, as it would have been sent, and why."""

    event: Mapping[str, Any]
    error: ClientError


class EventsLostError(ClientError):
    """Events that were to be sent in the background were not stored. lost: each of them, and why."""

    code = "events_lost"

    def __init__(self, lost: Sequence[LostEvent]) -> None:
        super().__init__(f"{len(lost)} events were not stored; the first: {lost[0].error}")
        self.lost = lost


KINDS: tuple[type[ClientError], ...] = (PassingError, UnreachableError)
"""What may be otherwise if it is tried again."""
