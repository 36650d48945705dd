"""Where the store is: RETORT_REDIS_URL, read once, as redis-py's client and as what a Line connects by.

    redis://[[user]:password@]host[:port][/db]      rediss:// the same under TLS      unix://path[?db=n]
    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/name[/db][?sentinel_password=...]

With service.store the only module that names redis. Its own defaults (seconds of timeout, ten retries, RESP3) never
reach a request.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import redis.asyncio
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from service.errors import StartError
from service.line import Command, Connect, Line

_SENTINEL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?:(?P<user>[^:@/?]*):(?P<password>[^@/?]*)@)?(?P<hosts>[^@/?]+)"
    r"/(?P<name>[^/?]+)(?:/(?P<db>\d+))?/?(?:\?(?P<options>.*))?"
)
_HOST = re.compile(r"(\[[^\]]+\]|[^:]+)(?::(\d{1,5}))?")
_SENTINEL_PORT = 26379
_ASKING_S = 0.3  # one sentinel; the next is asked after it
_LINE_PARTS = frozenset({"host", "port", "path", "db", "username", "password", "connection_class"})
_OPTIONS = frozenset({"sentinel_password", "sentinel_username"})


@dataclass(frozen=True, slots=True)
class Address:
    """A client of the store; a lean connection to it, but under TLS or options of redis-py's own; what closes both."""

    client: "redis.asyncio.Redis"
    line: Line | None
    close: Callable[[], Awaitable[None]]


def open_address(url: str, max_connections: int) -> Address:
    """Read a URL; nothing is connected yet. Raises StartError, which never quotes the URL: it may hold a password."""
    try:
        if url.startswith(("redis://", "rediss://", "unix://")):
            return _open_single(url, max_connections)
        if url.startswith(("redis+sentinel://", "rediss+sentinel://")):
            return _open_sentinel(url, max_connections)
    except (ValueError, TypeError):
        raise StartError("RETORT_REDIS_URL: not a valid URL") from None
    raise StartError("RETORT_REDIS_URL: redis://, rediss://, unix:// or redis+sentinel://; Cluster: not built yet")


def _open_single(url: str, max_connections: int) -> Address:
    pool = redis.asyncio.ConnectionPool.from_url(url, max_connections=max_connections + 2, **_limits())
    parts = dict(parse_url(url))
    is_plain = not url.startswith("rediss") and set(parts) <= _LINE_PARTS
    line = Line(_connect_to(parts), _greeting(parts), ResponseError) if is_plain else None
    return Address(redis.asyncio.Redis(connection_pool=pool), line, pool.disconnect)


def _open_sentinel(url: str, max_connections: int) -> Address:
    found = _SENTINEL.fullmatch(url)
    if found is None:
        raise ValueError(url)
    options = dict(parse_qsl(found["options"] or "", strict_parsing=bool(found["options"])))
    if not set(options) <= _OPTIONS:
        raise ValueError(url)
    is_tls = found["scheme"] == "rediss"
    login = {"username": unquote(found["user"] or "") or None, "password": unquote(found["password"] or "") or None}
    asked = {name.removeprefix("sentinel_"): value for name, value in options.items()}
    limits = _limits() | {"ssl": is_tls}
    quick = {"socket_connect_timeout": _ASKING_S, "socket_timeout": _ASKING_S}
    hosts = [_host(part) for part in found["hosts"].split(",")]
    sentinel = Sentinel(hosts, sentinel_kwargs=limits | quick | asked)  # type: ignore[no-untyped-call]
    parts: dict[str, Any] = login | {"db": int(found["db"] or 0)}
    name = unquote(found["name"])
    client = sentinel.master_for(name, max_connections=max_connections + 2, **parts, **limits)

    async def connect(protocol: Callable[[], asyncio.Protocol]) -> Any:
        host, port = await sentinel.discover_master(name)
        return await asyncio.get_running_loop().create_connection(protocol, host, port)

    async def close() -> None:
        await client.connection_pool.disconnect()
        await sentinel.aclose()

    return Address(client, None if is_tls else Line(connect, _greeting(parts), ResponseError), close)


def _limits() -> dict[str, Any]:
    return {
        "protocol": 2,  # redis-py 8.1.0 hands out dead connections under RESP3 (#4252)
        "socket_connect_timeout": 1.0,
        "socket_timeout": 5.0,  # never reached: every call has a shorter limit of its own
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "driver_info": None,
    }


def _host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return found[1].strip("[]"), int(found[2] or _SENTINEL_PORT)


def _greeting(parts: dict[str, Any]) -> list[Command]:
    greeting: list[Command] = []
    if parts.get("password"):
        greeting.append(("AUTH", *filter(None, [parts.get("username")]), parts["password"]))
    if parts.get("db"):
        greeting.append(("SELECT", parts["db"]))
    return greeting


def _connect_to(parts: dict[str, Any]) -> Connect:
    def connect(protocol: Callable[[], asyncio.Protocol]) -> Awaitable[Any]:
        loop = asyncio.get_running_loop()
        if path := parts.get("path"):
            return loop.create_unix_connection(protocol, path)
        return loop.create_connection(protocol, parts.get("host", "localhost"), parts.get("port", 6379))

    return connect
