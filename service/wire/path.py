"""One path for routing, limits, metrics and the log, whatever the caller wrote: encoded, absolute, with a prefix."""

from urllib.parse import unquote_to_bytes

import httptools

from service.wire.request_parser import MalformedRequestError


def split_target(target: bytes, root_path: str) -> tuple[str, bytes, bytes]:
    """Return the path of a request's target, decoded; the same as it was sent; and the query.

    target: in origin form (/path), absolute form (http://host/path), or *. root_path: a prefix that is cut off, where
    it is there. Raises MalformedRequestError.
    """
    if target == b"*":
        return "*", b"*", b""
    try:
        parsed = httptools.parse_url(target)
        raw, query = parsed.path or b"/", parsed.query or b""
    except httptools.HttpParserInvalidURLError as exc:
        raise MalformedRequestError(400, "the target of the request is no URL") from exc
    prefix = root_path.encode()
    if prefix and (raw == prefix or raw.startswith(prefix + b"/")):
        raw = raw[len(prefix) :] or b"/"
    return unquote_to_bytes(raw).decode("utf-8", "replace") if b"%" in raw else raw.decode("latin-1"), raw, query
