"""Ids are text, whatever type they had, and what stands for none decides nothing for the others."""

import math
from datetime import date
from typing import Any

import polars as pl
import pytest

from training.errors import InputError
from training.file.identifier import as_id, as_text, find_alike, tidy_ids


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([17850.0, None, float("nan"), 1.5], pl.Float64, ["17850", None, None, "1.5"]),
        ([17850.0], pl.Float32, ["17850"]),
        ([444778, None], pl.Int64, ["444778", None]),
        (["0444778", "", None], pl.String, ["0444778", None, None]),
        ([" a", "é", "é"], pl.String, [" a", "é", "é"]),
        (["a", "b"], pl.Categorical, ["a", "b"]),
    ],
)
def test_as_id_keeps_text_and_prints_whole_floats_as_integers(
    values: list[Any], dtype: Any, expected: list[Any]
) -> None:
    assert as_id(pl.Series("user_id", values, dtype), "f").to_list() == expected


@pytest.mark.parametrize("values", [[True], [date(2020, 1, 1)], [["a"]]])
def test_as_id_refuses_what_is_neither_text_nor_number(values: list[Any]) -> None:
    with pytest.raises(InputError, match=r"f: the user_id column is of type .*ids are text or whole numbers"):
        as_id(pl.Series("user_id", values), "f")


def test_a_number_that_is_not_finite_is_no_id() -> None:
    assert as_id(pl.Series("user_id", [17850.0, math.inf, math.nan]), "f").to_list() == ["17850", None, None]


def test_a_column_without_any_id_is_read_as_such() -> None:
    assert as_id(pl.Series("user_id", [None, None]), "f").to_list() == [None, None]


@pytest.mark.parametrize("other", ["U1", "u1 ", "\u200bu1", "u\u00a01"])
def test_ids_that_look_the_same_are_found(other: str) -> None:
    assert find_alike(pl.Series(["u1", "u2", other])) == (1, f"'u1' and {other!r}")
    assert find_alike(pl.Series(["u1", "u2"])) == (0, "")


def test_ids_in_two_forms_of_unicode_are_found() -> None:
    assert find_alike(pl.Series(["\u00e9", "e\u0301"]))[0] == 1


def test_as_text_joins_lists_by_a_bar() -> None:
    assert as_text(pl.Series("genre", [["a", "b"], None, []]), "f").to_list() == ["a|b", None, ""]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["17850.0", "", "13047.0"], ["17850", None, "13047"]),
        (["17850.0", "nan", "<NA>"], ["17850", None, None]),
        (["17850.0", "85123A"], ["17850.0", "85123A"]),
        (["17850.0", "13047", "17850"], ["17850", "13047", "17850"]),
        (["1.00", "2.50"], ["1.00", "2.50"]),
        (['="0017"', '="18"', '="nan"', '=""'], ["0017", "18", None, None]),
        (["#REF!", "#Value!", "undefined", "(null)", "(not set)"], [None] * 5),
        (["-", " -- ", "\u2014", "#NA", "<null>", "(None)", "-nan"], [None] * 7),
        (["?", ".", "NA", "unknown", "-1", "a-"], ["?", ".", "NA", "unknown", "-1", "a-"]),
        (
            [
                "ObjectId(5f5e00000000000000000001)",
                'ObjectId("5f5e00000000000000000002")',
                '{"$oid":"5f5e00000000000000000003"}',
            ],
            [f"5f5e{n:020d}" for n in (1, 2, 3)],
        ),
        (["ObjectId(17)"], ["ObjectId(17)"]),
        (["b'u1'", 'b"it\'s"', "b'nan'"], ["u1", "it's", None]),
        ([" a", "b "], ["a", "b"]),
        ([" a", "b"], [" a", "b"]),
        (["NaN", "None", "NULL", "null", "\\N", "NaT", " "], [None] * 7),
        ([], []),
    ],
)
def test_tidy_ids_decides_over_all_that_are_there(values: list[str], expected: list[str | None]) -> None:
    assert tidy_ids(pl.Series("user_id", values, pl.String)).to_list() == expected
