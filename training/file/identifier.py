"""Ids as text: what is no id, and how ids that another program has rewritten are read.

The decisions are made over the distinct ids of a whole table, so a missing value decides nothing for the others.
"""

from dataclasses import dataclass

import polars as pl

from training.errors import InputError

MISSING = (
    "nan", "none", "null", "<na>", "\\n", "nat", "n/a", "undefined", "(null)", "(not set)", "#n/a", "#ref!", "#value!",
    "#name?", "#div/0!", "#null!", "#num!", "#na", "-nan", "-", "--", "---", "\u2013", "\u2014", "<null>", "<none>",
    "[null]", "(none)", "(empty)", "(blank)",
)  # fmt: skip
"""What programs write where there is no value, in lower case; any case counts."""
ROUNDED = r"^-?[0-9]([.,][0-9]+)?[eE]\+[0-9]+$"  # 1.23457E+11: what a spreadsheet makes of a long number
_FLOAT = r"^[0-9]+(\.0)?$"
_SEVERAL = [
    *(rf"^[\[(]?[^{sign}]+({sign}[^{sign}]+){{2,}}[\])]?$" for sign in (r"\|", ",", ";")),
    r"^[\[(]?[\w:-]*\d[\w:-]*(\s+[\w:-]*\d[\w:-]*){2,}[\])]?$",  # words without a digit are a title
]
_FORMULA = r'^="(.*)"$'  # ="0017": what keeps a spreadsheet from taking the zeros away
_BYTES = r"^b(?:'(.*)'|\"(.*)\")$"  # b'u1': bytes as Python prints them
_OBJECT_ID = r"""^(?:ObjectId\(|\{\s*"\$oid"\s*:\s*)["']?([0-9a-fA-F]{24})["']?\s*[)}]$"""  # MongoDB's, in CSV


def is_missing(ids: pl.Series) -> pl.Series:
    """Say of each id whether it stands for none: empty, blank, or a word such as nan."""
    plain = ids.str.strip_chars().str.to_lowercase()
    return (plain.is_in(list(MISSING)) | (plain == "")).fill_null(True)


@dataclass(frozen=True)
class IdForm:
    """What all distinct ids of a table, or of some of its parts, have in common. Without ids all of it is true."""

    are_padded: bool = True  # blanks stand around each of them
    are_floats: bool = True  # each looks like 17850.0, or like 17850
    are_floats_inside: bool = True  # each does without the blanks around it

    def __add__(self, other: "IdForm") -> "IdForm":
        """Return what the ids of both have in common."""
        return IdForm(
            self.are_padded and other.are_padded,
            self.are_floats and other.are_floats,
            self.are_floats_inside and other.are_floats_inside,
        )


def see_ids(ids: pl.Series) -> IdForm:
    """Return what distinct ids have in common."""
    present = _present(ids).drop_nulls()
    inside = present.str.strip_chars()
    are_floats, are_floats_inside = (bool(one.str.contains(_FLOAT).all()) for one in (present, inside))
    return IdForm(bool((present != inside).all()), are_floats, are_floats_inside)


def tidy_ids(ids: pl.Series, form: IdForm | None = None) -> pl.Series:
    """Return distinct ids as they are meant, null for those that stand for none.

    Text of which every id looks like 17850.0 or like 17850 has been integers, and loses the fraction: a program that
    meets an empty id among others writes both. ="0017" is 0017. Ids that all have blanks around
    them were padded, and lose the blanks. In any other case an id stays as it is. form: of all ids of the table, where
    these are not all.
    """
    seen = see_ids(ids) if form is None else form
    present = _present(ids)
    if seen.are_padded:
        present = present.str.strip_chars()
    are_floats = seen.are_floats_inside if seen.are_padded else seen.are_floats
    return present.str.strip_suffix(".0") if are_floats else present


def find_alike(ids: pl.Series) -> tuple[int, str]:
    """Return how many ids differ from another only in capitals, blanks or signs that are not seen, and two such.

    They stay apart: nobody but their owner knows whether they are one.
    """
    plain = ids.str.normalize("NFC").str.replace_all(r"[\s\p{Cf}]+", "").str.to_lowercase()
    count = len(ids) - plain.n_unique()
    if not count:
        return 0, ""
    twice = plain.is_duplicated()
    return count, " and ".join(repr(one) for one in ids.filter(plain == plain.filter(twice)[0]).head(2).to_list())


def find_lists(ids: pl.Series) -> tuple[int, str]:
    """Return how many ids look like several, such as `a|b|c`, and the first of them; 0 unless nearly all do."""
    for pattern in _SEVERAL:
        listed = ids.filter(ids.str.contains(pattern))
        if len(listed) > 0.9 * len(ids):
            return len(listed), repr(listed[0])
    return 0, ""


def _present(ids: pl.Series) -> pl.Series:
    ids = ids.str.replace(_FORMULA, "$1").str.replace(_OBJECT_ID, "$1").str.replace(_BYTES, "$1$2")
    return ids.to_frame("id").select(pl.when(~is_missing(ids)).then(pl.col("id"))).to_series().alias(ids.name)


def as_id(series: pl.Series, label: str) -> pl.Series:
    """Return a typed column of ids as text. Raises InputError for a type that is neither text nor a number.

    A whole number of a float column is written without a fraction.
    """
    dtype = series.dtype
    if not (dtype.is_numeric() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Binary, pl.Null)):
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
    number = pl.col(series.name).cast(pl.Float64)
    number = pl.when(number.is_finite()).then(number)
    is_whole = (number == number.floor()) & (number.abs() < 2**53)
    integer = number.cast(pl.Int64, strict=False).cast(pl.String)
    text = pl.when(is_whole).then(integer).otherwise(number.cast(pl.String))
    return series.to_frame().select(text.alias(series.name)).to_series()
