"""The command edge: a folder of static files that recommends in a browser or in Node, from a bundle, without a server.

    OUT/bundle/            the bundle as it is, after it gave its golden answers here
    OUT/retort.js          one ES module, joined from the sources in service/edge/
    OUT/runtime/           onnxruntime-web (see web_runtime), whose sums are in OUT/edge.json
    OUT/index.html         a page to try it, with demo.js, demo.css and sw.js, which lets it open offline
    OUT/package.json       so that Node takes retort.js for a module

No tool beside npm is needed, and npm only to fetch the runtime once.
"""

import argparse
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from service.command.web_runtime import MODULE, RUNTIME_VERSION, WASM, find_runtime
from service.errors import StartError
from service.library import Retort

SOURCES = Path(__file__).parents[1] / "edge"
JOINED = (
    "error", "file", "text", "request", "array", "column", "filter", "rule", "graph", "score", "bundle", "search",
    "runtime", "model", "history", "retort",
)  # fmt: skip
"""The modules that become one, in an order in which each comes after those that it needs."""
_PAGE = ("index.html", "demo.css", "demo.js")
_LICENSE = "onnxruntime.LICENSE.txt"
_MARK = "edge.json"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=class|function|async|const)", re.MULTILINE)


def edge(arguments: argparse.Namespace) -> int:
    """Write the folder and say how to try it; return the exit code. Raises StartError."""
    out: Path = arguments.out
    _check_place(out)
    retort = Retort.load(arguments.bundle)
    runtime = find_runtime(arguments.runtime)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write(aside, arguments.bundle, runtime)
        _open_to_readers(aside)
        shutil.rmtree(out, ignore_errors=True)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    n_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: bundle {retort.version}, {len(retort.item_ids)} items, {n_bytes / 1e6:.1f} MB")
    print(f"try it: python -m http.server --directory {out} --bind 127.0.0.1 8080, then open http://127.0.0.1:8080")
    return 0


def join_modules(names: Iterable[str] = JOINED) -> str:
    """Return one ES module that is made of those in service/edge/: without their imports of each other.

    Only the last one's exports stay. A name that two of them give is an error of syntax when it is loaded.
    """
    texts = [(SOURCES / f"{name}.js").read_text(encoding="utf-8") for name in names]
    inner = [_EXPORT.sub("", text) for text in texts[:-1]]
    return "\n".join(_IMPORT.sub("", text).strip("\n") + "\n" for text in [*inner, texts[-1]])


def _check_place(out: Path) -> None:
    """Raise StartError where something stands that this command did not write."""
    if out.exists() and not (out / _MARK).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise StartError(f"{out}: it is there, and not from this command; name a new folder")


def _write(out: Path, bundle: Path, runtime: Path) -> None:
    shutil.copytree(bundle, out / "bundle")
    (out / "runtime").mkdir()
    for name in (MODULE, WASM):
        shutil.copyfile(runtime / name, out / "runtime" / name)
    shutil.copyfile(SOURCES / _LICENSE, out / "runtime" / "LICENSE.txt")
    for name in _PAGE:
        shutil.copyfile(SOURCES / name, out / name)
    (out / "retort.js").write_text(join_modules(), encoding="utf-8")
    _write_json(out / "package.json", {"type": "module", "exports": {".": "./retort.js"}})
    files = {name: _fingerprint(out / "runtime" / name) for name in (MODULE, WASM)}
    _write_json(out / _MARK, {"runtime": {"version": RUNTIME_VERSION, "files": files}})
    page = [*_PAGE, "retort.js", _MARK]
    version = hashlib.sha256(b"".join((out / name).read_bytes() for name in page)).hexdigest()[:16]
    worker = (SOURCES / "sw.js").read_text(encoding="utf-8").replace("@VERSION@", version)
    (out / "sw.js").write_text(worker, encoding="utf-8")


def _fingerprint(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _open_to_readers(out: Path) -> None:
    """Let a web server read what is written: this process keeps what it writes to itself, else."""
    for path in (out, *out.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
