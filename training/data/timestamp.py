"""Read the values of a column of times, chunk by chunk: each by itself, with the form in which it was read.

What one value cannot say (the unit of its number, day or month first) is settled over the whole column: settling.py.
"""

import re
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import InputError
from training.file.account import Account
from training.file.identifier import as_text
from training.file.moment import (
    MICROSECONDS,
    MILLISECONDS,
    NANOSECONDS,
    SECONDS,
    TEXT,
    UNREAD,
    latest,
    read_moment,
)

RULES = ("auto", "s", "ms", "us", "ns", "day-first", "month-first", "year", "yyyymm", "excel", "order")
"""What `prepare.times` takes. order: the order of the rows in the file is the time."""
SCALES = {SECONDS: 10**6, MILLISECONDS: 10**3, MICROSECONDS: 1, NANOSECONDS: 10**-3}  # microseconds in one
UNITS = {"s": SECONDS, "ms": MILLISECONDS, "us": MICROSECONDS, "ns": NANOSECONDS}
LARGEST = 9.2e18  # a number beyond it is no time in any unit
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
_CLOCK = re.compile(r"^\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?(\s*[AaPp]\.?[Mm]\.?)?$")
_MIDNIGHT = r"[T ]0?0:00(:00(\.0+)?)?$"  # what pandas and Excel write behind a day
Int64 = NDArray[np.int64]
Forms = NDArray[np.uint8]


@dataclass(frozen=True)
class Bounds:
    """Between which milliseconds a time is plausible, and how the column is to be read. The default refuses none."""

    rule: str = "auto"  # one of RULES
    earliest_ms: int = -(1 << 62)
    latest_ms: int = 1 << 62

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"prepare.times must be one of {', '.join(RULES)}, not {self.rule!r}")


def read_bounds(rule: str, earliest: str, last: str) -> Bounds:
    """Return the bounds of the settings. earliest, last: dates; last may be empty, for tomorrow. Raises InputError."""
    found = []
    for name, text in (("earliest", earliest), ("latest", last)):
        microseconds, form = read_moment(text if len(text) != 4 else f"{text}-01-01") if text else (0, TEXT)
        if form != TEXT:
            raise InputError(f"prepare.{name} must be a date such as 1990-01-01, not {text!r}")
        found.append(microseconds // 1000 if text else int(latest().timestamp() * 1000))
    return Bounds(rule, *found)


def read_times(series: pl.Series, label: str) -> tuple[Int64, Forms]:
    """Return microseconds since 1970, numbers by their size, and the form of each value [n_rows].

    label: names the file. Raises InputError for a type that is no time.
    """
    dtype = series.dtype
    if dtype.is_decimal():
        series, dtype = series.cast(pl.Float64), pl.Float64()
    if dtype.is_numeric():
        return _from_numbers(series)
    if dtype == pl.Binary:
        series = series.cast(pl.String)
        dtype = series.dtype
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return _from_text(series.cast(pl.String).str.strip_chars())
    if dtype in (pl.Datetime, pl.Date):
        microseconds = series.cast(pl.Datetime("us")).dt.timestamp("us")
        forms = np.where(microseconds.is_null().to_numpy(), UNREAD, TEXT).astype(np.uint8)
        return microseconds.fill_null(0).to_numpy(), forms
    if dtype == pl.Null:
        return np.zeros(len(series), dtype=np.int64), np.full(len(series), UNREAD, dtype=np.uint8)
    raise InputError(f"{label}: a timestamp of type {dtype}; give Unix time, or text such as 2020-09-16 18:43:01")


def join_clock(days: pl.Series, clocks: pl.Series, label: str) -> pl.Series:
    """Return a column of days and one of times of day as one of text, null where either is."""
    if days.dtype == pl.Datetime:
        days = days.dt.date()
    return as_text(days, label).str.strip_chars().str.replace(_MIDNIGHT, "") + " " + as_text(clocks, label)


def find_clock(account: Account) -> str | None:
    """Return the unused column that holds times of day, or None."""
    for name, values in account.sample.items():
        some = [value.strip() for value in values[:200]]
        if some and all(_CLOCK.match(value) for value in some):
            return name
    return None


def _from_numbers(series: pl.Series) -> tuple[Int64, Forms]:
    if not series.dtype.is_integer():
        series = series.cast(pl.Float64)
    elif series.dtype in (pl.UInt64, pl.Int128):
        series = series.cast(pl.Int64, strict=False)
    known = series.is_not_null()
    if not series.dtype.is_integer():
        known = known & series.is_finite().fill_null(False) & (series.abs() < LARGEST).fill_null(False)
    values = series.set(~known, 0).cast(pl.Int64 if series.dtype.is_integer() else pl.Float64).to_numpy()
    size = np.abs(values.astype(np.float64))
    forms = np.select([size < 1e11, size < 1e14, size < 1e17], [SECONDS, MILLISECONDS, MICROSECONDS], NANOSECONDS)
    forms = np.where(known.to_numpy(), forms, UNREAD).astype(np.uint8)
    micro = np.zeros(len(values), dtype=np.int64)
    for form, scale in SCALES.items():
        at = forms == form
        if scale >= 1:
            micro[at] = np.round(values[at] * scale)
        else:
            micro[at] = np.round(values[at] / 1000) if values.dtype.kind == "f" else values[at] // 1000
    return micro, forms


def _from_text(text: pl.Series) -> tuple[Int64, Forms]:
    is_number = text.str.contains(_NUMBER).fill_null(False)
    whole = text.set(~is_number, None)
    integers = whole.cast(pl.Int64, strict=False)
    if (integers.is_not_null() == is_number).all():
        micro, forms = _from_numbers(integers)
    else:
        micro, forms = _from_numbers(whole.cast(pl.Float64, strict=False))
    if is_number.all():
        return micro, forms
    distinct = text.filter(~is_number).drop_nulls().unique()
    read = [read_moment(value) for value in distinct.to_list()]
    values = pl.Series([value for value, _ in read], dtype=pl.Int64)
    kinds = pl.Series([form for _, form in read], dtype=pl.UInt8)
    at = (~is_number & text.is_not_null()).to_numpy()
    words = text.filter(pl.Series(at))
    micro, forms = micro.copy(), forms.copy()
    micro[at] = words.replace_strict(distinct, values, return_dtype=pl.Int64).to_numpy()
    forms[at] = words.replace_strict(distinct, kinds, return_dtype=pl.UInt8).to_numpy()
    return micro, forms
