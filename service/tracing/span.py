"""What one request was doing when, as a tree of spans that costs an append each.

It knows no library and no clock: who does the work says when it began and ended, in seconds of time.monotonic().
"""

from dataclasses import dataclass, field

Value = str | int | float | bool


@dataclass(slots=True, eq=False)
class Span:
    """One piece of work. end: None until it is known; a span that is never ended lasts as long as its parts."""

    name: str
    start: float
    end: float | None = None
    attributes: dict[str, Value] = field(default_factory=dict)
    parts: list["Span"] = field(default_factory=list)

    def add(self, name: str, start: float, end: float | None = None, **attributes: Value) -> "Span":
        """Add a part and return it. Attributes name neither users nor items, and hold no keys."""
        part = Span(name, start, end, attributes)
        self.parts.append(part)
        return part

    def follow(self, name: str, end: float) -> None:
        """Add a part that lasts from where the newest one has ended, or from the beginning, until end."""
        newest = self.parts[-1].end if self.parts else None
        self.add(name, min(end, self.start if newest is None else newest), end)

    def last(self) -> float:
        """Return when it ended, or else when the last of its parts did."""
        return self.end if self.end is not None else max([self.start, *(part.last() for part in self.parts)])

    def size(self) -> int:
        """Return how many spans it is, its parts included."""
        return 1 + sum(part.size() for part in self.parts)


@dataclass(slots=True, eq=False)
class RequestSpan(Span):
    """The span of a whole request. trace_id: 128 bits. parent_id: the caller's span, 64 bits; 0 without one."""

    trace_id: int = 0
    parent_id: int = 0
