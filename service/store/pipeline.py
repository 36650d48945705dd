"""Commands on their way through redis-py, to one server or to the nodes of a Cluster, in one round trip.

A node of a Cluster that does not answer takes away the replies of its own commands alone. redis-py asks a Cluster for
its nodes again only where one answers with MOVED; here that is also done when one is gone.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.cluster import RedisCluster

from service.store.address import Address
from service.store.connection import Command

_KEYLESS = frozenset({"PING", "INFO", "TIME"})
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})
_RENEW_EVERY_S = 1.0


class Pipelines:
    """redis-py's client of one address, as a sender of pipelines."""

    def __init__(self, address: Address) -> None:
        self._client, self._close, self._renew = address.client, address.close, address.renew
        self._renewed = 0.0
        self._renewing: asyncio.Task[None] | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether keys without a common hash tag may lie on different nodes."""
        return self._renew is not None

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return what redis-py made of each reply; an error stands in its command's place.

        Raises the error of redis-py that all commands met.
        """
        if not isinstance(self._client, RedisCluster):
            return await self._send_together(commands)
        groups = list(_by_node(self._client, commands))
        replies = await asyncio.gather(
            *(self._send_together([commands[place] for place in group]) for group in groups), return_exceptions=True
        )
        results: list[Any] = [None] * len(commands)
        for group, reply in zip(groups, replies, strict=True):
            own = [reply] * len(group) if isinstance(reply, BaseException) else reply
            for place, result in zip(group, own, strict=True):
                results[place] = result
        errors = [reply for reply in replies if isinstance(reply, BaseException)]
        if errors or any(isinstance(result, exceptions.ConnectionError) for result in results):
            self._renew_later()
        if errors and len(errors) == len(replies):
            raise errors[0]
        return results

    async def drop(self) -> None:
        """Close the connections that are idle: what one of them says next may be the reply to another call."""
        if isinstance(self._client, RedisCluster):
            await asyncio.gather(*(node.disconnect() for node in self._client.get_nodes()), return_exceptions=True)
        else:
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Close every connection. Raises what redis-py raises."""
        if self._renewing is not None:
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self._client.aclose()
        await self._close()  # a pool that was given is not closed with the client

    async def _send_together(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            anywhere = {"target_nodes": "random"} if self.is_cluster and command[0] in _KEYLESS else {}
            pipeline.execute_command(*command, **anywhere)
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results

    def _renew_later(self) -> None:
        if self._renew is None or time.monotonic() - self._renewed < _RENEW_EVERY_S:
            return
        self._renewed = time.monotonic()
        self._renewing = asyncio.create_task(_renew_now(self._renew))


async def _renew_now(renew: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(exceptions.RedisError, exceptions.RedisClusterException, OSError):
        await renew()


def _by_node(client: RedisCluster, commands: Sequence[Command]) -> Iterable[list[int]]:
    """Return the places of the commands that go to each node: a node that is gone takes none of the others'."""
    groups: dict[str, list[int]] = {}
    for place, command in enumerate(commands):
        name = ""
        if command[0] not in _KEYLESS:
            key = command[3 if command[0] in _SCRIPTS else 1]
            with contextlib.suppress(exceptions.SlotNotCoveredError):
                node = client.get_node_from_key(key)
                name = node.name if node else name
        groups.setdefault(name, []).append(place)
    return groups.values()
