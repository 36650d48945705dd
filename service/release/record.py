"""The records of releases as they stand in the store, read strictly: whoever can write to the store can write anything.

A record that is not exactly what this service writes is none. No text of one becomes a part of a key or a path before
it was compared with what may stand there.
"""

import hashlib
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from service.errors import RefusedError, StoreError

OWN_NUMBER = 1
"""The number of a bundle that is served without a release: --bundle."""
MAX_NUMBER = (1 << 53) - 1
MAX_CHUNK_BYTES = 4 << 20
_VERSION_LENGTH = 16
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,300}")
_MAX_MESSAGE = 2000
_BESIDE: dict[str, Any] = {"other": "", "experiment": "", "other_result": "ok", "other_message": ""}
"""What a process of an earlier release does not say of itself."""
_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Live:
    """The version to be served. number: of its release. previous: see published. since: Unix seconds of its release."""

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
    other: the version that it has loaded beside the live one, or nothing; experiment, other_result, other_message: the
    id of the experiment that it was told of, and what came of its last attempt to load that one's other version.
    """

    name: str
    version: str
    number: int
    result: str
    message: str
    at: float
    other: str = ""
    experiment: str = ""
    other_result: str = "ok"
    other_message: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the live model agreed with its teacher when a refresh last looked, each from 0 to 1 (overlap@10).

    live: on the newest events. offline: on those that its own run held out. least: below that it has drifted.
    """

    live: float
    offline: float
    least: float


@dataclass(frozen=True, slots=True)
class Table:
    """A published version's manifest, the text of manifest.json, and how it was cut into chunks.

    signature: of whoever published it, as text; None if nobody signed (see signature).
    """

    manifest: bytes
    chunk_bytes: int
    signature: str | None


def is_version(text: str) -> bool:
    """Return whether a text can be a version, so that it may stand in a key or a path."""
    return len(text) == _VERSION_LENGTH and all(letter in "0123456789abcdef" for letter in text)


def check_version(text: str) -> None:
    """Raise RefusedError where a text cannot be a version, so that the store is not asked for it."""
    if not is_version(text):
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise RefusedError(
            "error", f"{shown!r} is no version: {_VERSION_LENGTH} digits or letters from a to f; 'status' lists them"
        )


def parse_live(value: bytes) -> Live | None:
    """Read the live record; None where there is none. Raises StoreError."""
    if not value:
        return None
    fields = _object(value)
    version, number = fields.get("version"), fields.get("number")
    previous, since = fields.get("previous"), fields.get("since")
    is_right = (
        isinstance(version, str)
        and is_version(version)
        and _is_count(number)
        and (previous is None or (isinstance(previous, str) and is_version(previous)))
        and _is_moment(since)
    )
    if not is_right:
        raise StoreError("decode")
    return Live(str(version), fields["number"], previous, float(fields["since"]))


def follow_live(before: Live | None, version: str, now: float, *, is_served: bool, least: int = OWN_NUMBER) -> Live:
    """Return the live record that makes a version live after another one.

    is_served: whether a process serves the version before. least: the number of a release that was seen elsewhere.
    """
    number = max(before.number if before else OWN_NUMBER, least) + 1
    number = number if number <= MAX_NUMBER else OWN_NUMBER + 1
    if before is None:
        return Live(version, number, None, now)
    previous = before.version if is_served and before.version != version else before.previous
    return Live(version, number, None if previous == version else previous, now)


def parse_published(version: bytes, value: bytes) -> PublishedVersion | None:
    """Read what is listed of a version; None if that is nothing of ours."""
    try:
        name, fields = version.decode(), _object(value)
    except (UnicodeDecodeError, StoreError):
        return None
    counts = [fields.get(each) for each in ("n_items", "dim", "bytes")]
    if not is_version(name) or not all(map(_is_count, counts)) or not _is_moment(fields.get("published_at")):
        return None
    return PublishedVersion(name, fields["n_items"], fields["dim"], fields["bytes"], float(fields["published_at"]))


def parse_replica(name: bytes, value: bytes) -> Replica | None:
    """Read what a process has reported; None if that is nothing of ours."""
    try:
        called, fields = name.decode(), _object(value)
    except (UnicodeDecodeError, StoreError):
        return None
    beside = {name: fields.get(name, missing) for name, missing in _BESIDE.items()}
    texts = [*(fields.get(each) for each in ("version", "result", "message")), *beside.values()]
    are_texts = all(isinstance(text, str) and len(text) <= _MAX_MESSAGE for text in texts)
    if not (_NAME.fullmatch(called) and are_texts and _is_count(fields.get("number")) and _is_moment(fields.get("at"))):
        return None
    version, result, message = map(str, texts[:3])
    return Replica(called, version, fields["number"], result, message, float(fields["at"]), **beside)


def parse_agreement(value: bytes) -> Agreement | None:
    """Read what a refresh said of the live model and its teacher; None where it said nothing, or that is not ours."""
    try:
        fields = _object(value)
    except StoreError:
        return None
    shares: list[Any] = [fields.get(name) for name in ("live", "offline", "least")]
    is_right = all(type(share) in (int, float) and 0 <= share <= 1 for share in shares)
    return Agreement(*map(float, shares)) if is_right else None


def dump_table(manifest: bytes, chunk_bytes: int, signature: str | None) -> bytes:
    """Return the record of a table."""
    fields = {"chunk_bytes": chunk_bytes, "manifest": manifest.decode(), "sha256": hashlib.sha256(manifest).hexdigest()}
    return orjson.dumps(fields if signature is None else fields | {"signature": signature})


def parse_table(value: bytes) -> Table | None:
    """Read the record of a table; None if it is missing, damaged or nothing of ours."""
    try:
        fields = _object(value)
        manifest = fields["manifest"].encode()
    except (StoreError, KeyError, AttributeError, UnicodeEncodeError):
        return None
    chunk_bytes, signature = fields.get("chunk_bytes"), fields.get("signature")
    is_whole = hashlib.sha256(manifest).hexdigest() == fields.get("sha256")
    if not is_whole or not _is_count(chunk_bytes) or not 0 < fields["chunk_bytes"] <= MAX_CHUNK_BYTES:
        return None
    return Table(manifest, fields["chunk_bytes"], signature if isinstance(signature, str) else None)


def dump(record: Live | PublishedVersion | Replica | Agreement) -> bytes:
    """Return a record as it is written, without what its place in a hash says already."""
    fields = asdict(record)
    if isinstance(record, PublishedVersion):
        del fields["version"]
    if isinstance(record, Replica):
        del fields["name"]
    return orjson.dumps(fields)


def _object(value: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object. Raises StoreError."""
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise StoreError("decode") from exc
    if not isinstance(fields, dict):
        raise StoreError("decode")
    return fields


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER


def _is_moment(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1e12
