"""The record of what is tried beside the live version, in the store, for every process that shares it.

    {namespace}:experiment    JSON, see record: what runs, or what ran last. It is replaced in one write, and only where
                              it still is what was read before

A key of another type, or a record that cannot be read, is as good as none for whoever begins an experiment.

An experiment begins and ends by the clock of the store, by which the stream of events goes too: that of an operator's
machine may be wrong, and then nothing would be counted before it is right.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from service.errors import RefusedError, StoreError
from service.experiment.attribution import IMPRESSION
from service.experiment.record import (
    LEAST_SHARE,
    MOST_CONVERSIONS,
    Experiment,
    Kind,
    are_conversions,
    dump_experiment,
    is_share,
    parse_experiment,
)
from service.store.client import Store
from service.store.reply import UNDECODABLE, unless_wrong_type

_CALL_S = 1.0
_BYTES = 4096
_HEAD_BYTES = 64
_NAME_BYTES = 8
# KEYS: the record. ARGV: the record as it was read, the new one, and how long one may be. What is longer, or of another
# type, is as good as none, and is replaced.
_REPLACE = """
local is_record = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('STRLEN', KEYS[1]) <= tonumber(ARGV[3])
if (is_record and redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
# KEYS: the record. Returns the server's Unix time in microseconds; 0 for users of the store who may not ask for it.
_NOW = """
local time = redis.pcall('TIME')
return time.err and 0 or time[1] * 1000000 + time[2]
"""


class ExperimentShelf:
    """The record of one namespace. Methods raise StoreError where the store does not do as asked."""

    def __init__(self, store: Store, namespace: str, *, clock: Callable[[], float] = time.time) -> None:
        """clock: Unix seconds, for users of the store who may not ask for its own."""
        self._store, self._key, self._clock = store, f"{namespace}:experiment", clock

    async def read(self) -> Experiment | None:
        """Return what runs, or what ran last; None where nothing ever did.

        Raises StoreError of the kind UNDECODABLE where something else stands in the key.
        """
        return parse_experiment(await self._text())

    async def begin(
        self, kind: Kind, version: str, live: str, share: float, conversions: Iterable[str] = ()
    ) -> Experiment:
        """Set a version beside the live one, and return the record. conversions: types of events; see Experiment.

        Where that version is set beside that live one already, its kind and share are changed, and the users who were
        in stay in. What was counted goes on only where the test is the same.

        Raises RefusedError where another one runs.
        """
        if not is_share(share):
            raise RefusedError("error", f"the share is a number of percent from {LEAST_SHARE} to 100, not {share!r}")
        counted = tuple(sorted(conversions))
        if not are_conversions(counted):
            raise RefusedError("error", f"RETORT_CONVERSIONS: at most {MOST_CONVERSIONS} types of 64 characters each")
        if IMPRESSION in counted:
            raise RefusedError(
                "error", f"RETORT_CONVERSIONS: an {IMPRESSION} is what conversions are counted after: drop it"
            )
        if version == live:
            raise RefusedError("error", f"version {version} is the live one: there is nothing to set beside it")
        known = await self._text(or_none=True)
        before = _parse_or_none(known)
        is_same = before is not None and before.is_running and (before.version, before.live) == (version, live)
        if before is not None and before.is_running and before.live == live and not is_same:
            raise RefusedError(
                "error", f"version {before.version} runs as {before.kind}: end it first, by 'experiment stop'"
            )
        salt = before.salt if is_same and before is not None else secrets.token_hex(_NAME_BYTES)
        begun = Experiment(
            kind,
            version,
            live,
            float(share),
            salt,
            await self._now(),
            secrets.token_hex(_NAME_BYTES),
            conversions=counted,
        )
        if is_same and before is not None and _is_same_test(before, begun):
            begun = replace(begun, started=before.started)
        if not await self._replace(known, begun):
            raise RefusedError("error", "somebody else has changed the experiment at this moment: look at 'status'")
        return begun

    async def end(self, experiment: Experiment, reason: str) -> Experiment | None:
        """End an experiment, and return its record; None where it is not the one that runs, or another was first."""
        known = await self._text(or_none=True)
        before = _parse_or_none(known)
        if before is None or not before.is_running or before.id != experiment.id:
            return None
        ended = replace(before, ended=await self._now(), reason=reason[:300])
        return ended if await self._replace(known, ended) else None

    async def _now(self) -> float:
        """Return the Unix time of the store."""
        (microseconds,) = await self._store.call_script("release", _NOW, [(1, self._key)], _CALL_S)
        await self._store.require(isinstance(microseconds, int))
        return microseconds / 1e6 if microseconds else self._clock()

    async def _replace(self, known: bytes, new: Experiment) -> bool:
        arguments = (1, self._key, known, dump_experiment(new), _BYTES)
        (result,) = await self._store.call_script("release", _REPLACE, [arguments], _CALL_S)
        await self._store.require(result in (0, 1))
        return bool(result)

    async def _text(self, *, or_none: bool = False) -> bytes:
        """Return the key's text, empty where there is none; or_none: also where it cannot be a record."""
        command = ("GETRANGE", self._key, 0, _BYTES)  # one byte more than one may have
        ((reply,),) = await self._store.call_each("release", [[command]], _CALL_S, most_bytes=_BYTES + 1 + _HEAD_BYTES)
        found = unless_wrong_type(reply, None)
        if found is None or len(found) > _BYTES:
            if or_none:
                return b""
            raise StoreError(UNDECODABLE)
        return bytes(found)


def _is_same_test(one: Experiment, other: Experiment) -> bool:
    """Whether the counts of one go on in the other: the same users are answered, and the same is counted of them."""
    are_alike = one.kind == other.kind or "shadow" not in (one.kind, other.kind)
    return are_alike and (one.share, one.conversions) == (other.share, other.conversions)


def _parse_or_none(value: bytes) -> Experiment | None:
    try:
        return parse_experiment(value)
    except StoreError:
        return None
