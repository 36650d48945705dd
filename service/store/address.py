"""Where the store is: RETORT_REDIS_URL, read once, becomes redis-py's client and, where it can, a lean connection.

    redis://[[user]:password@]host[:port][/db]      rediss:// the same under TLS      unix://path[?db=n]
    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/name[/db][?sentinel_password=...]
    redis+cluster://[[user]:password@]host[:port][,host[:port]...]      rediss+cluster://, rediss+sentinel://: under TLS

The options that may follow are those of option. All three forms of rediss take the same ones for TLS.

redis-py's own defaults never reach a request: timeouts of seconds, ten retries, RESP3. Nor do the shapes that it gives
to replies: all of them are left as the server sent them (see reply), and none may be too large (see parser).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from service.errors import StartError
from service.store.connection import Command, Connect, StoreConnection
from service.store.option import SENTINEL, SINGLE, TLS, read_options
from service.store.parser import GuardedParser

_HOSTS = r"(?P<scheme>rediss?)\+%s://(?:(?P<user>[^:@/?]*):(?P<password>[^@/?]*)@)?(?P<hosts>[^@/?]+)"
_SENTINEL = re.compile(_HOSTS % "sentinel" + r"/(?P<name>[^/?]+)(?:/(?P<db>\d+))?/?(?:\?(?P<options>.*))?")
_CLUSTER = re.compile(_HOSTS % "cluster" + r"/?(?:\?(?P<options>.*))?")
_HOST = re.compile(r"(\[[^\]]+\]|[^:]+)(?::(\d{1,5}))?")
_PORT, _SENTINEL_PORT = 6379, 26379
_SPARE = 3  # connections beside those of the calls: one of them may wait at the server
_ASKING_S = 0.3  # one sentinel; the next is asked after it
_LOST_S = 5.0  # behind Sentinels: that of a call can get lost in _ASKING_S, see service/task.py
_PLAIN_PARTS = frozenset({"host", "port", "path", "db", "username", "password", "connection_class"})
_SECRETS = ("password", "sentinel_password", "ssl_password")


@dataclass(frozen=True, slots=True)
class Address:
    """A client of the store, and the function that closes it.

    connection: a lean connection; None to a Cluster, under TLS, and where the URL has options of redis-py's own. renew:
    asks a Cluster again which nodes it has; None where there is no Cluster. secrets: what no log may hold.
    """

    client: "redis.asyncio.Redis | RedisCluster"
    connection: StoreConnection | None
    close: Callable[[], Awaitable[None]]
    renew: Callable[[], Awaitable[None]] | None = None
    secrets: tuple[str, ...] = ()


def open_address(url: str, max_connections: int) -> Address:
    """Read a URL; nothing is connected yet. Raises StartError, which never quotes the URL: it may hold a password.

    max_connections: of the client's pool and, likewise, calls in flight on the lean connection.
    """
    try:
        address = _open(url, max_connections)
    except (ValueError, TypeError, RedisError):
        raise StartError("RETORT_REDIS_URL: not a valid URL") from None
    _leave_replies_alone(address.client)
    return address


def _open(url: str, max_connections: int) -> Address:
    if url.startswith(("redis://", "rediss://", "unix://")):
        return _open_single(url, max_connections)
    if url.startswith(("redis+sentinel://", "rediss+sentinel://")):
        return _open_sentinel(url, max_connections)
    if url.startswith(("redis+cluster://", "rediss+cluster://")):
        return _open_cluster(url, max_connections)
    raise StartError("RETORT_REDIS_URL: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")


def _open_single(url: str, max_connections: int) -> Address:
    base, _, query = url.partition("?")
    is_tls = url.startswith("rediss")
    options = read_options(query, {**SINGLE, **(TLS if is_tls else {})})
    parts = {**options, **parse_url(base)}
    pool = redis.asyncio.ConnectionPool(
        max_connections=max_connections + _SPARE, parser_class=GuardedParser, **(parts | _limits())
    )
    is_plain = not is_tls and set(parts) <= _PLAIN_PARTS
    connection = (
        StoreConnection(_connect_to(parts), _greeting(parts), ResponseError, max_pending=max_connections)
        if is_plain
        else None
    )
    return Address(redis.asyncio.Redis(connection_pool=pool), connection, pool.disconnect, secrets=_secrets_of(parts))


def _open_sentinel(url: str, max_connections: int) -> Address:
    found = _SENTINEL.fullmatch(url)
    if found is None:
        raise ValueError(url)
    is_tls = found["scheme"] == "rediss"
    options = read_options(found["options"] or "", {**SENTINEL, **(TLS if is_tls else {})})
    tls = {name: value for name, value in options.items() if name in TLS}
    asked = {name.removeprefix("sentinel_"): value for name, value in options.items() if name in SENTINEL}
    limits = _limits() | {"ssl": is_tls, "socket_timeout": _LOST_S} | tls
    quick = {"socket_connect_timeout": _ASKING_S, "socket_timeout": _ASKING_S}
    hosts = _hosts(found["hosts"], _SENTINEL_PORT)
    sentinel = Sentinel(hosts, sentinel_kwargs=limits | quick | asked)  # type: ignore[no-untyped-call]
    parts = _login(found) | {"db": int(found["db"] or 0)}
    name = unquote(found["name"])
    for each in sentinel.sentinels:
        each.connection_pool.connection_kwargs["parser_class"] = GuardedParser
    client = sentinel.master_for(
        name, max_connections=max_connections + _SPARE, parser_class=GuardedParser, **parts, **limits
    )

    async def connect(protocol: Callable[[], asyncio.Protocol]) -> Any:
        host, port = await sentinel.discover_master(name)
        return await asyncio.get_running_loop().create_connection(protocol, host, port)

    async def close() -> None:
        await client.connection_pool.disconnect()
        await sentinel.aclose()

    greeting = _greeting(parts)
    connection = None if is_tls else StoreConnection(connect, greeting, ResponseError, max_pending=max_connections)
    return Address(client, connection, close, secrets=_secrets_of(parts | options))


def _open_cluster(url: str, max_connections: int) -> Address:
    found = _CLUSTER.fullmatch(url)
    if found is None:
        raise ValueError(url)
    is_tls = found["scheme"] == "rediss"
    options = read_options(found["options"] or "", TLS if is_tls else {})
    login = _login(found)
    client = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in _hosts(found["hosts"], _PORT)],
        require_full_coverage=False,  # the users of the other nodes are served on
        max_connections=max_connections + _SPARE,
        ssl=is_tls,
        **login,
        **_limits(),
    )
    nodes = client.nodes_manager  # redis-py's Cluster takes the parser and some of the options by no other way
    for kwargs in (nodes.connection_kwargs, *(node.connection_kwargs for node in nodes.startup_nodes.values())):
        kwargs.update(options, parser_class=GuardedParser)
    return Address(client, None, client.aclose, client.nodes_manager.initialize, _secrets_of(login | options))


def _leave_replies_alone(client: "redis.asyncio.Redis | RedisCluster") -> None:
    """Keep redis-py from reshaping replies, but those to what it asks a Cluster for itself."""
    for name in list(client.response_callbacks):
        if not name.startswith(("CLUSTER", "COMMAND")):
            del client.response_callbacks[name]


def _limits() -> dict[str, Any]:
    return {
        "protocol": 2,  # redis-py 8.1.0 hands out dead connections under RESP3 (#4252)
        "socket_connect_timeout": 1.0,
        "socket_timeout": None,  # each call has its own, which could get lost inside of this one: see service/task.py
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "driver_info": None,
    }


def _secrets_of(parts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(parts[name] for name in _SECRETS if parts.get(name))


def _login(found: re.Match[str]) -> dict[str, Any]:
    return {"username": unquote(found["user"] or "") or None, "password": unquote(found["password"] or "") or None}


def _hosts(text: str, usual_port: int) -> list[tuple[str, int]]:
    found = [_HOST.fullmatch(part) for part in text.split(",")]
    if None in found:
        raise ValueError(text)
    return [(each[1].strip("[]"), int(each[2] or usual_port)) for each in found if each]


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
