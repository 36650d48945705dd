"""Turn the times of a file, whatever their form, into whole milliseconds since 1970 (UTC).

A column is read chunk by chunk: each value by itself, with the form in which it was read. When all chunks are there,
the column as a whole settles what one value cannot: the unit of its numbers, and whether a day or a month stands
first. Plausible times of seconds, milliseconds, microseconds and nanoseconds differ a thousandfold, so a unit is told
by the size of the numbers; a number of another unit than most is malformed. So is a time before `earliest` or after
`latest`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import InputError
from training.file.moment import (
    DAY_FIRST,
    EITHER,
    EPOCH,
    MICROSECONDS,
    MILLISECONDS,
    MONTH_FIRST,
    NANOSECONDS,
    SECONDS,
    TEXT,
    UNREAD,
    latest,
    read_moment,
    swap_day_and_month,
)

RULES = ("auto", "s", "ms", "us", "ns", "day-first", "month-first", "year", "yyyymm", "excel", "order")
"""What `prepare.times` takes. order: the order of the rows in the file is the time."""
NAMES = {
    SECONDS: "Unix seconds", MILLISECONDS: "Unix milliseconds", MICROSECONDS: "Unix microseconds",
    NANOSECONDS: "Unix nanoseconds", TEXT: "text", DAY_FIRST: "text, day first", MONTH_FIRST: "text, month first",
}  # fmt: skip
_SCALES = {SECONDS: 10**6, MILLISECONDS: 10**3, MICROSECONDS: 1, NANOSECONDS: 10**-3}  # microseconds in one
_UNITS = {"s": SECONDS, "ms": MILLISECONDS, "us": MICROSECONDS, "ns": NANOSECONDS}
_LARGEST = 9.2e18  # a number beyond it is no time in any unit
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
_EXCEL_ZERO = -25_569  # Excel's day 0, in days since 1970
_TICKS = ((1, ".NET ticks"), (1601, "Windows file times"))  # units of 100 ns since that year began
_HINTS = (
    (19_000, 60_000, "Excel's days", "excel"),
    (1_900, 2_100, "bare years", "year"),
    (190_001, 210_012, "years and months (yyyymm)", "yyyymm"),
)

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


@dataclass(frozen=True)
class Settled:
    """A column of times, all of it read."""

    ms: Int64  # [n_rows]; 0 where it is bad
    bad: NDArray[np.bool_]  # [n_rows], times that are not plausible or of another unit than most
    said: str  # the form, for a person
    why: Callable[[int], str]  # a bad position -> what is wrong there


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


def settle_times(microseconds: Int64, forms: Forms, bounds: Bounds) -> Settled:
    """Decide what the values of a whole column mean. microseconds, forms: of read_times [n_rows].

    Raises InputError where day and month cannot be told apart.
    """
    counts = np.bincount(forms, minlength=EITHER + 1)
    numbers = [form for form in _SCALES if counts[form]]
    unit = _UNITS.get(bounds.rule) or max(numbers, key=lambda form: counts[form], default=SECONDS)
    days = _day_order(counts, bounds.rule)
    micro, bad, said = microseconds.copy(), forms == UNREAD, []
    is_number = (forms >= SECONDS) & (forms <= NANOSECONDS)
    if numbers:
        said.append(_settle_numbers(micro, bad, forms, unit, bounds.rule))
    if days:
        either = np.flatnonzero(forms == EITHER)
        if days == MONTH_FIRST and len(either):
            distinct, where = np.unique(micro[either], return_inverse=True)
            micro[either] = np.array([swap_day_and_month(int(one)) for one in distinct])[where]
        bad |= forms == (DAY_FIRST if days == MONTH_FIRST else MONTH_FIRST)
        said.append(NAMES[days])
    if counts[TEXT]:
        said.append(NAMES[TEXT])
    other = bad & (forms != UNREAD)
    ms = (micro + 500) // 1000
    late = (~bad) & ((ms < bounds.earliest_ms) | (ms > bounds.latest_ms))
    ms[bad | late] = 0

    def why(position: int) -> str:
        value = _shown(int(microseconds[position]), int(forms[position]))
        if not other[position]:
            return f"implausible timestamp {value}: {_year(int(micro[position]))}"
        return f"timestamp {value} is not in the form of most others, {said[0]}"

    if late.any() and late.sum() > 0.5 * len(late) and is_number.any():
        said.append(_hint(microseconds[late & is_number]))
    return Settled(ms, bad | late, ", ".join(filter(None, said)), why)


def _settle_numbers(micro: Int64, bad: NDArray[np.bool_], forms: Forms, unit: int, rule: str) -> str:
    """Read the numbers of a column in their unit, in place, and return what is said of it."""
    is_number = (forms >= SECONDS) & (forms <= NANOSECONDS)
    if rule in _UNITS:
        for form, scale in _SCALES.items():
            at = forms == form
            if form != unit:
                micro[at] = np.clip(np.round(micro[at] * (_SCALES[unit] / scale)), -_LARGEST, _LARGEST)
        return NAMES[unit]
    if rule in ("year", "yyyymm", "excel"):
        at = is_number & (forms == SECONDS)
        raw = micro[at] / 1e6
        micro[at] = np.array([_calendar(rule, value) for value in raw], dtype=np.int64)
        bad |= is_number & ~at | (micro == np.iinfo(np.int64).min)
        return rule
    at = forms == unit
    digits = (micro[at] // _SCALES[unit]) if unit in (SECONDS, MILLISECONDS) else micro[:0]
    distinct, where = np.unique(digits, return_inverse=True)
    dates = np.array(
        [_from_digits(int(value)) for value in distinct] if _may_be_digits(distinct) else [], dtype=np.int64
    )
    if len(dates) and (dates != np.iinfo(np.int64).min)[where].mean() > 0.9:
        micro[at] = dates[where]
        bad |= (is_number & ~at) | (micro == np.iinfo(np.int64).min)
        return "dates of digits (yyyymmdd)" if unit == SECONDS else "times of digits (yyyymmddHHMM)"
    bad |= is_number & ~at
    return (_settle_ticks(micro, at) if unit == NANOSECONDS and rule == "auto" else None) or NAMES[unit]


def _settle_ticks(micro: Int64, at: NDArray[np.bool_]) -> str | None:
    """Read numbers that were taken for nanoseconds as units of 100 ns of Windows, in place, where they look like it.

    Such numbers of our days would be nanoseconds before May of 1990. Returns their name, or None where they are none.
    """
    middle = int(np.median(micro[at]))
    for year, name in _TICKS:
        zero = (datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
        low, high = ((datetime(of, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) for of in (1990, 2035))
        if low <= middle * 100 + zero <= high:
            micro[at] = micro[at] * 100 + zero
            return name
    return None


def _may_be_digits(distinct: Int64) -> bool:
    """Say whether the middle one of sorted numbers looks like a date of digits; most columns are none."""
    return len(distinct) > 0 and _from_digits(int(distinct[len(distinct) // 2])) != np.iinfo(np.int64).min


def _from_digits(number: int) -> int:
    """Return the microseconds of yyyymmdd, yyyymmddHHMM or yyyymmddHHMMSS, or the least number where it is none."""
    text = str(number)
    formats = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
    if len(text) in formats and "1900" <= text[:4] <= "2100":
        try:
            moment = datetime.strptime(text, formats[len(text)]).replace(tzinfo=UTC)
        except ValueError:
            return int(np.iinfo(np.int64).min)
        return (moment - EPOCH) // timedelta(microseconds=1)
    return int(np.iinfo(np.int64).min)


def _calendar(rule: str, value: float) -> int:
    """Return the microseconds of a bare year, of yyyymm or of Excel's days; the least number where it is none."""
    if rule == "excel":
        return round((value + _EXCEL_ZERO) * 86_400) * 10**6
    year, month = (int(value), 1) if rule == "year" else divmod(int(value), 100)
    if not (1 <= year <= 9999 and 1 <= month <= 12):
        return int(np.iinfo(np.int64).min)
    return (datetime(year, month, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def _day_order(counts: NDArray[np.int64], rule: str) -> int:
    """Return whether the day or the month stands first; 0 where no value needs it. Raises InputError if open."""
    if not counts[DAY_FIRST] + counts[MONTH_FIRST] + counts[EITHER]:
        return 0
    if rule in ("day-first", "month-first"):
        return DAY_FIRST if rule == "day-first" else MONTH_FIRST
    if counts[DAY_FIRST] == counts[MONTH_FIRST]:
        raise InputError(
            "times such as 03/04/2020 may have the day first or the month, and no row of the file decides. Say which: "
            "--set prepare.times=day-first, or --set prepare.times=month-first"
        )
    return DAY_FIRST if counts[DAY_FIRST] > counts[MONTH_FIRST] else MONTH_FIRST


def _hint(microseconds: Int64) -> str:
    """Return what numbers that are no Unix time may be, with the setting that reads them so."""
    middle = float(np.median(microseconds)) / 1e6
    for low, high, what, rule in _HINTS:
        if low <= middle <= high:
            return f"perhaps {what}: --set prepare.times={rule}"
    return "to take them as they are: --set prepare.earliest=1677-10-01" if middle >= 0 else ""


def _shown(microseconds: int, form: int) -> str:
    if form in _SCALES:
        number = microseconds / _SCALES[form]
        return f"{number:.0f}" if number == round(number) else str(number)
    return _year(microseconds)


def _year(microseconds: int) -> str:
    try:
        return (EPOCH + timedelta(microseconds=microseconds)).isoformat(sep=" ", timespec="seconds")[:19]
    except OverflowError:
        return "beyond the calendar"


def _from_numbers(series: pl.Series) -> tuple[Int64, Forms]:
    if not series.dtype.is_integer():
        series = series.cast(pl.Float64)
    elif series.dtype in (pl.UInt64, pl.Int128):
        series = series.cast(pl.Int64, strict=False)
    known = series.is_not_null()
    if not series.dtype.is_integer():
        known = known & series.is_finite().fill_null(False) & (series.abs() < _LARGEST).fill_null(False)
    values = series.set(~known, 0).cast(pl.Int64 if series.dtype.is_integer() else pl.Float64).to_numpy()
    size = np.abs(values.astype(np.float64))
    forms = np.select([size < 1e11, size < 1e14, size < 1e17], [SECONDS, MILLISECONDS, MICROSECONDS], NANOSECONDS)
    forms = np.where(known.to_numpy(), forms, UNREAD).astype(np.uint8)
    micro = np.zeros(len(values), dtype=np.int64)
    for form, scale in _SCALES.items():
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
