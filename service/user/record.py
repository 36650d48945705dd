"""The form in which the store keeps a user's cached embedding, and the tests that it must pass to be believed.

    version of the bundle (16 bytes) | mark of the history (8) | number of rows uint16 | rows int32 [rows]
    | user float32 [dim] | number of hidden rows uint16, time of the last event float64, hidden rows int32 [hidden]
    | crc32 uint32                                                  all little-endian

The highest bit of the version's first byte says that the record is partial. Rows of live items are those of one
process, so no record has any; and a partial one is believed only where there are none.

What stands after the vector is there only where the user has marks (see history). In the place of a record there may
be a token: the letter x and the id of a stream entry, written together with a new event.
"""

import hashlib
import math
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.bundle import Float32

Int32 = NDArray[np.int32]
VERSION_BYTES = 16
MARK_BYTES = 8
HEAD_BYTES = VERSION_BYTES + MARK_BYTES
_COUNT_BYTES, _CRC_BYTES = 2, 4
_MORE = struct.Struct("<Hd")
_TOKEN = b"x"
_PARTIAL = 0x80  # of the first byte of the version, which is ASCII


@dataclass(slots=True)
class Past:
    """What a user did. item_ids: the history, oldest first. hidden: items not to be shown.

    last_at: the Unix time of the last event of the history; NaN where there is none.
    """

    item_ids: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    last_at: float = math.nan


@dataclass(slots=True, eq=False)
class Record:
    """What is cached of a user.

    rows: of the items seen, the oldest first, int32 [rows]. user: float32 [dim]; None, and stored as zeros, where there
    are no rows. hidden: rows not to be shown, int32; None where the user has no marks. last_at: the Unix time of the
    last event, where the user has marks. is_partial: the user did something with an item that the bundle does not have:
    where live items are, it may be one of them. Neither this nor `Sight` is frozen, which would cost each request a
    microsecond; nothing writes to them.
    """

    rows: Int32
    user: Float32 | None
    hidden: Int32 | None = None
    last_at: float = math.nan
    is_partial: bool = False


@dataclass(slots=True)
class Sight:
    """A first look at a user: is there a history, and a record that may be believed?

    result: hit, miss, stale or invalid, the labels of embedding_cache_total; none where there is no history. record: on
    a hit. head: the stored record's first 24 bytes; we overwrite only if they are unchanged. mark: of the history as it
    is now. past: what the user did, if it was asked for too and there is no fresh record. last_at: the Unix time of the
    newest event. has_marks: whether the user has hidden or undone something.
    """

    result: str
    record: Record | None = None
    head: bytes = b""
    mark: bytes = b""
    past: Past | None = None
    last_at: float = math.nan
    has_marks: bool = False


def make_mark(count: int, newest: bytes, score: bytes) -> bytes:
    """Return 8 bytes that name the state of a history: how many members it has, the newest one, and its score."""
    return hashlib.blake2b(b"%d %b %b" % (count, score, newest), digest_size=MARK_BYTES).digest()


def make_marked_mark(user_id: str, count: int, newest: bytes, score: bytes, n_marks: int) -> bytes:
    """Return 8 bytes that name the state of what a user did who has so many marks; there may be no newest member."""
    state = b"%d %b %d %b\x00\x00%b" % (count, score, n_marks, newest, user_id.encode())
    return hashlib.blake2b(state, digest_size=MARK_BYTES, person=b"marks").digest()


def largest_record(max_rows: int, dim: int) -> int:
    """Return how many bytes a record of so many rows has at most, and of as many hidden ones."""
    return HEAD_BYTES + _COUNT_BYTES + 8 * max_rows + 4 * dim + _MORE.size + _CRC_BYTES


def read_version(head: bytes) -> str | None:
    """Return the version that the first VERSION_BYTES of a stored record name; None for a token or nothing."""
    return None if not head or head[:1] == _TOKEN else _whole(head).decode(errors="replace")


def mark_partial(version: bytes) -> bytes:
    """Return how the version stands in a record that is partial."""
    return bytes([version[0] | _PARTIAL]) + version[1:]


def _whole(version: bytes) -> bytes:
    return bytes([version[0] & ~_PARTIAL]) + version[1:]


def pack_record(version: str, mark: bytes, record: Record, dim: int) -> bytes:
    """Return the stored form of a record. dim: of the model."""
    vector = np.zeros(dim, dtype=np.float32) if record.user is None else record.user
    rows, user = record.rows.astype("<i4", copy=False).tobytes(), vector.astype("<f4", copy=False).tobytes()
    stamp = mark_partial(version.encode()) if record.is_partial else version.encode()
    body = b"".join((stamp, mark, len(record.rows).to_bytes(_COUNT_BYTES, "little"), rows, user))
    if record.hidden is not None:
        body += _MORE.pack(len(record.hidden), record.last_at) + record.hidden.astype("<i4", copy=False).tobytes()
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
    n_more = len(value) - end - _CRC_BYTES
    n_hidden, last_at = _MORE.unpack_from(value, end) if n_more >= _MORE.size else (0, math.nan)
    is_sound = n_more in (0, _MORE.size + 4 * n_hidden)
    if not is_sound or zlib.crc32(value[:-_CRC_BYTES]) != int.from_bytes(value[-_CRC_BYTES:], "little"):
        return "invalid", None
    if value[VERSION_BYTES:HEAD_BYTES] != mark:
        return "stale", None
    rows = np.frombuffer(value, "<i4", n_rows, first_row)
    user = np.frombuffer(value, "<f4", dim, first_row + 4 * n_rows)
    if not n_more:
        return "hit", Record(rows, user)
    return "hit", Record(rows, user, np.frombuffer(value, "<i4", n_hidden, end + _MORE.size), last_at)
