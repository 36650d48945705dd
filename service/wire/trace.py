"""What one request leaves behind: when it arrived, whether its caller is still there, the fields of its log line."""

from dataclasses import dataclass, field
from typing import Any

from service.errors import RequestError
from service.tracing.span import RequestSpan


@dataclass(slots=True)
class Trace:
    """What is known of one request.

    arrived: when its head was read, in seconds of time.monotonic(). began: when its whole body was there, in the same
    seconds. is_gone: the caller hung up. caller: the key, or else the address, that limits and rates know it by.
    has_place: it holds a place among the answers. refusal: why it is not answered. fields: what the log line says
    beside route, method, status and time taken. span: where the request is recorded.
    """

    arrived: float
    began: float | None = None
    status: int = 500
    is_gone: bool = False
    caller: bytes = b""
    has_place: bool = False
    refusal: RequestError | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    span: RequestSpan | None = None
