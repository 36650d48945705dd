"""The form in which the store keeps a user's cached embedding, and the tests that it must pass to be believed.

    version of the bundle (16 bytes) | mark of the history (8) | number of rows uint16 | rows int32 [rows]
    | user float32 [dim] | crc32 uint32                             all little-endian

In its place there may be a token: the letter x and the id of a stream entry, written together with a new event.
"""

import hashlib
import math
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
_COUNT_BYTES, _CRC_BYTES = 2, 4
_TOKEN = b"x"


@dataclass(slots=True)
class Record:
    """What is cached of a user. rows: of the items seen, the oldest first, int32 [rows]. user: float32 [dim].

    Neither this nor `Sight` is frozen, which would cost each request a microsecond; nothing writes to them.
    """

    rows: Int32
    user: Float32


@dataclass(slots=True)
class Sight:
    """A first look at a user: is there a history, and a record that may be believed?

    result: hit, miss, stale or invalid, the labels of embedding_cache_total; none where there is no history. record: on
    a hit. head: the stored record's first 24 bytes; we overwrite only if they are unchanged. mark: of the history as it
    is now. item_ids: the history, if it was asked for too and there is no fresh record. last_at: the Unix time of the
    newest event.
    """

    result: str
    record: Record | None = None
    head: bytes = b""
    mark: bytes = b""
    item_ids: Sequence[str] | None = None
    last_at: float = math.nan


def make_mark(count: int, newest: bytes, score: bytes) -> bytes:
    """Return 8 bytes that name the state of a history: how many members it has, the newest one, and its score."""
    return hashlib.blake2b(b"%d %b %b" % (count, score, newest), digest_size=MARK_BYTES).digest()


def largest_record(max_rows: int, dim: int) -> int:
    """Return how many bytes a record of so many rows has."""
    return HEAD_BYTES + _COUNT_BYTES + 4 * max_rows + 4 * dim + _CRC_BYTES


def read_version(head: bytes) -> str | None:
    """Return the version that the first VERSION_BYTES of a stored record name; None for a token or nothing."""
    return None if not head or head[:1] == _TOKEN else head.decode(errors="replace")


def pack_record(version: str, mark: bytes, record: Record) -> bytes:
    """Return the stored form of a record."""
    rows, user = record.rows.astype("<i4", copy=False).tobytes(), record.user.astype("<f4", copy=False).tobytes()
    body = b"".join((version.encode(), mark, len(record.rows).to_bytes(_COUNT_BYTES, "little"), rows, user))
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def unpack_record(value: bytes, version: bytes, mark: bytes, dim: int) -> tuple[str, Record | None]:
    """Return the result of a look (hit, miss, stale or invalid), and the record on a hit.

    version, dim: of the model that asks. mark: of the history as it is now.
    """
    if not value:
        return "miss", None
    if value[:1] == _TOKEN or value[:VERSION_BYTES] != version:
        return ("stale" if value[:1] == _TOKEN or len(value) > HEAD_BYTES else "invalid"), None
    first_row = HEAD_BYTES + _COUNT_BYTES
    n_rows = int.from_bytes(value[HEAD_BYTES:first_row], "little")
    end = first_row + 4 * n_rows + 4 * dim
    if len(value) != end + _CRC_BYTES or zlib.crc32(value[:end]) != int.from_bytes(value[end:], "little"):
        return "invalid", None
    if value[VERSION_BYTES:HEAD_BYTES] != mark:
        return "stale", None
    rows = np.frombuffer(value, "<i4", n_rows, first_row)
    return "hit", Record(rows, np.frombuffer(value, "<f4", dim, first_row + 4 * n_rows))
