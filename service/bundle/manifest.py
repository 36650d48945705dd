"""The bundle's manifest: what a bundle holds, and that its files are those. The lower half of service.bundle.

Names, file kinds, sizes and sums, before anything is parsed. Needs the standard library alone.
"""

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

FORMAT = 1
TIE_RULE = "blake2b4(user_id 0x00 item_id) then item_id then event"
MAX_MANIFEST_BYTES = 4 << 20
MANIFEST = "manifest.json"
ENCODER = "user_encoder.onnx"
EMBEDDINGS = "item_embeddings.npy"
INPUT_EMBEDDINGS = "input_embeddings.npy"
SCALES = "item_scales.npy"
BIASES = "item_biases.npy"
ITEMS = "items.jsonl"
GOLDEN = "golden.jsonl"
REQUIRED = frozenset({ENCODER, EMBEDDINGS, ITEMS, GOLDEN})
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class BundleError(Exception):
    """A bundle that must not be served. The message names the file."""


class BundleMissingError(BundleError):
    """There is no bundle at the path."""


class BundleFormatError(BundleError):
    """The manifest is not of a format that this version reads."""


class BundleCorruptError(BundleError):
    """A file differs from what the manifest promises."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json says; see DESIGN of each field in the README. Unknown extra fields are ignored."""

    version: str
    created_at: str
    dim: int
    max_history: int
    n_items: int
    files: Mapping[str, Mapping[str, Any]]
    repeat_consumption: bool
    tie_rule: str = TIE_RULE
    split: Mapping[str, Any] = field(default_factory=dict)
    refit: bool = False
    quality: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def bundle_version(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first 16 hex digits of the sha256 over the lines 'sha256 size name', sorted by name."""
    lines = [f"{files[name]['sha256']} {files[name]['size']} {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def read_manifest(path: Path) -> Manifest:
    """Read and check manifest.json alone: format, fields, file names. Raises BundleError."""
    manifest = path / MANIFEST
    if not manifest.exists():
        raise BundleMissingError(
            f"{path}: no {MANIFEST} here; give the directory that 'python -m training export' wrote"
        )
    if _regular_size(manifest) > MAX_MANIFEST_BYTES:
        raise BundleCorruptError(f"{manifest}: larger than {MAX_MANIFEST_BYTES} bytes")
    fields = parse_json(manifest, manifest.read_bytes())
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        found = fields.get("format") if isinstance(fields, dict) else None
        raise BundleFormatError(f"{manifest}: format {found!r}, this version of retort reads format {FORMAT}")
    return _checked_manifest(manifest, fields)


def check_files(path: Path, manifest: Manifest) -> None:
    """Check that the files of a bundle are those of its manifest, and no others. Raises BundleError naming one."""
    _check_listing(path, manifest)
    for name, expected in manifest.files.items():
        _check_file(path / name, expected)


def parse_json(where: object, text: bytes) -> Any:
    """Return parsed JSON without NaN and infinity. Raises BundleCorruptError that says where."""
    try:
        return _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as exc:
        raise BundleCorruptError(f"{where}: not JSON: {exc}") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # json.loads would build one for every line


def fingerprint(path: Path) -> dict[str, Any]:
    """Return the sha256 and the size of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def _regular_size(path: Path) -> int:
    """Size in bytes of a plain file with one name. Raises BundleCorruptError for links, devices and missing files."""
    try:
        status = path.lstat()
    except OSError as exc:
        raise BundleCorruptError(f"{path}: {exc.strerror}") from exc
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise BundleCorruptError(f"{path}: not a plain file (links are refused)")
    return status.st_size


def _check_file(path: Path, expected: Mapping[str, Any]) -> None:
    size = _regular_size(path)
    if size != expected["size"]:
        raise BundleCorruptError(f"{path}: {size} bytes, the manifest says {expected['size']}")
    if fingerprint(path)["sha256"] != expected["sha256"]:
        raise BundleCorruptError(f"{path}: its sha256 differs from the manifest's")


def _check_listing(path: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if not _SAFE_NAME.fullmatch(name) or name == MANIFEST:
            raise BundleCorruptError(f"{path / MANIFEST}: {name!r} is not an allowed file name")
    present = {entry.name for entry in path.iterdir()} - {MANIFEST}
    missing = (REQUIRED | set(manifest.files)) - present
    if missing:
        raise BundleCorruptError(f"{path / min(missing)}: missing")
    if unlisted := present - set(manifest.files):
        raise BundleCorruptError(f"{path / min(unlisted)}: not listed in the manifest")
    if bundle_version(manifest.files) != manifest.version:
        raise BundleCorruptError(f"{path / MANIFEST}: version {manifest.version!r} is not that of its file table")


def _checked_manifest(path: Path, fields: Mapping[str, Any]) -> Manifest:
    kinds: dict[str, type | tuple[type, ...]] = {
        "version": str, "created_at": str, "dim": int, "max_history": int, "n_items": int, "files": dict,
        "repeat_consumption": bool, "tie_rule": str, "split": dict, "refit": bool, "quality": dict, "lineage": dict,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(fields.get(name), kind) or (kind is int and isinstance(fields[name], bool)):
            raise BundleCorruptError(f"{path}: field {name!r} is missing or not of type {kind}")
    for name in ("dim", "max_history", "n_items"):
        if fields[name] < 1:
            raise BundleCorruptError(f"{path}: field {name!r} must be positive")
    for name, entry in fields["files"].items():
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or type(entry.get("size")) is not int
        ):
            raise BundleCorruptError(f"{path}: files[{name!r}] needs a sha256 and a size")
    if fields["tie_rule"] != TIE_RULE:
        raise BundleFormatError(f"{path}: tie_rule {fields['tie_rule']!r}, this version of retort serves {TIE_RULE!r}")
    return Manifest(**{name: fields[name] for name in kinds})
