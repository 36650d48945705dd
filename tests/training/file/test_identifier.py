"""Ids are text, whatever type they had, and what stands for none decides nothing for the others."""

from datetime import date
from typing import Any

import polars as pl
import pytest

from training.errors import InputError
from training.file.identifier import as_id, as_text, tidy_ids


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


def test_as_text_joins_lists_by_a_bar() -> None:
    assert as_text(pl.Series("genre", [["a", "b"], None, []]), "f").to_list() == ["a|b", None, ""]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["17850.0", "", "13047.0"], ["17850", None, "13047"]),
        (["17850.0", "nan", "<NA>"], ["17850", None, None]),
        (["17850.0", "85123A"], ["17850.0", "85123A"]),
        (["1.00", "2.50"], ["1.00", "2.50"]),
        ([" a", "b "], ["a", "b"]),
        ([" a", "b"], [" a", "b"]),
        (["NaN", "None", "NULL", "null", "\\N", "NaT", " "], [None] * 7),
        ([], []),
    ],
)
def test_tidy_ids_decides_over_all_that_are_there(values: list[str], expected: list[str | None]) -> None:
    assert tidy_ids(pl.Series("user_id", values, pl.String)).to_list() == expected
