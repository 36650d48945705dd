"""The header `traceparent` of W3C Trace Context: which trace a request belongs to, and whether it is recorded."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Context:
    """Where a request comes from. trace_id: 128 bits. parent_id: 64 bits. Neither is 0."""

    trace_id: int
    parent_id: int
    is_sampled: bool


def find_context(headers: Iterable[tuple[bytes, bytes]]) -> Context | None:
    """Return the context that a request brings; None where it brings none, a malformed one or several.

    headers: their names in lower case.
    """
    found = [value for name, value in headers if name == b"traceparent"]
    return parse_traceparent(found[0]) if len(found) == 1 else None


def parse_traceparent(value: bytes) -> Context | None:
    """Return the context of a header's value, as Trace Context reads it; None where it is malformed.

    A version after 00 may add fields; what is known of it is read as version 00 says.
    """
    parts = _FORM.fullmatch(value.strip(b" \t"))
    if parts is None or parts[1] == b"ff" or (parts[1] == b"00" and parts[5] is not None):
        return None
    trace_id, parent_id = int(parts[2], 16), int(parts[3], 16)
    if not trace_id or not parent_id:
        return None
    return Context(trace_id, parent_id, bool(int(parts[4], 16) & _SAMPLED))
