"""The bundle's manifest: it lists the files of the bundle and says what the model is.

The file table is checked before any other file is parsed: names, kinds, sizes and sha256 sums.
"""

import hashlib
import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.bundle.error import BundleCorruptError, BundleFormatError, BundleMissingError
from service.bundle.history_type import HistoryTypes
from service.bundle.item import MAX_NAMES, check_item_id
from service.bundle.item_encoding import ITEM_ENCODER, ITEM_GOLDEN, parse_item_encoder
from service.bundle.score import parse_score
from service.bundle.similar import parse_similar
from service.bundle.strict_json import parse_json

FORMAT, SUM_FORMAT = 1, 2
"""The formats. 2 has one of the ADDITIONS at least."""
ADDITIONS = ("score", "history_types", "item_encoder", "similar", "numbers", "booleans")
"""What format 2 adds: a score that is a sum, which events enter histories, an encoder of new items, how items that go
with others are scored, and numbers and booleans of items."""
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
NEIGHBOURS = "neighbours.npy"
NEIGHBOUR_WEIGHTS = "neighbour_weights.npy"
NEIGHBOUR_SCALES = "neighbour_scales.npy"
TREND_COUNTS = "trend_counts.npy"
REQUIRED = frozenset({ENCODER, EMBEDDINGS, ITEMS, GOLDEN})
ALLOWED = REQUIRED | {
    INPUT_EMBEDDINGS, SCALES, BIASES, NEIGHBOURS, NEIGHBOUR_WEIGHTS, NEIGHBOUR_SCALES, TREND_COUNTS,
    ITEM_ENCODER, ITEM_GOLDEN,
}  # fmt: skip
"""The names that a file of a bundle may have. Some become paths and keys before anything else of it is known."""
_MOST = (1 << 31) - 1
_MOST_BYTES = 1 << 44
_TOO_LARGE = 1 << 63
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The fields of manifest.json. Fields that are not listed here are ignored.

    version: of the bundle, see bundle_version(). created_at: when it was exported, ISO 8601. dim: width of every
    vector. max_history: the encoder sees at most so many events of a history, the newest. files: name to {"sha256",
    "size"} of every other file. repeat_consumption: whether users take items again, so that items of the history are
    recommended unless a request says otherwise. tie_rule: the order of events of one user and one time, always
    TIE_RULE. split: how training divided the events. refit: whether the model was trained once more, on all events.
    quality: the figures measured on the test events. lineage: the data, settings and versions it was made from.
    score: how the score adds up, see parse_score(); empty where it is user · item, always in format 1. history_types:
    which types of events enter histories, see history_type; empty where nothing is said of them, always in format 1.
    item_encoder: how the bundle's encoder of new items is used, see item_encoding; empty where it has none, always in
    format 1. numbers, booleans: the names of the numbers and the booleans that the items have, ascending; none in
    format 1. similar: how items that go with others are scored, see parse_similar(); empty where the usual rule holds.
    """

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
    score: Mapping[str, Any] = field(default_factory=dict)
    history_types: Mapping[str, Any] = field(default_factory=dict)
    item_encoder: Mapping[str, Any] = field(default_factory=dict)
    numbers: Sequence[str] = ()
    booleans: Sequence[str] = ()
    similar: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def bundle_version(files: Mapping[str, Mapping[str, Any]], *additions: Mapping[str, Any] | None) -> str:
    """Return the first 16 hex digits of the sha256 over the lines 'sha256 size name', sorted by name.

    additions: score, history_types, item_encoder and similar of a bundle of format 2; each that is not empty is one
    line more, at the end, as JSON without spaces, its keys sorted.
    """
    lines = [f"{files[name]['sha256']} {files[name]['size']} {name}\n" for name in sorted(files)]
    said = filter(None, additions)
    lines += [json.dumps(each, sort_keys=True, separators=(",", ":")) + "\n" for each in said]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def read_manifest(path: Path) -> Manifest:
    """Read manifest.json in the bundle at path, and check its format and its fields. Raises BundleError."""
    manifest = path / MANIFEST
    if not manifest.exists():
        raise BundleMissingError(
            f"{path}: no {MANIFEST} here; give the directory that 'python -m training export' wrote"
        )
    if _regular_size(manifest) > MAX_MANIFEST_BYTES:
        raise BundleCorruptError(f"{manifest}: larger than {MAX_MANIFEST_BYTES} bytes")
    return parse_manifest(manifest.read_bytes(), manifest)


def parse_manifest(text: bytes, where: object) -> Manifest:
    """Read the text of a manifest.json and check its format and its fields. Raises BundleError.

    where: the file, or whatever else names it in messages.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleCorruptError(f"{where}: larger than {MAX_MANIFEST_BYTES} bytes")
    fields = parse_json(where, text)
    found = fields.get("format") if isinstance(fields, dict) else None
    if type(found) is not int or found not in (FORMAT, SUM_FORMAT):
        raise BundleFormatError(
            f"{where}: format {str(found)[:20]!r}, this version of retort reads formats {FORMAT} and {SUM_FORMAT}"
        )
    return _checked_manifest(where, fields)


def check_files(path: Path, manifest: Manifest) -> None:
    """Check that the bundle at path has the files that its manifest lists, unchanged, and no others.

    Raises BundleCorruptError naming the first file that is wrong.
    """
    _check_listing(path, manifest)
    for name, expected in manifest.files.items():
        _check_file(path / name, expected)


def fingerprint(path: Path) -> dict[str, Any]:
    """Return {"sha256": hex digits, "size": bytes} of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def _regular_size(path: Path) -> int:
    """Return the size of a plain file in bytes. Raises BundleCorruptError if it is missing, a link or a device."""
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
    present = {entry.name for entry in path.iterdir()} - {MANIFEST}
    missing = (REQUIRED | set(manifest.files)) - present
    if missing:
        raise BundleCorruptError(f"{path / min(missing)}: missing")
    if unlisted := present - set(manifest.files):
        raise BundleCorruptError(f"{path / min(unlisted)}: not listed in the manifest")
    said = manifest.score, manifest.history_types, manifest.item_encoder, manifest.similar
    if bundle_version(manifest.files, *said) != manifest.version:
        raise BundleCorruptError(f"{path / MANIFEST}: version {manifest.version!r} is not that of its file table")


def _checked_manifest(where: object, fields: Mapping[str, Any]) -> Manifest:
    kinds: dict[str, type | tuple[type, ...]] = {
        "version": str, "created_at": str, "dim": int, "max_history": int, "n_items": int, "files": dict,
        "repeat_consumption": bool, "tie_rule": str, "split": dict, "refit": bool, "quality": dict, "lineage": dict,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(fields.get(name), kind) or (kind is int and isinstance(fields[name], bool)):
            raise BundleCorruptError(f"{where}: field {name!r} is missing or not of type {kind}")
    for name in ("dim", "max_history", "n_items"):
        if not 1 <= fields[name] <= _MOST:
            raise BundleCorruptError(f"{where}: field {name!r} must be positive, and at most {_MOST}")
    for name, entry in fields["files"].items():
        _check_entry(where, name, entry)
    if fields["tie_rule"] != TIE_RULE:
        raise BundleFormatError(f"{where}: tie_rule {fields['tie_rule']!r}, this version of retort serves {TIE_RULE!r}")
    known = {name: fields[name] for name in kinds}
    try:
        json.dumps(known, ensure_ascii=False).encode()  # a lone surrogate could not be shown
        _check_numbers(known)
    except (ValueError, RecursionError) as exc:
        raise BundleCorruptError(f"{where}: holds what cannot be shown: {type(exc).__name__}") from exc
    return replace(Manifest(**known, format=fields["format"]), **_checked_additions(where, fields))


def _checked_names(where: object, fields: Mapping[str, Any], kind: str) -> Sequence[str]:
    """Check the list of names of a kind of value. Raises BundleCorruptError."""
    names = fields.get(kind, [])
    try:
        is_good = (
            isinstance(names, list) and len(names) <= MAX_NAMES and names == sorted(set(map(check_item_id, names)))
        )
    except (TypeError, ValueError):
        is_good = False
    if not is_good:
        raise BundleCorruptError(f"{where}: {kind}: at most {MAX_NAMES} names, ascending, of 1 to 128 characters each")
    return tuple(names)


def _checked_additions(where: object, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that format 2 adds, of which a bundle has one at least."""
    if fields["format"] == FORMAT:
        return {}
    try:
        if "history_types" in fields:
            HistoryTypes(fields["history_types"] or "nothing")
        if "item_encoder" in fields:
            parse_item_encoder(fields["item_encoder"])
        if "score" in fields or not any(fields.get(name) for name in ADDITIONS):
            parse_score(fields.get("score"))
        if "similar" in fields:
            parse_similar(fields["similar"])
    except ValueError as exc:
        raise BundleCorruptError(f"{where}: {exc}") from exc
    names = {kind: _checked_names(where, fields, kind) for kind in ("numbers", "booleans")}
    said = ("score", "history_types", "item_encoder", "similar")
    return names | {name: fields[name] for name in said if name in fields}


def _check_numbers(value: Any) -> None:
    """Raise ValueError for a number that is larger than JSON is commonly read with."""
    if isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise ValueError(value)
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_numbers(each)


def _check_entry(where: object, name: str, entry: Any) -> None:
    if name not in ALLOWED:
        raise BundleCorruptError(f"{where}: {name[:100]!r} is not an allowed file name")
    sha256, size = (entry.get("sha256"), entry.get("size")) if isinstance(entry, dict) else (None, None)
    is_sum = isinstance(sha256, str) and _SHA256.fullmatch(sha256)
    if not is_sum or type(size) is not int or not 0 <= size <= _MOST_BYTES:
        raise BundleCorruptError(f"{where}: files[{name!r}] needs a sha256 and a size")
