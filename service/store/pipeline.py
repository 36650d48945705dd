"""Commands on their way through redis-py, to one server or to the nodes of a Cluster, in one round trip.

A node of a Cluster that does not answer takes away the replies of its own commands alone, and once it has failed
several times nobody waits for it: each node has a breaker of its own. redis-py asks a Cluster for
its nodes again only where one answers with MOVED; here that is also done when one is gone.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio.cluster import RedisCluster

from service.store.address import Address
from service.store.breaker import Breaker
from service.store.connection import Command
from service.task import end_task

_KEYLESS = frozenset({"PING", "INFO", "TIME"})
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})
_GONE = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_RENEW_EVERY_S, _RENEW_S = 1.0, 5.0


class Pipelines:
    """redis-py's client of one address, as a sender of pipelines."""

    def __init__(self, address: Address, patient_s: float) -> None:
        """patient_s: a node that does not answer a call within it has failed; shorter calls say nothing of it."""
        self._patient_s = patient_s
        self._nodes: dict[str, Breaker] = {}
        self._probes: set[asyncio.Task[None]] = set()
        self._client, self._close, self._renew = address.client, address.close, address.renew
        self._renewed = 0.0
        self._renewing: asyncio.Task[None] | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether keys without a common hash tag may lie on different nodes."""
        return self._renew is not None

    async def send(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send commands and return what redis-py made of each reply; an error stands in its command's place.

        Raises TimeoutError, or the error of redis-py, that all commands met.
        """
        if not isinstance(self._client, RedisCluster):
            return await self._send_together(commands, timeout_s)
        groups = _by_node(self._client, commands)
        replies = await asyncio.gather(
            *(self._send_to(name, [commands[place] for place in group], timeout_s) for name, group in groups.items()),
            return_exceptions=True,
        )
        results: list[Any] = [None] * len(commands)
        for group, reply in zip(groups.values(), replies, strict=True):
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
        for task in [*self._probes, *([self._renewing] if self._renewing is not None else [])]:
            await end_task(task)
        await self._client.aclose()
        await self._close()  # a pool that was given is not closed with the client

    async def _send_to(self, name: str, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send the commands of one node; while its breaker is open they fail at once. Raises as send does."""
        breaker = self._nodes.setdefault(name, Breaker())
        if not breaker.is_closed:
            if breaker.begin_probe():
                probe = asyncio.create_task(self._probe(name, breaker))
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)
            raise exceptions.ConnectionError("a node of the Cluster does not answer")
        try:
            results = await self._send_together(commands, timeout_s)
        except TimeoutError:
            if timeout_s >= self._patient_s:
                breaker.record_failure()
            raise
        except _GONE:
            breaker.record_failure()
            raise
        if all(isinstance(result, _GONE) for result in results):
            breaker.record_failure()
        else:
            breaker.record_success()
        return results

    async def _probe(self, name: str, breaker: Breaker) -> None:
        """Ask a node whose breaker is open for a sign of life, so that no caller waits to find out."""
        try:
            node = self._client.get_node(node_name=name) if name and isinstance(self._client, RedisCluster) else None
            async with asyncio.timeout(self._patient_s):
                await self._client.execute_command("PING", target_nodes=node or "random")
        except Exception:  # the border: whatever it says, it is no sign of life
            breaker.record_failure()
        else:
            breaker.record_success()

    async def _send_together(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            anywhere = {"target_nodes": "random"} if self.is_cluster and command[0] in _KEYLESS else {}
            pipeline.execute_command(*command, **anywhere)
        async with asyncio.timeout(timeout_s):
            results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results

    def _renew_later(self) -> None:
        if self._renew is None or time.monotonic() - self._renewed < _RENEW_EVERY_S:
            return
        self._renewed = time.monotonic()
        self._renewing = asyncio.create_task(_renew_now(self._renew))


async def _renew_now(renew: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(exceptions.RedisError, exceptions.RedisClusterException, OSError):
        async with asyncio.timeout(_RENEW_S):  # a node that says nothing; the next time another one is asked first
            await renew()


def _by_node(client: RedisCluster, commands: Sequence[Command]) -> dict[str, list[int]]:
    """Return the places of the commands that go to each node, "" where any one or none will do."""
    groups: dict[str, list[int]] = {}
    for place, command in enumerate(commands):
        name = ""
        if command[0] not in _KEYLESS:
            key = command[3 if command[0] in _SCRIPTS else 1]
            with contextlib.suppress(exceptions.SlotNotCoveredError):
                node = client.get_node_from_key(key)
                name = node.name if node else name
        groups.setdefault(name, []).append(place)
    return groups
