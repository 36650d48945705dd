"""The bundles fetched onto this machine: each is fetched once, tried once, and kept until it is two versions old.

{data_dir}/releases/lock                one process at a time fetches and tries; the others wait and find it done
{data_dir}/releases/{version}/          the bundle, written aside and renamed
{data_dir}/releases/{version}.json      the verdict of its trial, and the number of the release that it was for
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from service.bundle import MANIFEST, BundleError, Manifest, read_manifest
from service.errors import RefusedError
from service.release.published import Live, PublishedVersions, is_version

_LOCK_EVERY_S = 0.05


class FetchedBundles:
    """One directory of fetched bundles, shared by the processes of one machine."""

    def __init__(
        self, directory: Path, published: PublishedVersions, try_bundle: Callable[[Path], Awaitable[None]]
    ) -> None:
        """try_bundle: raises RefusedError for a bundle that must not be served."""
        self._dir, self._published, self._try = directory, published, try_bundle

    async def bring(self, live: Live) -> Path:
        """Return the directory of a version, once it is fetched and tried. Raises RefusedError, StoreError."""
        try:
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            async with self._locked():
                return await self._bring(live)
        except OSError as exc:
            raise RefusedError("error", f"{exc.filename or self._dir}: {exc.strerror}; see RETORT_DATA_DIR") from exc

    def remember(self, live: Live) -> None:
        """Note which version is served now, and remove all bundles but its own and that of the version before."""
        with contextlib.suppress(OSError):  # a full disk keeps nobody from serving
            self._write("live.json", asdict(live))
            with self._open_lock() as lock:
                if _try_lock(lock):  # else somebody fetches, perhaps already the next one
                    self._prune({live.version, live.previous})

    def last_live(self) -> Live | None:
        """Return the live record that was last served on this machine, if its bundle is here and passed its trial."""
        try:
            live = Live(**self._read("live.json"))
        except (TypeError, ValueError):
            return None
        is_whole = is_version(str(live.version)) and self._read(f"{live.version}.json").get("result") == "ok"
        return live if is_whole and (self._dir / live.version).is_dir() else None

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
        verdict = self._read(f"{live.version}.json")
        if verdict.get("result") == "ok" and path.is_dir():
            return path
        if verdict.get("number") == live.number and verdict.get("result", "error") != "error":
            raise RefusedError(verdict["result"], verdict["message"])
        try:
            await self._fetch(live.version, path)
            await self._try(path)
        except RefusedError as exc:
            await asyncio.to_thread(self._remove, live.version)
            self._write(f"{live.version}.json", {"result": exc.result, "message": str(exc), "number": live.number})
            raise
        self._write(f"{live.version}.json", {"result": "ok", "message": "", "number": live.number})
        return path

    async def _fetch(self, version: str, path: Path) -> None:
        """Write a version's files aside, check each against its sum, and rename the directory."""
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=self._dir))
        try:
            text, chunk_bytes = await self._published.manifest(version)
            (aside / MANIFEST).write_bytes(text)
            manifest = _read_manifest(aside, version)
            for name, entry in manifest.files.items():
                await self._fetch_file(aside / name, version, entry, chunk_bytes)
            aside.rename(path)
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)

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
        lock = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        aside = self._dir / f".{name}.{os.getpid()}"
        aside.write_bytes(orjson.dumps(fields))
        aside.rename(self._dir / name)


def _read_manifest(path: Path, version: str) -> Manifest:
    """Read a fetched manifest, whose file names become paths next. Raises RefusedError."""
    try:
        manifest = read_manifest(path)
    except BundleError as exc:
        raise RefusedError("rejected_schema", str(exc)) from exc
    strange = [
        name for name in manifest.files if name.startswith(".") or "/" in name or "\0" in name or name == MANIFEST
    ]
    if strange or manifest.version != version:
        raise RefusedError("rejected_schema", f"version {version}: its manifest names {strange or manifest.version!r}")
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
