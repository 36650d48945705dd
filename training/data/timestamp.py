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
_GROUPED = {
    sign: rf"^[0-9]{{1,3}}([{sign}][0-9]{{3}}){{3,}}{end}$"
    for sign, end in ((",", r"(\.[0-9]+)?"), (".", ""), ("'\u2019", ""), ("_", ""), (" \u00a0\u202f", "(,[0-9]+)?"))
}  # 1,600,214,400: ten digits or more
_DECIMAL_COMMA = r"^([0-9]{9,}),([0-9]+)$"
_MAY_BE_GROUPED = r"^[0-9]{1,3}([^0-9][0-9]{3}){3,}|^[0-9]{9,},[0-9]+$"
_FAMILIES = (
    "central Europe: CET +01:00, CEST +02:00, MEZ +01:00, MESZ +02:00", "eastern Europe: EET +02:00, EEST +03:00",
    "western Europe: WET +00:00, WEST +01:00", "Britain: BST +01:00", "New York: EST -05:00, EDT -04:00",
    "Chicago: CST -06:00, CDT -05:00", "Denver: MST -07:00, MDT -06:00", "Los Angeles: PST -08:00, PDT -07:00",
    "India: IST +05:30", "Japan: JST +09:00", "Korea: KST +09:00", "Moscow: MSK +03:00", "Brasília: BRT -03:00",
    "Singapore: SGT +08:00", "Hong Kong: HKT +08:00", "Sydney: AEST +10:00, AEDT +11:00",
    "New Zealand: NZST +12:00, NZDT +13:00",
)  # fmt: skip
"""Names of zones that time tables use, with the offsets that they have where most people live who use them."""
_QUARTERS = (("1", "01"), ("2", "04"), ("3", "07"), ("4", "10"))
_INTO = " FILE > events.csv"
_UNREAD = (
    (r"^\d{4}-?Q\d$", "quarters", "; ".join(rf"s/([12][0-9]{{3}})-?Q{at}/\1-{month}-01/" for at, month in _QUARTERS)),
    (
        r"^Q\d[\s/-]\d{4}$",
        "quarters",
        "; ".join(rf"s#Q{at}[ /-]([0-9]{{4}})#\1-{month}-01#" for at, month in _QUARTERS),
    ),
    (r"^\d{4}[-/]\d\d$", "months", r"s#([12][0-9]{3}[-/][0-9]{2})([^0-9/-]|$)#\1-01\2#"),
    (r"^[A-Z][a-z]{2,8}[\s-]\d{2,4}$", "months", "s/[A-Z][a-z]{2,8}[ -][0-9]{2,4}/1 &/"),
    (
        r"^[A-Z][a-z]{2}\s+\d{1,2}\s[\d:]{8}$",
        "times without a year; write it, where it is 2020",
        r"s/([A-Z][a-z]{2} +[0-9]{1,2}) ([0-9]{2}:)/\1 2020 \2/",
    ),
    (r"^\d{9,}\s?(s|ms|us|ns)$", "numbers with a unit", "s/([0-9]{9,}) ?(s|ms|us|ns)/\\1/"),
)
"""Forms of times that are refused: how each looks, what it is, and what sed makes times of it with."""
_MONTH_NAME = re.compile(r"^\d{1,2}\.?[\s-]+([^\W\d_]{3,})\.?[\s-]+\d{4}\b")
_REGION_NAME = r"\w+/[\w/+-]+|[A-Z]{3}\d[A-Z]{3}"  # Europe/Paris, EST5EDT
_WITH_OFFSETS = (
    "import re; from datetime import datetime as dt; from zoneinfo import ZoneInfo; "
    rf"time = re.compile(r'(\d{{4}}-\d\d-\d\d[T ][\d:.]+) ?\[?({_REGION_NAME})\]?'); "
    "[print(time.sub(lambda at: dt.fromisoformat(at[1]).replace(tzinfo=ZoneInfo(at[2])).isoformat(), line), end='') "
    "for line in open('FILE')]"
)
_REGION = re.compile(rf"^(\S+[T ][\d:.]+)\s?\[?({_REGION_NAME})\]?$")
_ZONE_NAME = re.compile(r"[\d.Mm]\s([A-Z]{2,5})(\s\d{4})?$")
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


def say_unread(account: Account) -> str:
    """Return what the first times that could not be read are, and a command that makes readable ones; may be empty."""
    found = (re.search(r"unreadable timestamp ['\"](.*)['\"]$", example) for example in account.examples)
    return next(filter(None, (say_form(match[1]) for match in found if match)), "")


def say_form(text: str) -> str:
    """Return what a text is that holds a time but is not read, and the command that mends the file; or nothing."""
    for pattern, what, program in _UNREAD:
        if re.match(pattern, text):
            return f"Times such as {text} are {what}: sed -E '{program}'{_INTO}. "
    if match := _MONTH_NAME.match(text):
        return (
            f"{match[1]} is no month that is known; write the English name in place of MONTH, for each: "
            f"sed 's/{match[1]}/MONTH/'{_INTO}. "
        )
    if match := _REGION.match(text):
        return f'Times of {match[2]} without an offset; write it: python -c "{_WITH_OFFSETS}" > events.csv. '
    if match := _ZONE_NAME.search(text):
        return _say_zone(match[1])
    if re.match(r"b['\"]", text):
        return f"Bytes as Python prints them: sed -E \"s/b'([^']*)'/\\1/g\"{_INTO}. "
    if re.match("'.*'$", text):
        return "' stands for quotes: --set prepare.quote=\"'\". "
    return ""


def _say_zone(name: str) -> str:
    """Return whose zone a name is most likely, and the command that writes offsets for it."""
    family = next((one for one in _FAMILIES if re.search(rf"\b{name} ", one)), f"that zone: {name} +00:00")
    place, _, offsets = family.partition(": ")
    program = "; ".join(
        rf"s/([0-9Mm.]) {each}/\1 {offset}/" for each, offset in (pair.split() for pair in offsets.split(", "))
    )
    return (
        f"{name} is the name of a zone, and such names mean several; write the offset from UTC, if it is that of "
        f"{place}: sed -E '{program}'{_INTO}. "
    )


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
    if not is_number.all() and text.str.contains(_MAY_BE_GROUPED).any():
        text = _ungrouped(text)
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


def _ungrouped(text: pl.Series) -> pl.Series:
    """Return numbers without the signs between their thousands, and with a point before a fraction."""
    for sign, pattern in _GROUPED.items():
        is_grouped = text.str.contains(pattern).fill_null(False)
        text = text.str.replace_all(f"[{sign}]", "").zip_with(is_grouped, text)
    return text.str.replace(_DECIMAL_COMMA, "$1.$2")
