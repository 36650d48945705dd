"""The replies of the server: lists as what they stand for, and errors as the kinds that this service counts.

Every reply arrives here as the server sends it under RESP2: bytes, integers, None, and flat lists of these. The lean
connection reads it so by itself, and redis-py is told to leave it alone (see address), so that no other module depends
on the shapes which redis-py gives to some replies and not to others.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions

from service.errors import StoreError
from service.store.connection import Command, ConnectionFullError
from service.store.guard import UndecodableError

Reply = Any
"""What the server answered to one command: bytes, an integer, None, a list of these; or a StoreError."""
WRONG_TYPE = "wrongtype"
UNKNOWN_SCRIPT = "noscript"
UNDECODABLE = "decode"
_ENTRY_ID = re.compile(rb"\d+-\d+")
_PREFIXES = {
    "WRONGTYPE": WRONG_TYPE, "OOM": "oom", "NOPERM": "noperm", "NOAUTH": "noauth", "WRONGPASS": "noauth",
    "READONLY": "readonly", "MISCONF": "readonly", "LOADING": "loading",
}  # fmt: skip
_FORBIDDEN_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")
_LOOKED_AT = 200
_CLASSES: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionFullError, "pool_exhausted"),
    (UndecodableError, UNDECODABLE),
    (exceptions.InvalidResponse, UNDECODABLE),
    (exceptions.NoScriptError, UNKNOWN_SCRIPT),
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.OutOfMemoryError, "oom"),
    (exceptions.ReadOnlyError, "readonly"),
    (exceptions.NoPermissionError, "noperm"),
    (exceptions.AuthenticationError, "noauth"),
    (exceptions.MaxConnectionsError, "pool_exhausted"),
    (exceptions.TimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (exceptions.ConnectionError, "connection"),
    (exceptions.RedisClusterException, "connection"),
    (OSError, "connection"),
)


def kind_of(exc: BaseException) -> str:
    """Return the label of store_errors_total for an error: by the server's error prefix, else by the class."""
    text = str(exc)
    for word in text.split(" ", 3)[:3]:
        if word in _PREFIXES:
            return _PREFIXES[word]
    if any(words in text[:_LOOKED_AT] for words in _FORBIDDEN_IN_SCRIPT):
        return "noperm"
    return next((kind for cls, kind in _CLASSES if isinstance(exc, cls)), "other")


def is_of_its_type(command: Command, reply: Reply) -> bool:
    """Whether a reply is of the type that the command has, so that it can be read; an exception is of none.

    A command not listed has any. Scripts have no type of their own: whoever runs one says what it returns.
    """
    is_right = _TYPES.get(command[0])
    return not isinstance(reply, Exception) if is_right is None else is_right(reply)


def are_numbers(reply: Reply, n: int) -> bool:
    """Whether a reply is a list of n integers."""
    return isinstance(reply, list) and len(reply) == n and all(type(each) is int for each in reply)


def are_ids(reply: Reply, n: int | None = None) -> bool:
    """Whether a reply is a list of ids of stream entries. n: how many."""
    return _are_bytes(reply) and n in (None, len(reply)) and all(_ENTRY_ID.fullmatch(each) for each in reply)


def _is_bytes(reply: Reply) -> bool:
    return type(reply) is bytes


def _is_number(reply: Reply) -> bool:
    return type(reply) is int


def _are_bytes(reply: Reply) -> bool:
    return type(reply) is list and [*map(type, reply)].count(bytes) == len(reply)


def are_pairs(reply: Reply) -> bool:
    """Whether a reply is a list of names and values."""
    return _are_bytes(reply) and len(reply) % 2 == 0


def _are_entries(reply: Reply) -> bool:
    return type(reply) is list and all(
        type(entry) is list and len(entry) == 2 and _is_bytes(entry[0]) and are_pairs(entry[1]) for entry in reply
    )


def _is_part(reply: Reply) -> bool:
    """Whether a reply is a cursor and a list of keys."""
    return type(reply) is list and len(reply) == 2 and _is_bytes(reply[0]) and _are_bytes(reply[1])


def _is_time(reply: Reply) -> bool:
    return _are_bytes(reply) and len(reply) == 2 and all(part.isdigit() for part in reply)


_TYPES: dict[str, Callable[[Reply], bool]] = {
    **dict.fromkeys(("GETRANGE", "INFO", "SET", "XADD"), _is_bytes),
    "GET": lambda reply: reply is None or _is_bytes(reply),
    **dict.fromkeys(
        ("DEL", "EXISTS", "EXPIRE", "HDEL", "HEXISTS", "HSET", "LREM", "PERSIST", "RPUSH", "STRLEN", "TTL", "UNLINK",
         "XDEL", "ZADD", "ZCARD", "ZREMRANGEBYRANK"),
        _is_number,
    ),
    "HGETALL": are_pairs,
    "LRANGE": _are_bytes,
    "SCAN": _is_part,
    "PING": lambda reply: reply == b"PONG",
    "TIME": _is_time,
    **dict.fromkeys(("XRANGE", "XREVRANGE"), _are_entries),
    "ZMSCORE": lambda reply: type(reply) is list and all(each is None or _is_bytes(each) for each in reply),
    "ZRANGE": are_pairs,  # always WITHSCORES
}  # fmt: skip


def unless_wrong_type(reply: Reply, missing: Reply) -> Reply:
    """Return a reply, or `missing` where the key holds a value of another type, which is as good as no value.

    Raises the StoreError that the reply is, if it is one of any other kind.
    """
    if not isinstance(reply, StoreError):
        return reply
    if reply.kind != WRONG_TYPE:
        raise reply
    return missing


def read_scores(reply: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the (member, score) pairs of a reply to ZRANGE ... WITHSCORES; a score is the server's own text."""
    return list(zip(reply[::2], reply[1::2], strict=True))


def read_hash(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the fields and values of a reply to HGETALL."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def read_entries(reply: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the (entry id, fields and values) pairs of a reply to XRANGE."""
    return [(entry_id, read_hash(fields)) for entry_id, fields in reply]


def read_info(reply: bytes) -> dict[str, str]:
    """Return the names and values of a reply to INFO."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def read_time(reply: Sequence[bytes]) -> float:
    """Return the Unix seconds of a reply to TIME."""
    seconds, microseconds = reply
    return int(seconds) + int(microseconds) / 1e6
