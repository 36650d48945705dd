"""The bundles fetched onto this machine: each is fetched once, tried once, and kept until it is two versions old.

{data_dir}/releases/lock                one process at a time fetches and tries; the others wait and find it done
{data_dir}/releases/{version}/          the bundle, written aside and renamed
{data_dir}/releases/{version}.json      the verdict of its trial, the number of the release that it was for, and the
                                        signature of whoever published it
{data_dir}/releases/live.json           the live record last served, for a start while the store is away
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import orjson

from service.bundle import MANIFEST, BundleError, Manifest, parse_manifest
from service.errors import RefusedError, StoreError
from service.logs import printable
from service.private_directory import make_private, open_private
from service.release.published import PublishedVersions
from service.release.record import Live, dump, is_version, parse_live
from service.release.signature import Trust

_LOCK_EVERY_S = 0.05
_FOR_GOOD = ("rejected_checksum", "rejected_schema", "rejected_canary")
"""What no other setting undoes: a version refused so is not tried again for the same release."""


class FetchedBundles:
    """One directory of fetched bundles, shared by the processes of one machine."""

    def __init__(
        self,
        directory: Path,
        published: PublishedVersions,
        try_bundle: Callable[[Path], Awaitable[None]],
        trust: Trust,
    ) -> None:
        """try_bundle: raises RefusedError for a bundle that must not be served. trust: whose signatures count."""
        self._dir, self._published, self._try, self._trust = directory, published, try_bundle, trust
        self.beside: str | None = None  # the version that is tried beside the live one

    async def bring(self, live: Live) -> Path:
        """Return the directory of a version, once it is fetched and tried. Raises RefusedError, StoreError."""
        try:
            make_private(self._dir)
            async with self._locked():
                return await self._bring(live)
        except OSError as exc:
            raise RefusedError("error", f"{exc.filename or self._dir}: {exc.strerror}; see RETORT_DATA_DIR") from exc

    def remember(self, live: Live) -> None:
        """Note which version is served now, and remove all bundles but its own, the one before and the one beside."""
        with contextlib.suppress(OSError):  # a full disk keeps nobody from serving
            self._write("live.json", dump(live))
            with self._open_lock() as lock:
                if _try_lock(lock):  # else somebody fetches, perhaps already the next one
                    self._prune({live.version, live.previous, self.beside})

    def last_live(self) -> Live | None:
        """Return the live record that was last served on this machine, if its bundle is here and passed its trial."""
        try:
            live = parse_live((self._dir / "live.json").read_bytes())
        except (OSError, StoreError):
            return None
        return live if live is not None and self.is_kept(live.version) else None

    def discard(self, version: str) -> None:
        """Remove a bundle that has passed its trial and does not load: the disk has damaged it."""
        with contextlib.suppress(OSError):
            self._remove(version)

    def _prune(self, needed: set[str | None]) -> None:
        for path in self._dir.iterdir():
            name = path.name.removesuffix(".json")
            if is_version(name) and name not in needed:
                self._remove(name)

    async def _bring(self, live: Live) -> Path:
        path = self._dir / live.version
        if self.is_kept(live.version):
            return path
        verdict = self._read(f"{live.version}.json")
        if verdict.get("number") == live.number and verdict.get("result") in _FOR_GOOD:
            raise RefusedError(str(verdict["result"]), str(verdict.get("message")))
        note = {"result": "ok", "message": "", "number": live.number}
        try:
            signature = await self._fetch(live.version, path)
            await self._try(path)
        except RefusedError as exc:
            await asyncio.to_thread(self._remove, live.version)
            note |= {"result": exc.result, "message": printable(str(exc))}
            self._write(f"{live.version}.json", orjson.dumps(note))
            raise
        self._write(f"{live.version}.json", orjson.dumps(note | {"signature": signature}))
        return path

    def is_kept(self, version: str) -> bool:
        """Whether a version is here, has passed its trial, and bears a signature that still counts, if one must."""
        verdict, path = self._read(f"{version}.json"), self._dir / version
        if verdict.get("result") != "ok" or path.is_symlink() or not path.is_dir():
            return False
        signature = verdict.get("signature")
        try:
            manifest = (path / MANIFEST).read_bytes()
            self._trust.check(version, manifest, signature if isinstance(signature, str) else None)
        except (OSError, RefusedError):
            return False
        return True

    async def _fetch(self, version: str, path: Path) -> str | None:
        """Write a version's files aside, check each against its sum, and rename the directory; return its signature."""
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        table = await self._published.table(version)
        self._trust.check(version, table.manifest, table.signature)
        manifest = _parse_manifest(table.manifest, version)
        self._check_room(version, manifest)
        aside = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=self._dir))
        try:
            (aside / MANIFEST).write_bytes(table.manifest)
            for name, entry in manifest.files.items():
                await self._fetch_file(aside / name, version, entry, table.chunk_bytes)
            aside.rename(path)
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
        return table.signature

    def _check_room(self, version: str, manifest: Manifest) -> None:
        size, free = sum(entry["size"] for entry in manifest.files.values()), shutil.disk_usage(self._dir).free
        if size > free:
            text = f"version {version}: {size / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free in {self._dir}"
            raise RefusedError("error", f"{text}; see RETORT_DATA_DIR")

    async def _fetch_file(self, path: Path, version: str, entry: Any, chunk_bytes: int) -> None:
        total = hashlib.sha256()
        with path.open("wb") as file:
            async for chunk in self._published.chunks(version, path.name, entry["size"], chunk_bytes):
                await asyncio.to_thread(_take, file.write, total.update, chunk)
        if total.hexdigest() != entry["sha256"]:
            raise RefusedError(
                "rejected_checksum", f"version {version}: {path.name}: its sha256 differs from the manifest's"
            )

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        with self._open_lock() as lock:
            while not _try_lock(lock):
                await asyncio.sleep(_LOCK_EVERY_S)
            yield

    @contextmanager
    def _open_lock(self) -> Iterator[int]:
        lock = open_private(self._dir / "lock", os.O_RDWR | os.O_CREAT)
        try:
            yield lock
        finally:
            os.close(lock)

    def _remove(self, version: str) -> None:
        (self._dir / f"{version}.json").unlink(missing_ok=True)
        shutil.rmtree(self._dir / version, ignore_errors=True)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            fields = orjson.loads((self._dir / name).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        return fields if isinstance(fields, dict) else {}

    def _write(self, name: str, value: bytes) -> None:
        aside = self._dir / f".{name}.{os.getpid()}"
        aside.write_bytes(value)
        aside.rename(self._dir / name)


def _parse_manifest(text: bytes, version: str) -> Manifest:
    """Read a fetched manifest, whose file names become paths next. Raises RefusedError."""
    try:
        manifest = parse_manifest(text, f"version {version}: its manifest")
    except BundleError as exc:
        raise RefusedError("rejected_schema", str(exc)) from exc
    if manifest.version != version:
        raise RefusedError("rejected_schema", f"version {version}: its manifest names {manifest.version[:100]!r}")
    return manifest


def _take(write: Callable[[bytes], Any], update: Callable[[bytes], Any], chunk: bytes) -> None:
    write(chunk)
    update(chunk)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
