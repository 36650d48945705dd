"""Records: what is damaged, or belongs to another model or another history, is never believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.user.record import (
    Record,
    largest_record,
    make_mark,
    make_marked_mark,
    pack_record,
    read_version,
    unpack_record,
)

VERSION = "0123456789abcdef"
MARK = b"markmark"


@given(st.binary(max_size=200))
def test_any_bytes_as_a_record_never_become_a_wrong_vector(value: bytes) -> None:
    result, record = unpack_record(value, VERSION.encode(), MARK, 8)

    assert (record is None) == (result != "hit")


ROWS, USER = np.array([3, 1, 4], dtype=np.int32), np.arange(8, dtype=np.float32)


def packed(hidden: list[int] | None = None) -> bytes:
    rows = None if hidden is None else np.array(hidden, dtype=np.int32)
    return pack_record(VERSION, MARK, Record(ROWS, USER, rows, 12.5), 8)


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


@pytest.mark.parametrize("hidden", [[], [7], [5, 6, 7]])
def test_record_keeps_the_hidden_rows_and_the_last_time_of_a_user_with_marks(hidden: list[int]) -> None:
    result, found = unpack_record(packed(hidden), VERSION.encode(), MARK, 8)

    assert (result, found.hidden.tolist(), found.last_at) == ("hit", hidden, 12.5)
    assert (found.rows.tolist(), found.user.tolist()) == ([3, 1, 4], list(range(8)))


def test_record_of_a_user_without_marks_has_the_bytes_that_it_always_had() -> None:
    whole = packed()

    assert len(whole) == 16 + 8 + 2 + 3 * 4 + 8 * 4 + 4
    assert unpack_record(whole, VERSION.encode(), MARK, 8)[1].hidden is None


def test_record_of_a_user_who_only_hides_has_a_vector_of_zeros() -> None:
    none = Record(np.zeros(0, dtype=np.int32), None, np.array([2], dtype=np.int32))

    result, found = unpack_record(pack_record(VERSION, MARK, none, 8), VERSION.encode(), MARK, 8)

    assert (result, found.rows.tolist(), found.hidden.tolist()) == ("hit", [], [2])
    assert not found.user.any()


@pytest.mark.parametrize("hidden", [None, [9, 8]])
def test_record_with_any_bit_changed_is_refused(hidden: list[int] | None) -> None:
    whole = packed(hidden)
    for place in range(len(whole)):
        changed = bytes([*whole[:place], whole[place] ^ 4, *whole[place + 1 :]])

        assert unpack_record(changed, VERSION.encode(), MARK, 8)[1] is None, place


def test_mark_tells_count_newest_and_time_apart_and_of_a_user_with_marks_their_number_and_the_user() -> None:
    states = [(1, b"a", b"1"), (2, b"a", b"1"), (1, b"b", b"1"), (1, b"a", b"2")]
    marked = [(*whose, n_marks) for whose in (("u", 1, b"a", b"1"), ("v", 1, b"a", b"1")) for n_marks in (1, 2)]

    found = {make_mark(*state) for state in states} | {make_marked_mark(*state) for state in marked}
    assert len(found) == len(states) + len(marked)


def test_record_names_its_version_and_a_token_none() -> None:
    heads = (packed()[:16], b"x1700000000000-0", b"")

    assert [read_version(head) for head in heads] == [VERSION, None, None]


def test_largest_record_is_as_long_as_one_of_so_many_rows() -> None:
    assert largest_record(3, 8) == len(packed([1, 2, 3]))
