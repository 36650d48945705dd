"""Ids as text: what is no id, and how ids that another program has rewritten are read.

The decisions are made over the distinct ids of a whole table, so a missing value decides nothing for the others.
"""

import polars as pl

from training.errors import InputError

MISSING = ("nan", "none", "null", "<na>", "\\n", "nat", "n/a", "#n/a")  # in lower case; any case counts
ROUNDED = r"^-?[0-9](\.[0-9]+)?[eE]\+[0-9]+$"  # 1.23457E+11: what a spreadsheet makes of a long number


def is_missing(ids: pl.Series) -> pl.Series:
    """Say of each id whether it stands for none: empty, blank, or a word such as nan."""
    plain = ids.str.strip_chars().str.to_lowercase()
    return (plain.is_in(list(MISSING)) | (plain == "")).fill_null(True)


def tidy_ids(ids: pl.Series) -> pl.Series:
    """Return distinct ids as they are meant, null for those that stand for none.

    Text of which every id looks like 17850.0 has been integers, and loses the fraction. Ids that all have blanks around
    them were padded, and lose the blanks. In any other case an id stays as it is.
    """
    ids = ids.to_frame("id").select(pl.when(~is_missing(ids)).then(pl.col("id"))).to_series().alias(ids.name)
    present = ids.drop_nulls()
    if not len(present):
        return ids
    if (present != present.str.strip_chars()).all():
        ids, present = ids.str.strip_chars(), present.str.strip_chars()
    return ids.str.strip_suffix(".0") if present.str.contains(r"^[0-9]+\.0$").all() else ids


def as_id(series: pl.Series, label: str) -> pl.Series:
    """Return a typed column of ids as text. Raises InputError for a type that is neither text nor a number.

    A whole number of a float column is written without a fraction.
    """
    dtype = series.dtype
    if not (dtype.is_numeric() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Binary)):
        raise InputError(
            f"{label}: the {series.name} column is of type {dtype}; ids are text or whole numbers"
            + (f"; write a row for each: df.explode({series.name!r}, ...)" if dtype.is_nested() else "")
        )
    return as_text(series, label)


def as_text(series: pl.Series, label: str) -> pl.Series:
    """Return a column as the text that a CSV would hold: 5.0 becomes "5", and a list is joined by '|'.

    Raises InputError for a type that cannot be written as text.
    """
    dtype = series.dtype
    try:
        if isinstance(dtype, pl.List | pl.Array):
            texts = series.cast(pl.List(pl.String))
            return texts.list.join("|", ignore_nulls=True)
        if dtype.is_float():
            return _float_text(series)
        text = series.cast(pl.String)
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"{label}: the {series.name} column is of type {dtype}, not text ({exc})") from exc
    if dtype.is_decimal():
        text = text.str.replace(r"\.0+$", "")
    return text.replace("", None)


def _float_text(series: pl.Series) -> pl.Series:
    number = pl.col(series.name).fill_nan(None).cast(pl.Float64)
    is_whole = (number == number.floor()) & (number.abs() < 2**53)
    integer = number.cast(pl.Int64, strict=False).cast(pl.String)
    text = pl.when(is_whole).then(integer).otherwise(number.cast(pl.String))
    return series.to_frame().select(text.alias(series.name)).to_series()
