"""What one request leaves behind: when it arrived, whether its caller is still there, the fields of its log line."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Trace:
    """What is known of one request.

    arrived: when its head was read, in seconds of time.monotonic(). began: when its whole body was there, in the same
    seconds. is_gone: the caller hung up. is_refused: its body came whole when too many were being answered. fields:
    what the log line says beside route, method, status and time taken.
    """

    arrived: float
    began: float | None = None
    status: int = 500
    is_gone: bool = False
    is_refused: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
