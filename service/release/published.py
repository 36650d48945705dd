"""Published bundles in the store, and the one live version. Whoever reads them verifies them first: see fetched.

    {namespace}:release:live                    JSON {version, number, previous, since}: which version is to be served.
                                                One write flips it; number rises with every flip, to whatever version
    {namespace}:release:versions                hash: version -> JSON {n_items, dim, bytes, published_at}
    {namespace}:release:{version}:table         JSON {chunk_bytes, manifest, sha256}: the manifest, whole, and its sum
    {namespace}:release:{version}:{file}:{n}    chunk n of a file: crc32 uint32, little-endian, and the bytes
    {namespace}:release:replicas                hash: a process -> JSON {version, number, result, message, at}

Chunks are small, so that a store that answers requests too is never busy with one for long. Everything of a version is
written before it is listed, and it is listed before it can be live: a publish cut short changes nothing, and what it
left expires. The version before the live one is the last that was served: a way back to what was refused is none.
"""

import hashlib
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from service.bundle import MANIFEST, Manifest, read_manifest
from service.errors import RefusedError, StoreError
from service.store.client import Store
from service.store.connection import Command

CHUNK_BYTES = 256 << 10
OWN_NUMBER = 1  # of what is served without a flip: --bundle
KEPT_VERSIONS = 3
REPLICA_S = 30.0
_AT_ONCE = 4
_KEYS_AT_ONCE = 256
_QUICK_S = 1.0
_CHUNK_S = 10.0
_UPLOAD_S = 86_400  # that chunks live which belong to no listed version
# KEYS: live; the table of the version, but in a Cluster. ARGV: the live record as it was read, the new one.
_FLIP = """
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
_VERSION_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Live:
    """Which version is to be served. number: of the flip; previous: the version before; since: Unix seconds."""

    version: str
    number: int
    previous: str | None
    since: float


@dataclass(frozen=True, slots=True)
class Published:
    """A version in the store. published_at: Unix seconds."""

    version: str
    n_items: int
    dim: int
    bytes: int
    published_at: float


@dataclass(frozen=True, slots=True)
class Replica:
    """What a process last said of itself. result: of its last swap; at: Unix seconds."""

    name: str
    version: str
    number: int
    result: str
    message: str
    at: float


def is_version(text: str) -> bool:
    """Whether a text can be a version, and so a part of a key or a path."""
    return len(text) == _VERSION_LENGTH and all(letter in "0123456789abcdef" for letter in text)


class Releases:
    """The published bundles of one store. Every method raises StoreError where the store does not do as asked."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._prefix = f"{namespace}:release:"

    async def live(self) -> Live | None:
        """Return the live version, or None if nothing was ever published."""
        return _parse_live(await self._one(("GET", self._prefix + "live")))

    async def activate(self, version: str) -> Live:
        """Make a published version live, in one write. Raises RefusedError if it is not in the store."""
        table = self._key(version, "table")
        while True:
            known = await self._one(("GET", self._prefix + "live")) or b""
            before = _parse_live(known)
            live = _next_live(before, version, is_served=before is not None and await self._is_served(before.version))
            keys = [self._prefix + "live"] if self._store.is_cluster else [self._prefix + "live", table]
            arguments = (len(keys), *keys, known, orjson.dumps(asdict(live)))
            is_there = await self._one(("EXISTS", table))
            (result,) = await self._store.call_script("release", _FLIP, [arguments], _QUICK_S) if is_there else (-1,)
            self._check(result)
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

    async def versions(self) -> list[Published]:
        """List what is in the store, the newest first."""
        found = _pairs(await self._one(("HGETALL", self._prefix + "versions")))
        listed = [fields for version, value in found.items() if (fields := _parse_published(version, value))]
        return sorted(listed, key=lambda published: -published.published_at)

    async def upload(self, path: Path) -> Published:
        """Write a verified bundle into the store, and list it; it is not live yet."""
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
        """Delete all but the newest versions, the live one and the one before; return what was deleted."""
        live, versions = await self.live(), [published.version for published in await self.versions()]
        needed = {live.version, live.previous} if live else set()
        old = [version for version in versions[KEPT_VERSIONS:] if version not in needed]
        for version in old:
            await self._delete(version)
        return old

    async def report(self, replica: Replica) -> None:
        """Say what this process serves."""
        fields = orjson.dumps({name: value for name, value in asdict(replica).items() if name != "name"})
        await self._all([("HSET", self._prefix + "replicas", replica.name, fields)])

    async def replicas(self) -> list[Replica]:
        """List the processes heard of lately; those that are not are taken off the list."""
        listed: list[Replica] = []
        gone: list[bytes] = []
        for name, value in _pairs(await self._one(("HGETALL", self._prefix + "replicas"))).items():
            replica = _parse_replica(name, value)
            if replica is None or time.time() - replica.at > REPLICA_S:
                gone.append(name)
            else:
                listed.append(replica)
        if gone:
            await self._all([("HDEL", self._prefix + "replicas", *gone)])
        return sorted(listed, key=lambda replica: replica.name)

    async def forget(self, name: str) -> None:
        """Take a process that ends off the list."""
        await self._all([("HDEL", self._prefix + "replicas", name)])

    async def _is_served(self, version: str) -> bool:
        """Whether a process serves a version, as far as processes are heard of."""
        replicas = await self.replicas()
        return not replicas or any(replica.version == version for replica in replicas)

    async def _delete(self, version: str) -> None:
        """Delete a version: off the list first, so that it cannot become live any more."""
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

    async def _one(self, command: Command, timeout_s: float = _QUICK_S) -> Any:
        (reply,) = await self._store.call("release", [command], timeout_s)
        return self._check(reply)

    async def _all(self, commands: list[Command]) -> None:
        if commands:
            for reply in await self._store.call("release", commands, _CHUNK_S):
                self._check(reply)

    def _check(self, reply: Any) -> Any:
        if kind := self._store.explain(reply):
            raise StoreError(kind)
        return reply


def _next_live(before: Live | None, version: str, *, is_served: bool) -> Live:
    """is_served: whether before was more than a wish."""
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


def _parse_published(version: bytes, value: bytes) -> Published | None:
    try:
        fields = orjson.loads(value)
        return Published(
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


def _pairs(reply: Any) -> Mapping[bytes, bytes]:
    """The reply to HGETALL, which redis-py leaves flat or not by its version."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


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


def _describe(manifest: Manifest) -> Published:
    size = sum(entry["size"] for entry in manifest.files.values())
    return Published(manifest.version, manifest.n_items, manifest.dim, size, time.time())
