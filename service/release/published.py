"""The versions published in the store, and which of them is live. Whoever fetches one verifies it: see fetched.

What is read is believed only as far as it is exactly what this service writes (see record). A key that holds another
type, or a record that cannot be read, is as good as none, and is replaced by the next one that is written.

    {namespace}:release:live                    JSON {version, number, previous, since}: the version to be served. It is
                                                replaced in one write; number rises with every release, of any version
    {namespace}:release:versions                hash: version -> JSON {n_items, dim, bytes, published_at}
    {namespace}:release:{version}:table         JSON {chunk_bytes, manifest, sha256, signature?}: the manifest, whole,
                                                its sum, and the signature of whoever published it (see signature)
    {namespace}:release:{version}:{file}:{n}    chunk n of a file: crc32 uint32, little-endian, and the bytes
    {namespace}:release:replicas                hash: a process -> JSON {version, number, result, message, at}
    {namespace}:release:agreement               JSON {live, offline, least}: what a refresh last said, see record

A version is what a bundle becomes once it is published; a release is the act of making a version live. `previous` is
the last version actually served; a refused one never becomes it.

Chunks are small, so that a store that answers requests too is never busy with one for long. A version is listed once
everything of it is written, and can be made live once it is listed. So a publish that was cut short changes nothing,
and the chunks that it left expire.
"""

import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.bundle import MANIFEST, BundleError, Manifest, parse_manifest, read_manifest
from service.errors import RefusedError, StoreError
from service.release.record import (
    OWN_NUMBER,
    Agreement,
    Live,
    PublishedVersion,
    Replica,
    Table,
    dump,
    dump_table,
    follow_live,
    parse_agreement,
    parse_live,
    parse_published,
    parse_replica,
    parse_table,
)
from service.release.signature import SigningKey
from service.store.client import Store
from service.store.connection import Command
from service.store.guard import MOST_BYTES
from service.store.reply import UNDECODABLE, Reply, are_pairs, read_hash, unless_wrong_type

CHUNK_BYTES = 256 << 10
KEPT_VERSIONS = 3
REPLICA_S = 30.0
_AT_ONCE = 4
_KEYS_AT_ONCE = 256
_QUICK_S = 1.0
_CHUNK_S = 10.0
_UPLOAD_S = 86_400  # that chunks live which belong to no listed version
_TRIES = 20
_FIELDS = 4096
_LIVE_BYTES = 4096
_TABLE_BYTES = 16 << 20  # the manifest as JSON in JSON
_HEAD_BYTES = 64  # of a reply, beside its text
# KEYS: live, and the table of the version, except in a Cluster. ARGV: the live record as it was read, the new one, and
# how long one may be. What is longer, or of another type, is as good as none, and is replaced.
_RELEASE = """
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
local is_record = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('STRLEN', KEYS[1]) <= tonumber(ARGV[3])
if (is_record and redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

# KEYS: a hash. ARGV: how many bytes and fields it may have.
_HASH = """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return {} end
local found, n = redis.call('HLEN', KEYS[1]) <= tonumber(ARGV[2]) and redis.call('HGETALL', KEYS[1]), 0
for _, part in ipairs(found or {}) do n = n + #part end
if not found or n > tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  return {}
end
return found
"""


@dataclass(frozen=True, slots=True)
class Expected:
    """The version that must be live for another one to take its place; None: none may be."""

    version: str | None


class PublishedVersions:
    """The versions in one store. Every method raises StoreError where the store does not do as asked."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._namespace, self._prefix = namespace, f"{namespace}:release:"

    async def live(self) -> Live | None:
        """Return the live version, or None if nothing was ever published."""
        return parse_live(await self._record(self._prefix + "live", _LIVE_BYTES))

    async def activate(self, version: str, expected: Expected | None = None) -> Live:
        """Make a version live, in one write; return the new live record.

        expected: what must be live until then. Raises RefusedError for an unknown version, and where another is live.
        """
        table = self._key(version, "table")
        for _ in range(_TRIES):
            known = await self._record(self._prefix + "live", _LIVE_BYTES, or_none=True)
            _check_expected(known, expected)
            live = await self._next_live(known, version)
            keys = [self._prefix + "live"] if self._store.is_cluster else [self._prefix + "live", table]
            arguments = (len(keys), *keys, known, dump(live), _LIVE_BYTES)
            is_there = await self._one(("EXISTS", table))
            (result,) = await self._store.call_script("release", _RELEASE, [arguments], _QUICK_S) if is_there else (-1,)
            if result == -1:
                raise RefusedError("error", f"version {version} is not in the store; 'status' lists what is")
            if result == 1:
                return live
        raise await self._store.undecodable()  # nobody else comes first so often

    async def _next_live(self, known: bytes, version: str) -> Live:
        """Return the record that makes a version live in the place of a known one, which may be unreadable."""
        replicas = await self.replicas()
        try:
            before = parse_live(known)
        except StoreError:
            before = None
        is_served = before is not None and (not replicas or any(each.version == before.version for each in replicas))
        least = max([replica.number for replica in replicas], default=OWN_NUMBER) if before is None else OWN_NUMBER
        return follow_live(before, version, time.time(), is_served=is_served, least=least)

    async def rollback(self) -> Live:
        """Make the version before the live one live again. Raises RefusedError if there was none."""
        live = await self.live()
        if live is None or live.previous is None:
            raise RefusedError("error", "there is no version before the live one")
        return await self.activate(live.previous)

    async def listed(self) -> list[PublishedVersion]:
        """Return the versions in the store, the newest first."""
        found = await self._hash(self._prefix + "versions")
        listed = [fields for version, value in found.items() if (fields := parse_published(version, value))]
        return sorted(listed, key=lambda published: -published.published_at)

    async def upload(self, path: Path, signing_key: SigningKey | None = None) -> PublishedVersion:
        """Write a verified bundle into the store and list it as a version, which is not live yet.

        signing_key: with which its manifest is signed; without one it has the signature that it has in the store, if
        any. Raises RefusedError where that one is of another manifest.
        """
        read_manifest(path)
        text = (path / MANIFEST).read_bytes()
        manifest = parse_manifest(text, path / MANIFEST)
        await self._signature(manifest.version, text, signing_key)
        is_listed = manifest.version.encode() in await self._hash(self._prefix + "versions")
        until = () if is_listed else ("EX", _UPLOAD_S)
        keys: list[str] = []
        commands: list[Command] = []
        for name in sorted(manifest.files):
            for key, value in _read_chunks(path / name, self._key(manifest.version, name)):
                keys.append(key)
                commands.append(("SET", key, value, *until))
                if len(commands) == _AT_ONCE:
                    await self._all(commands)
                    commands = []
        await self._all(commands)
        for first in range(0, len(keys), _KEYS_AT_ONCE):
            await self._all([("PERSIST", key) for key in keys[first : first + _KEYS_AT_ONCE]])
        signature = await self._signature(manifest.version, text, signing_key)
        await self._all([("SET", self._key(manifest.version, "table"), dump_table(text, CHUNK_BYTES, signature))])
        published = _describe(manifest)
        await self._note(self._prefix + "versions", published.version, dump(published))
        return published

    async def _signature(self, version: str, manifest: bytes, key: SigningKey | None) -> str | None:
        """Return what a version is to be signed with. Raises RefusedError, see upload."""
        if key is not None:
            return key.sign(self._namespace, manifest)
        known = parse_table(await self._record(self._key(version, "table"), _TABLE_BYTES, or_none=True))
        if known is None or known.signature is None or known.manifest == manifest:
            return None if known is None else known.signature
        raise RefusedError(
            "error",
            f"version {version} is in the store, signed, with another {MANIFEST}; unsigned, it would be refused where "
            "signatures are required: give --signing-key FILE, or 'activate' the version that is there",
        )

    async def table(self, version: str) -> Table:
        """Return a version's manifest, its signature, and the size of its chunks. Raises RefusedError."""
        table = parse_table(await self._record(self._key(version, "table"), _TABLE_BYTES, or_none=True))
        if table is None:
            raise RefusedError(
                "rejected_checksum", f"version {version}: its manifest in the store is missing or damaged"
            )
        return table

    async def manifest(self, version: str) -> Manifest | None:
        """Return what a version's manifest says; None where it is missing or damaged."""
        try:
            return parse_manifest((await self.table(version)).manifest, f"version {version}")
        except (BundleError, RefusedError):
            return None

    async def chunks(self, version: str, name: str, size: int, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Yield a file of a version, chunk by chunk, each checked. Raises RefusedError naming file and chunk."""
        for number in range(-(-size // chunk_bytes)):
            expected = min(chunk_bytes, size - number * chunk_bytes)
            key = f"{self._key(version, name)}:{number}"
            command = ("GETRANGE", key, 0, expected + 4)  # one byte past its end
            most_bytes = expected + 5 + _HEAD_BYTES
            ((reply,),) = await self._store.call_each("release", [[command]], _CHUNK_S, most_bytes=most_bytes)
            value = unless_wrong_type(reply, b"")
            if len(value) != expected + 4 or zlib.crc32(value[4:]) != int.from_bytes(value[:4], "little"):
                raise RefusedError(
                    "rejected_checksum", f"version {version}: {name}: chunk {number} is missing or damaged"
                )
            yield value[4:]

    async def prune(self, tried: str | None = None) -> list[str]:
        """Delete all but the newest versions, the live one and the one before it; return which were deleted.

        tried: the version that is tried beside the live one, which is kept too.
        """
        live, versions = await self.live(), [published.version for published in await self.listed()]
        needed = {tried, *((live.version, live.previous) if live else ())}
        old = [version for version in versions[KEPT_VERSIONS:] if version not in needed]
        for version in old:
            await self._delete(version)
        return old

    async def report(self, replica: Replica) -> None:
        """Write down what a process serves."""
        await self._note(self._prefix + "replicas", replica.name, dump(replica))

    async def replicas(self) -> list[Replica]:
        """Return the processes that have reported within REPLICA_S; the others are taken off the list."""
        listed: list[Replica] = []
        gone: list[bytes] = []
        for name, value in (await self._hash(self._prefix + "replicas")).items():
            replica = parse_replica(name, value)
            if replica is None or time.time() - replica.at > REPLICA_S:
                gone.append(name)
            else:
                listed.append(replica)
        if gone:
            await self._all([("HDEL", self._prefix + "replicas", *gone)])
        return sorted(listed, key=lambda replica: replica.name)

    async def forget(self, name: str) -> None:
        """Take a process off the list: it ends."""
        await self._all([("HDEL", self._prefix + "replicas", name)])

    async def note_agreement(self, agreement: Agreement) -> None:
        """Write down what a refresh says of the live model and its teacher, in the place of whatever stands there."""
        await self._one(("SET", self._prefix + "agreement", dump(agreement)))

    async def agreement(self) -> Agreement | None:
        """Return what a refresh last said; None where none has, or what stands there is nothing of ours."""
        return parse_agreement(await self._record(self._prefix + "agreement", _LIVE_BYTES, or_none=True))

    async def _delete(self, version: str) -> None:
        """Delete a version, its table and its place in the list first, so that it cannot become live any more."""
        table = self._key(version, "table")
        known = parse_table(await self._record(table, _TABLE_BYTES, or_none=True))
        await self._all([("DEL", table), ("HDEL", self._prefix + "versions", version)])
        if known is None:
            return
        try:
            files = parse_manifest(known.manifest, f"version {version}").files
        except BundleError:
            return  # nobody knows what it has
        for name, entry in files.items():
            for first in range(0, -(-entry["size"] // known.chunk_bytes), _KEYS_AT_ONCE):
                keys = [f"{self._key(version, name)}:{each}" for each in range(first, first + _KEYS_AT_ONCE)]
                if not any(await self._all([("UNLINK", key) for key in keys])):
                    break

    def _key(self, version: str, part: str) -> str:
        return f"{self._prefix}{version}:{part}"

    async def _record(self, key: str, most_bytes: int, *, or_none: bool = False) -> bytes:
        """Return a key's text, empty where it is missing.

        Raises StoreError where it is of another type or longer; or_none: then it counts as missing.
        """
        for command in (("STRLEN", key), ("GET", key)):  # in two steps: a long one is not fetched at all
            ((reply,),) = await self._store.call_each(
                "release", [[command]], _QUICK_S, most_bytes=most_bytes + _HEAD_BYTES
            )
            found = unless_wrong_type(reply, most_bytes + 1)
            if isinstance(found, int) and found > most_bytes:
                if or_none:
                    return b""
                raise StoreError(UNDECODABLE)
        return found or b""

    async def _hash(self, key: str) -> dict[bytes, bytes]:
        """Return a hash; an empty one where it is missing, of another type, or so large that it is deleted."""
        (reply,) = await self._store.call_script("release", _HASH, [(1, key, MOST_BYTES // 2, _FIELDS)], _QUICK_S)
        await self._store.require(are_pairs(reply))
        return read_hash(reply)

    async def _note(self, key: str, name: str, value: bytes) -> None:
        """Set a field of a hash, in the place of whatever else stands there."""
        ((reply,),) = await self._store.call_each("release", [[("HSET", key, name, value)]], _QUICK_S)
        if unless_wrong_type(reply, None) is None:
            await self._all([("DEL", key), ("HSET", key, name, value)])

    async def _one(self, command: Command, timeout_s: float = _QUICK_S) -> Reply:
        return await self._store.call_one("release", command, timeout_s)

    async def _all(self, commands: Sequence[Command]) -> list[Reply]:
        return await self._store.call("release", commands, _CHUNK_S) if commands else []


def _check_expected(known: bytes, expected: Expected | None) -> None:
    """Raise RefusedError where the live record is of another version than the expected one."""
    if expected is None:
        return
    live = parse_live(known)
    if (live.version if live else None) != expected.version:
        raise RefusedError(
            "error", f"{live.version if live else 'no version'} is live, not {expected.version or 'none'}"
        )


def _read_chunks(path: Path, key: str) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and values of a file's chunks."""
    with path.open("rb") as file:
        for number, chunk in enumerate(iter(lambda: file.read(CHUNK_BYTES), b"")):
            yield f"{key}:{number}", zlib.crc32(chunk).to_bytes(4, "little") + chunk


def _describe(manifest: Manifest) -> PublishedVersion:
    size = sum(entry["size"] for entry in manifest.files.values())
    return PublishedVersion(manifest.version, manifest.n_items, manifest.dim, size, time.time())
