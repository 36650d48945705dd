"""Records: what is damaged, or belongs to another model or another history, is never believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.user.record import Record, largest_record, make_mark, pack_record, read_version, unpack_record

VERSION = "0123456789abcdef"
MARK = b"markmark"


@given(st.binary(max_size=200))
def test_any_bytes_as_a_record_never_become_a_wrong_vector(value: bytes) -> None:
    result, record = unpack_record(value, VERSION.encode(), MARK, 8)

    assert (record is None) == (result != "hit")


def packed() -> bytes:
    return pack_record(VERSION, MARK, Record(np.array([3, 1, 4], dtype=np.int32), np.arange(8, dtype=np.float32)))


@pytest.mark.parametrize(
    ("version", "mark", "dim", "expected"),
    [
        (VERSION, MARK, 8, "hit"),
        ("f" * 16, MARK, 8, "stale"),
        (VERSION, b"otherone", 8, "stale"),
        (VERSION, MARK, 4, "invalid"),
        (VERSION, MARK, 16, "invalid"),
    ],
)
def test_record_serves_only_its_own_model_history_and_width(version: str, mark: bytes, dim: int, expected: str) -> None:
    result, found = unpack_record(packed(), version.encode(), mark, dim)

    assert result == expected
    assert found is None or (found.rows.tolist(), found.user.tolist()) == ([3, 1, 4], list(range(8)))


def test_record_with_any_bit_changed_is_refused() -> None:
    whole = packed()
    for place in range(len(whole)):
        changed = bytes([*whole[:place], whole[place] ^ 4, *whole[place + 1 :]])

        assert unpack_record(changed, VERSION.encode(), MARK, 8)[1] is None, place


def test_mark_tells_count_newest_and_time_apart() -> None:
    assert (
        len({make_mark(*state) for state in ((1, b"a", b"1"), (2, b"a", b"1"), (1, b"b", b"1"), (1, b"a", b"2"))}) == 4
    )


def test_record_names_its_version_and_a_token_none() -> None:
    heads = (packed()[:16], b"x1700000000000-0", b"")

    assert [read_version(head) for head in heads] == [VERSION, None, None]


def test_largest_record_is_as_long_as_one_of_so_many_rows() -> None:
    assert largest_record(3, 8) == len(packed())
