"""The versions published in the store, and which of them is live. Whoever fetches one verifies it: see fetched.

    {namespace}:release:live                    JSON {version, number, previous, since}: the version to be served. It is
                                                replaced in one write; number rises with every release, of any version
    {namespace}:release:versions                hash: version -> JSON {n_items, dim, bytes, published_at}
    {namespace}:release:{version}:table         JSON {chunk_bytes, manifest, sha256}: the manifest, whole, and its sum
    {namespace}:release:{version}:{file}:{n}    chunk n of a file: crc32 uint32, little-endian, and the bytes
    {namespace}:release:replicas                hash: a process -> JSON {version, number, result, message, at}

A version is what a bundle becomes once it is published; a release is the act of making a version live. `previous` is
the last version actually served; a refused one never becomes it.

Chunks are small, so that a store that answers requests too is never busy with one for long. A version is listed once
everything of it is written, and can be made live once it is listed. So a publish that was cut short changes nothing,
and the chunks that it left expire.
"""

import hashlib
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from service.bundle import MANIFEST, Manifest, read_manifest
from service.errors import RefusedError, StoreError
from service.store.client import Store
from service.store.connection import Command
from service.store.reply import Reply, read_hash

CHUNK_BYTES = 256 << 10
OWN_NUMBER = 1  # of a bundle that is served without a release: --bundle
KEPT_VERSIONS = 3
REPLICA_S = 30.0
_AT_ONCE = 4
_KEYS_AT_ONCE = 256
_QUICK_S = 1.0
_CHUNK_S = 10.0
_UPLOAD_S = 86_400  # that chunks live which belong to no listed version
# KEYS: live, and the table of the version, except in a Cluster. ARGV: the live record as it was read, the new one.
_RELEASE = """
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
_VERSION_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Live:
    """The version to be served. number: of its release. previous: see above. since: Unix seconds of its release."""

    version: str
    number: int
    previous: str | None
    since: float


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version in the store. bytes: of its files. published_at: Unix seconds."""

    version: str
    n_items: int
    dim: int
    bytes: int
    published_at: float


@dataclass(frozen=True, slots=True)
class Replica:
    """What a process last said of itself. number: of the release that it serves. at: Unix seconds.

    result, message: of its last attempt to follow; ok, or another label of model_swaps_total and why it was refused.
    """

    name: str
    version: str
    number: int
    result: str
    message: str
    at: float


def is_version(text: str) -> bool:
    """Return whether a text can be a version, so that it may stand in a key or a path."""
    return len(text) == _VERSION_LENGTH and all(letter in "0123456789abcdef" for letter in text)


class PublishedVersions:
    """The versions in one store. Every method raises StoreError where the store does not do as asked."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._prefix = f"{namespace}:release:"

    async def live(self) -> Live | None:
        """Return the live version, or None if nothing was ever published."""
        return _parse_live(await self._one(("GET", self._prefix + "live")))

    async def activate(self, version: str) -> Live:
        """Make a version live, in one write; return the new live record. Raises RefusedError for an unknown version."""
        table = self._key(version, "table")
        while True:
            known = await self._one(("GET", self._prefix + "live")) or b""
            before = _parse_live(known)
            live = _next_live(before, version, is_served=before is not None and await self._is_served(before.version))
            keys = [self._prefix + "live"] if self._store.is_cluster else [self._prefix + "live", table]
            arguments = (len(keys), *keys, known, orjson.dumps(asdict(live)))
            is_there = await self._one(("EXISTS", table))
            (result,) = await self._store.call_script("release", _RELEASE, [arguments], _QUICK_S) if is_there else (-1,)
            if result == -1:
                raise RefusedError("error", f"version {version} is not in the store; 'status' lists what is")
            if result == 1:
                return live

    async def rollback(self) -> Live:
        """Make the version before the live one live again. Raises RefusedError if there was none."""
        live = await self.live()
        if live is None or live.previous is None:
            raise RefusedError("error", "there is no version before the live one")
        return await self.activate(live.previous)

    async def listed(self) -> list[PublishedVersion]:
        """Return the versions in the store, the newest first."""
        found = read_hash(await self._one(("HGETALL", self._prefix + "versions")))
        listed = [fields for version, value in found.items() if (fields := _parse_published(version, value))]
        return sorted(listed, key=lambda published: -published.published_at)

    async def upload(self, path: Path) -> PublishedVersion:
        """Write a verified bundle into the store and list it as a version, which is not live yet."""
        manifest = read_manifest(path)
        is_listed = await self._one(("HEXISTS", self._prefix + "versions", manifest.version))
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
        await self._all([("SET", self._key(manifest.version, "table"), _table(path / MANIFEST))])
        published = _describe(manifest)
        fields = orjson.dumps({name: value for name, value in asdict(published).items() if name != "version"})
        await self._all([("HSET", self._prefix + "versions", published.version, fields)])
        return published

    async def manifest(self, version: str) -> tuple[bytes, int]:
        """Return a version's manifest.json and the size of its chunks. Raises RefusedError."""
        value = await self._one(("GET", self._key(version, "table")))
        try:
            table = orjson.loads(value or b"null")
            manifest, chunk_bytes = table["manifest"].encode(), int(table["chunk_bytes"])
            is_whole = hashlib.sha256(manifest).hexdigest() == table["sha256"] and chunk_bytes > 0
        except (TypeError, KeyError, ValueError, AttributeError):
            is_whole = False
        if not is_whole:
            raise RefusedError(
                "rejected_checksum", f"version {version}: its manifest in the store is missing or damaged"
            )
        return manifest, chunk_bytes

    async def chunks(self, version: str, name: str, size: int, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Yield a file of a version, chunk by chunk, each checked. Raises RefusedError naming file and chunk."""
        for number in range(-(-size // chunk_bytes)):
            expected = min(chunk_bytes, size - number * chunk_bytes)
            key = f"{self._key(version, name)}:{number}"
            value = await self._one(("GETRANGE", key, 0, expected + 4), _CHUNK_S)  # one byte past its end
            if len(value) != expected + 4 or zlib.crc32(value[4:]) != int.from_bytes(value[:4], "little"):
                raise RefusedError(
                    "rejected_checksum", f"version {version}: {name}: chunk {number} is missing or damaged"
                )
            yield value[4:]

    async def prune(self) -> list[str]:
        """Delete all but the newest versions, the live one and the one before it; return which were deleted."""
        live, versions = await self.live(), [published.version for published in await self.listed()]
        needed = {live.version, live.previous} if live else set()
        old = [version for version in versions[KEPT_VERSIONS:] if version not in needed]
        for version in old:
            await self._delete(version)
        return old

    async def report(self, replica: Replica) -> None:
        """Write down what a process serves."""
        fields = orjson.dumps({name: value for name, value in asdict(replica).items() if name != "name"})
        await self._all([("HSET", self._prefix + "replicas", replica.name, fields)])

    async def replicas(self) -> list[Replica]:
        """Return the processes that have reported within REPLICA_S; the others are taken off the list."""
        listed: list[Replica] = []
        gone: list[bytes] = []
        for name, value in read_hash(await self._one(("HGETALL", self._prefix + "replicas"))).items():
            replica = _parse_replica(name, value)
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

    async def _is_served(self, version: str) -> bool:
        """Return whether a process serves a version, or none has reported."""
        replicas = await self.replicas()
        return not replicas or any(replica.version == version for replica in replicas)

    async def _delete(self, version: str) -> None:
        """Delete a version, its table and its place in the list first, so that it cannot become live any more."""
        table = self._key(version, "table")
        value = await self._one(("GET", table))
        await self._all([("DEL", table), ("HDEL", self._prefix + "versions", version)])
        if not value:
            return
        table_fields = orjson.loads(value)
        files = orjson.loads(table_fields["manifest"])["files"]
        for name, entry in files.items():
            n_chunks = -(-entry["size"] // table_fields["chunk_bytes"])
            keys = [f"{self._key(version, name)}:{number}" for number in range(n_chunks)]
            for first in range(0, n_chunks, _KEYS_AT_ONCE):
                await self._all([("UNLINK", key) for key in keys[first : first + _KEYS_AT_ONCE]])

    def _key(self, version: str, part: str) -> str:
        return f"{self._prefix}{version}:{part}"

    async def _one(self, command: Command, timeout_s: float = _QUICK_S) -> Reply:
        return await self._store.call_one("release", command, timeout_s)

    async def _all(self, commands: Sequence[Command]) -> None:
        if commands:
            await self._store.call("release", commands, _CHUNK_S)


def _next_live(before: Live | None, version: str, *, is_served: bool) -> Live:
    """Return the live record that follows another. is_served: whether a process serves the version of that one."""
    now = time.time()
    if before is None:
        return Live(version, OWN_NUMBER + 1, None, now)
    previous = before.version if is_served and before.version != version else before.previous
    return Live(version, before.number + 1, None if previous == version else previous, now)


def _parse_live(value: bytes | None) -> Live | None:
    if not value:
        return None
    try:
        fields = orjson.loads(value)
        previous = fields["previous"]
        live = Live(str(fields["version"]), int(fields["number"]), previous and str(previous), float(fields["since"]))
    except (TypeError, KeyError, ValueError) as exc:
        raise StoreError("decode") from exc
    if not is_version(live.version) or not is_version(live.previous or live.version):
        raise StoreError("decode")
    return live


def _parse_published(version: bytes, value: bytes) -> PublishedVersion | None:
    try:
        fields = orjson.loads(value)
        return PublishedVersion(
            version.decode(), int(fields["n_items"]), int(fields["dim"]), int(fields["bytes"]),
            float(fields["published_at"]),
        )  # fmt: skip
    except (TypeError, KeyError, ValueError):
        return None


def _parse_replica(name: bytes, value: bytes) -> Replica | None:
    try:
        return Replica(name.decode(), **orjson.loads(value))
    except (TypeError, ValueError):
        return None


def _read_chunks(path: Path, key: str) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and values of a file's chunks."""
    with path.open("rb") as file:
        for number, chunk in enumerate(iter(lambda: file.read(CHUNK_BYTES), b"")):
            yield f"{key}:{number}", zlib.crc32(chunk).to_bytes(4, "little") + chunk


def _table(manifest: Path) -> bytes:
    text = manifest.read_bytes()
    return orjson.dumps(
        {"chunk_bytes": CHUNK_BYTES, "manifest": text.decode(), "sha256": hashlib.sha256(text).hexdigest()}
    )


def _describe(manifest: Manifest) -> PublishedVersion:
    size = sum(entry["size"] for entry in manifest.files.values())
    return PublishedVersion(manifest.version, manifest.n_items, manifest.dim, size, time.time())
