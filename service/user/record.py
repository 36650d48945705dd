"""A user's cached embedding as the store keeps it, and when it may be believed.

version of the bundle (16) | mark of the history (8) | number of rows uint16 | rows int32 | user float32 [dim] | crc32
uint32, all little-endian; or "x" and a token, which the history's writer puts in its place.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32

Int32 = NDArray[np.int32]
VERSION_BYTES = 16
MARK_BYTES = 8
HEAD_BYTES = VERSION_BYTES + MARK_BYTES
TOKEN = b"x"


@dataclass(frozen=True, slots=True)
class Record:
    """What is cached of a user: rows seen, oldest first, int32 [rows], and the vector, float32 [dim]."""

    rows: Int32
    user: Float32


@dataclass(frozen=True, slots=True)
class Sight:
    """A first look at a user. result: hit | miss | stale | invalid, or none where there is no history.

    head: what a new record may replace. mark: that of the history now. item_ids: the history, where it was asked for
    too and there is no fresh record.
    """

    result: str
    record: Record | None = None
    head: bytes = b""
    mark: bytes = b""
    item_ids: Sequence[str] | None = None


def make_mark(count: int, newest: bytes, score: bytes) -> bytes:
    """Return 8 bytes that name the state of a history: how many members, the newest, and its score."""
    return hashlib.blake2b(b"%d %b %b" % (count, score, newest), digest_size=MARK_BYTES).digest()


def pack_record(version: str, mark: bytes, record: Record) -> bytes:
    """Return the stored form of a record."""
    rows, user = record.rows.astype("<i4", copy=False).tobytes(), record.user.astype("<f4", copy=False).tobytes()
    body = b"".join((version.encode(), mark, len(record.rows).to_bytes(2, "little"), rows, user))
    return body + zlib.crc32(body).to_bytes(4, "little")


def unpack_record(value: bytes, version: bytes, mark: bytes, dim: int) -> tuple[str, Record | None]:
    """Return (hit | miss | stale | invalid, the record on a hit)."""
    if not value:
        return "miss", None
    if value[:1] == TOKEN or value[:VERSION_BYTES] != version:
        return ("stale" if value[:1] == TOKEN or len(value) > HEAD_BYTES else "invalid"), None
    n_rows = int.from_bytes(value[HEAD_BYTES : HEAD_BYTES + 2], "little")
    end = HEAD_BYTES + 2 + 4 * n_rows + 4 * dim
    if len(value) != end + 4 or zlib.crc32(value[:end]) != int.from_bytes(value[end:], "little"):
        return "invalid", None
    if value[VERSION_BYTES:HEAD_BYTES] != mark:
        return "stale", None
    rows = np.frombuffer(value, "<i4", n_rows, HEAD_BYTES + 2)
    return "hit", Record(rows, np.frombuffer(value, "<f4", dim, HEAD_BYTES + 2 + 4 * n_rows))
