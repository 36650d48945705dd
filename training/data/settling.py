"""What a column of times settles as a whole: the unit of its numbers, and whether a day or a month stands first.

Plausible times of seconds, milliseconds, microseconds and nanoseconds differ a thousandfold, so a unit is told by the
size of the numbers; a number of another unit than most is malformed. So is a time before `earliest` or after `latest`.

What decides are counts (Tally), and those of chunks add up. So the rows may be counted in one pass and read in another,
chunk by chunk or shard by shard, and mean the same as if they had been read at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from training.data.timestamp import LARGEST, SCALES, UNITS, Bounds, Forms, Int64
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
    SHORT,
    TEXT,
    UNREAD,
    swap_day_and_month,
)

NAMES = {
    SECONDS: "Unix seconds", MILLISECONDS: "Unix milliseconds", MICROSECONDS: "Unix microseconds",
    NANOSECONDS: "Unix nanoseconds", TEXT: "text", DAY_FIRST: "text, day first", MONTH_FIRST: "text, month first",
}  # fmt: skip
_EXCEL_ZERO = -25_569  # Excel's day 0, in days since 1970
_TICKS = ((1, ".NET ticks"), (1601, "Windows file times"))  # units of 100 ns since that year began
_HINTS = (
    (lambda at: (at >= 30_000) & (at <= 60_000), "Excel's days: --set prepare.times=excel"),
    (lambda at: (at >= 1_900) & (at <= 2_100), "bare years: --set prepare.times=year"),
    (
        lambda at: (at >= 190_001) & (at <= 210_012) & (at % 100 >= 1) & (at % 100 <= 12),
        "years and months (yyyymm): --set prepare.times=yyyymm",
    ),
    (
        lambda at: _is_day(at // 10_000) & (at % 10_000 >= 1990) & (at % 10_000 <= 2035),
        r"days as ddmmyyyy or mmddyyyy: sed -E 's/\b([0-9]{1,2})([0-9]{2})((19|20)[0-9]{2})\b/\1.\2.\3/' "
        "FILE > events.csv",
    ),
    (
        lambda at: _is_day(at % 10_000) & (at % 10_000 // 100 <= 12) & (at >= 101) & (at <= 351_231),
        r"days as yymmdd: sed -E 's/\b([0-9]{2})([01][0-9])([0-3][0-9])\b/20\1-\2-\3/' FILE > events.csv",
    ),
    (
        lambda at: (at >= 10_957) & (at <= 23_800),
        "days since 1970; write them times 86,400, or take them as they are: --set prepare.earliest=1677-10-01",
    ),
)
"""What numbers that are no Unix times look like: a test of them [n], and what they are with the way out."""
_DIGITS = ((19_000_101, 21_001_231), (190_001_010_000, 210_012_312_359), (19_000_101_000_000, 21_001_231_235_959))
_LEAST_MS, _MOST_MS = -9_222_508_800_000, 9_214_646_400_000  # 1677-10-01 and 2262-01-01, which settings can say
_BUDDHIST = (
    r"import re; year = re.compile(r'\b2[56]\d\d(?=[-/.])|(?<=[-/.])2[56]\d\d\b'); "
    "[print(year.sub(lambda at: str(int(at[0]) - 543), line), end='') for line in open('FILE')]"
)
_CALENDARS = (
    (2533, 2600, f'the Buddhist calendar; write those of ours: python -c "{_BUDDHIST}" > events.csv'),
    (1340, 1460, "the Persian or the Islamic calendar; write dates of ours"),
)
_NONE = int(np.iinfo(np.int64).min)  # stands for no time


@dataclass(frozen=True)
class Tally:
    """What the times of some rows say about the column. Those of chunks add up to that of the whole."""

    n: int = 0  # rows
    forms: tuple[int, ...] = (0,) * (SHORT + 1)  # how many values have each form
    dates: tuple[int, ...] = (0, 0)  # seconds and milliseconds whose digits are a date
    ticks: tuple[int, ...] = (0, 0)  # nanoseconds that would be of our days as ticks, by _TICKS

    def __add__(self, other: "Tally") -> "Tally":
        """Return what the rows of both say."""
        forms, dates, ticks = (
            tuple(one + two for one, two in zip(ours, theirs, strict=True))
            for ours, theirs in ((self.forms, other.forms), (self.dates, other.dates), (self.ticks, other.ticks))
        )
        return Tally(self.n + other.n, forms, dates, ticks)


@dataclass(frozen=True)
class Late:
    """The times that lie out of bounds, and how many of their numbers look like something else."""

    rows: int = 0
    numbers: int = 0
    looks: tuple[int, ...] = (0,) * len(_HINTS)
    early: int = 0  # numbers and dates before the earliest that is plausible, negative numbers left out
    future: int = 0  # after the latest
    calendars: tuple[int, ...] = (0,) * len(_CALENDARS)  # in our days by other calendars

    def __add__(self, other: "Late") -> "Late":
        """Return the times of both."""
        looks, calendars = (
            tuple(one + two for one, two in zip(ours, theirs, strict=True))
            for ours, theirs in ((self.looks, other.looks), (self.calendars, other.calendars))
        )
        return Late(
            self.rows + other.rows,
            self.numbers + other.numbers,
            looks,
            self.early + other.early,
            self.future + other.future,
            calendars,
        )

    def hint(self, n_rows: int) -> str:
        """Return what most of the numbers may be, with the setting that reads them so; empty where few are late."""
        if self.rows <= 0.5 * n_rows:
            return ""
        for (_, what), count in zip(_HINTS, self.looks, strict=True):
            if self.numbers and count > 0.5 * self.numbers:
                return f"perhaps {what}"
        for (_, _, what), count in zip(_CALENDARS, self.calendars, strict=True):
            if count > 0.5 * self.rows:
                return f"perhaps years of {what}"
        for name, count, least in (("earliest", self.early, "1677-10-01"), ("latest", self.future, "2262-01-01")):
            if count > 0.5 * self.rows:
                return f"to take them as they are: --set prepare.{name}={least}"
        return ""


@dataclass(frozen=True, eq=False)
class Settled:
    """Some rows of a column of times."""

    ms: Int64  # [n_rows]; 0 where it is bad
    bad: NDArray[np.bool_]  # [n_rows], times that are not plausible or of another unit than most
    why: Callable[[int], str]  # a bad position -> what is wrong there
    late: Late


@dataclass(frozen=True)
class Meaning:
    """What the column as a whole has settled, and how each of its values is read by it."""

    bounds: Bounds
    unit: int  # of its numbers, by their size; that of the rule where it names one
    has_numbers: bool
    is_dates: bool  # the digits of its numbers are dates
    ticks_since: int | None  # microseconds of the day since which numbers count units of 100 ns; None: they do not
    days: int  # DAY_FIRST, MONTH_FIRST; 0 where no value needs it
    said: tuple[str, ...]  # the form, for a person

    def settle(self, microseconds: Int64, forms: Forms) -> Settled:
        """Read values in milliseconds. microseconds, forms: of read_times [n_rows], any rows of the column."""
        micro, bad = microseconds.copy(), forms == UNREAD
        is_number = (forms >= SECONDS) & (forms <= NANOSECONDS)
        if self.has_numbers:
            self._settle_numbers(micro, bad, forms)
        if self.days:
            either = np.flatnonzero(forms == EITHER)
            if self.days == MONTH_FIRST and len(either):
                distinct, where = np.unique(micro[either], return_inverse=True)
                micro[either] = np.array([swap_day_and_month(int(one)) for one in distinct])[where]
            bad |= np.isin(forms, [DAY_FIRST, SHORT] if self.days == MONTH_FIRST else [MONTH_FIRST])
        other = bad & (forms != UNREAD)
        ms = (micro + 500) // 1000
        late = (~bad) & ((ms < self.bounds.earliest_ms) | (ms > self.bounds.latest_ms))
        ms[bad | late] = 0

        def why(position: int) -> str:
            value = _shown(int(microseconds[position]), int(forms[position]))
            if not other[position]:
                return f"implausible timestamp {value}: {_year(int(micro[position]))}"
            return f"timestamp {value} is not in the form of most others, {self.said[0]}"

        return Settled(ms, bad | late, why, self._late(micro[late], microseconds[late], is_number[late]))

    def _late(self, micro: Int64, told: Int64, is_number: NDArray[np.bool_]) -> Late:
        """Return what times that lie out of bounds look like. told: the values as they stand in the file."""
        seconds = told[is_number] / 1e6
        looks = tuple(int(looks_so(seconds).sum()) for looks_so, _ in _HINTS)
        ms = micro // 1000
        early = (ms < self.bounds.earliest_ms) & (ms >= _LEAST_MS) & ~(is_number & (told < 0))
        future = (ms > self.bounds.latest_ms) & (ms < _MOST_MS)
        calendars = tuple(
            int((~is_number & (micro >= _year_start(first)) & (micro < _year_start(last))).sum())
            for first, last, _ in _CALENDARS
        )
        return Late(len(micro), len(seconds), looks, int(early.sum()), int(future.sum()), calendars)

    def _settle_numbers(self, micro: Int64, bad: NDArray[np.bool_], forms: Forms) -> None:
        """Read the numbers in their unit, in place."""
        is_number = (forms >= SECONDS) & (forms <= NANOSECONDS)
        rule = self.bounds.rule
        if rule in UNITS:
            for form, scale in SCALES.items():
                at = forms == form
                if form != self.unit:
                    micro[at] = np.clip(np.round(micro[at] * (SCALES[self.unit] / scale)), -LARGEST, LARGEST)
            return
        if rule in ("year", "yyyymm", "excel"):
            at = is_number & (forms == SECONDS)
            micro[at] = np.array([_calendar(rule, value) for value in micro[at] / 1e6], dtype=np.int64)
            bad |= is_number & ~at | (micro == _NONE)
            return
        at = forms == self.unit
        bad |= is_number & ~at
        if self.is_dates:
            micro[at] = _dates(micro[at], self.unit)
            bad |= micro == _NONE
        elif self.ticks_since is not None:
            micro[at] = micro[at] * 100 + self.ticks_since


def tally_times(microseconds: Int64, forms: Forms) -> Tally:
    """Return what some rows of a column say about it. microseconds, forms: of read_times [n_rows]."""
    counts = np.bincount(forms, minlength=SHORT + 1).tolist()
    seconds, milliseconds = (
        int((_dates(microseconds[forms == unit], unit) != _NONE).sum()) for unit in (SECONDS, MILLISECONDS)
    )
    as_ticks = microseconds[forms == NANOSECONDS]
    low, high = _year_start(1990), _year_start(2035)
    ticks = (as_ticks * 100 + _year_start(year) for year, _ in _TICKS)
    of_our_days = tuple(int(((one >= low) & (one <= high)).sum()) for one in ticks)
    return Tally(len(forms), tuple(counts), (seconds, milliseconds), of_our_days)


def decide_times(tally: Tally, bounds: Bounds) -> Meaning:
    """Decide what the values of a whole column mean. Raises InputError where day and month cannot be told apart."""
    counts, rule = tally.forms, bounds.rule
    numbers = [form for form in SCALES if counts[form]]
    unit = UNITS.get(rule) or max(numbers, key=lambda form: counts[form], default=SECONDS)
    days = _day_order(counts, rule)
    n_dates = dict(zip((SECONDS, MILLISECONDS), tally.dates, strict=True)).get(unit, 0)
    is_dates = rule not in (*UNITS, "year", "yyyymm", "excel") and n_dates > 0.9 * counts[unit]
    ticks = _ticks(tally) if unit == NANOSECONDS and rule == "auto" else None
    said = []
    if numbers and rule in ("year", "yyyymm", "excel"):
        said.append(rule)
    elif numbers and is_dates:
        said.append("dates of digits (yyyymmdd)" if unit == SECONDS else "times of digits (yyyymmddHHMM)")
    elif numbers:
        said.append(NAMES[unit] if ticks is None else ticks[1])
    said += [NAMES[form] for form in (days, TEXT if counts[TEXT] else 0) if form]
    return Meaning(bounds, unit, bool(numbers), is_dates, ticks and _year_start(ticks[0]), days, tuple(said))


def _ticks(tally: Tally) -> tuple[int, str] | None:
    """Return the units of 100 ns that most numbers are, which were taken for nanoseconds; None where they are.

    Such numbers of our days would be nanoseconds before May of 1990.
    """
    n = tally.forms[NANOSECONDS]
    return next((one for one, count in zip(_TICKS, tally.ticks, strict=True) if count > 0.5 * n), None)


def _year_start(year: int) -> int:
    """Return the microseconds of the first of January."""
    return (datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def _dates(micro: Int64, unit: int) -> Int64:
    """Return the microseconds of numbers whose digits are dates [n], the least number where they are none."""
    found = np.full(len(micro), _NONE, dtype=np.int64)
    digits = micro // SCALES[unit]
    may = np.logical_or.reduce([(digits >= low) & (digits <= high) for low, high in _DIGITS])
    if may.any():
        distinct, where = np.unique(digits[may], return_inverse=True)
        found[may] = np.array([_from_digits(int(value)) for value in distinct], dtype=np.int64)[where]
    return found


def _from_digits(number: int) -> int:
    """Return the microseconds of yyyymmdd, yyyymmddHHMM or yyyymmddHHMMSS, or the least number where it is none."""
    text = str(number)
    formats = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
    if len(text) in formats and "1900" <= text[:4] <= "2100":
        try:
            moment = datetime.strptime(text, formats[len(text)]).replace(tzinfo=UTC)
        except ValueError:
            return _NONE
        return (moment - EPOCH) // timedelta(microseconds=1)
    return _NONE


def _calendar(rule: str, value: float) -> int:
    """Return the microseconds of a bare year, of yyyymm or of Excel's days; the least number where it is none."""
    if rule == "excel":
        return round((value + _EXCEL_ZERO) * 86_400) * 10**6
    year, month = (int(value), 1) if rule == "year" else divmod(int(value), 100)
    if not (1 <= year <= 9999 and 1 <= month <= 12):
        return _NONE
    return (datetime(year, month, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def _day_order(counts: Sequence[int], rule: str) -> int:
    """Return whether the day or the month stands first; 0 where no value needs it. Raises InputError if open."""
    days_first = counts[DAY_FIRST] + counts[SHORT]
    if not days_first + counts[MONTH_FIRST] + counts[EITHER]:
        return 0
    if rule in ("day-first", "month-first"):
        return DAY_FIRST if rule == "day-first" else MONTH_FIRST
    if counts[SHORT] and not counts[DAY_FIRST] + counts[MONTH_FIRST]:
        raise InputError(
            "times such as 20-09-16 may have the year first or the day, and no row of the file decides. Write years of "
            "four digits; or, where the day stands first: --set prepare.times=day-first"
        )
    if days_first == counts[MONTH_FIRST]:
        raise InputError(
            "times such as 03/04/2020 may have the day first or the month, and no row of the file decides. Say which: "
            "--set prepare.times=day-first, or --set prepare.times=month-first"
        )
    return DAY_FIRST if days_first > counts[MONTH_FIRST] else MONTH_FIRST


def _is_day(digits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of each number whether its digits are a day and a month, in either order [n]."""
    first, second = digits // 100, digits % 100
    return (np.minimum(first, second) >= 1) & (np.minimum(first, second) <= 12) & (np.maximum(first, second) <= 31)


def _shown(microseconds: int, form: int) -> str:
    if form in SCALES:
        number = microseconds / SCALES[form]
        return f"{number:.0f}" if number == round(number) else str(number)
    return _year(microseconds)


def _year(microseconds: int) -> str:
    try:
        return (EPOCH + timedelta(microseconds=microseconds)).isoformat(sep=" ", timespec="seconds")[:19]
    except OverflowError:
        return "beyond the calendar"
