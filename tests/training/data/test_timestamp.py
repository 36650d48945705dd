"""Times of every form become milliseconds; what a column as a whole decides is decided by the whole."""

from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.data.settling import Settled, Tally, decide_times, tally_times
from training.data.timestamp import Bounds, read_bounds, read_times
from training.errors import InputError

MOMENT = datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
MS = int(MOMENT.timestamp()) * 1000


def settle(series: pl.Series, bounds: Bounds) -> Settled:
    micro, forms = read_times(series, "file")
    return decide_times(tally_times(micro, forms), bounds).settle(micro, forms)


def milliseconds(series: pl.Series, bounds: Bounds | None = None) -> list[int | None]:
    settled = settle(series, bounds or Bounds())
    return [None if bad else int(ms) for ms, bad in zip(settled.ms, settled.bad, strict=True)]


@pytest.mark.parametrize(
    "text",
    [
        "2010-12-01 08:26:00",
        "2010-12-01T08:26",
        "2010-12-01T08:26:00Z",
        "2010-12-01T09:26:00+01:00",
        "20101201T082600",
        " 2010-12-01 08:26:00.0004 ",
        "1291191960",
        "1291191960.0",
        "1.29119196e9",
        "2010-12-01 08:26:00 UTC",
        "2010/12/1 8:26",
        "Wed, 01 Dec 2010 08:26:00 GMT",
    ],
)
def test_times_are_read_from_seconds_and_text(text: str) -> None:
    assert milliseconds(pl.Series([text, "2010-12-01"])) == [MS, MS - (8 * 60 + 26) * 60_000]


@pytest.mark.parametrize(
    "text", ["soon", "NaN", "inf", "2010-13-01", "32/12/2010", "", None, "-1e300", "2010-12-01 25:00", "1e30"]
)
def test_times_that_cannot_be_read_are_bad(text: str | None) -> None:
    assert milliseconds(pl.Series([text, "5"], dtype=pl.String)) == [None, 5000]


@pytest.mark.parametrize(
    "series",
    [
        pl.Series([MS // 1000]),
        pl.Series([MS / 1000]),
        pl.Series([MS]),
        pl.Series([MS * 1000]),
        pl.Series([MS * 1_000_000]),
        pl.Series([float(MS) * 1e6]),
        pl.Series([MS // 1000], dtype=pl.UInt32),
        pl.Series([MS * 1000], dtype=pl.UInt64),
        pl.Series([MS // 1000]).cast(pl.Decimal(20, 2)),
        pl.Series([str(MS // 1000).encode()]),
        pl.Series([MOMENT.replace(tzinfo=None)]),
        pl.Series([MOMENT], dtype=pl.Datetime("ns", "Europe/Berlin")),
        pl.Series([MOMENT], dtype=pl.Datetime("ms", "UTC")),
    ],
)
def test_times_are_read_from_typed_columns_and_any_unit(series: pl.Series) -> None:
    assert milliseconds(series) == [MS]


def test_dates_are_read_as_midnight() -> None:
    assert milliseconds(pl.Series([date(1970, 1, 2), None])) == [86_400_000, None]


@pytest.mark.parametrize(
    "text",
    [
        "2010-12-01T08:26:00,123456Z", "2010-12-01 08:26:00.123456789", "2010-12-01T08:26:00.123456789Z",
        "2010-12-01T09:26:00.123456789+01:00[Europe/Paris]", "1291191960,1234", "1,291,191,960.1234",
    ],
)  # fmt: skip
def test_fractions_of_seconds_are_kept(text: str) -> None:
    assert milliseconds(pl.Series([text])) == [MS + 123]


@pytest.mark.parametrize(
    "text",
    ["1er décembre 2010", "1. Dez. 2010", "1 de diciembre de 2010", "1 dic 2010", "1º dezembro 2010", "1 déc. 2010"],
)
def test_months_of_other_languages_are_read(text: str) -> None:
    assert milliseconds(pl.Series([text])) == [MS - (8 * 60 + 26) * 60_000]


@pytest.mark.parametrize(
    "text",
    [
        "16 jui 2020", "2020-09-16 18:43:01 CEST", "2020-09-16 18:43:01[Europe/Paris]", "2020Q3", "2020-09",
        "1,600,214",
        "1.12.2010.30", "10,20,30,400", "1.600.281,781", "2020-09-16 25:00 GMT+2", "/Date(soon)/",
    ],
)  # fmt: skip
def test_what_may_mean_two_things_is_no_time(text: str) -> None:
    assert milliseconds(pl.Series([text, "2010-12-01"]))[0] is None


def test_nan_and_infinity_are_bad() -> None:
    values = pl.Series([float("nan"), float("inf"), float("-inf"), -1e300, None, 1.5])

    assert milliseconds(values) == [None, None, None, None, None, 1500]


def test_a_number_of_another_unit_than_most_is_bad_and_said() -> None:
    series = pl.Series([1362062307, 1362062308, 1362062307000])

    settled = settle(series, Bounds())

    assert settled.bad.tolist() == [False, False, True]
    assert settled.why(2) == "timestamp 1362062307000 is not in the form of most others, Unix seconds"


@pytest.mark.parametrize(
    ("value", "day"),
    [
        (20130131, datetime(2013, 1, 31)),
        (201301312359, datetime(2013, 1, 31, 23, 59)),
        ("20130131010203", datetime(2013, 1, 31, 1, 2, 3)),
    ],
)
def test_a_column_of_calendar_digits_holds_dates(value: Any, day: datetime) -> None:
    assert milliseconds(pl.Series([value])) == [int(day.replace(tzinfo=UTC).timestamp() * 1000)]


@pytest.mark.parametrize(
    ("rule", "value", "day"),
    [
        ("year", 2014, datetime(2014, 1, 1)),
        ("yyyymm", 201402, datetime(2014, 2, 1)),
        ("excel", 40513.351388888, datetime(2010, 12, 1, 8, 26)),
        ("ms", 5, datetime(1970, 1, 1, 0, 0, 0, 5000)),
        ("s", 1362062307000, None),
        ("day-first", "03/04/2020", datetime(2020, 4, 3)),
        ("month-first", "03/04/2020", datetime(2020, 3, 4)),
    ],
)
def test_a_setting_says_how_times_are_read(rule: str, value: Any, day: datetime | None) -> None:
    found = milliseconds(pl.Series([value]), Bounds(rule, -(1 << 50), 1 << 42))

    assert found == [None if day is None else round(day.replace(tzinfo=UTC).timestamp() * 1000)]


def test_day_and_month_are_told_apart_by_the_rows_that_allow_one_order() -> None:
    days = milliseconds(pl.Series(["03/04/2020", "13/04/2020"]))
    months = milliseconds(pl.Series(["03/04/2020", "04/13/2020"]))

    assert np.diff(np.array(days)).tolist() == [10 * 86_400_000]
    assert np.diff(np.array(months)).tolist() == [40 * 86_400_000]


def test_day_and_month_that_no_row_tells_apart_are_asked_about() -> None:
    with pytest.raises(InputError, match=r"no row of the file decides.*prepare\.times=day-first"):
        milliseconds(pl.Series(["03/04/2020", "05/06/2020"]))


def test_times_outside_the_bounds_are_bad_and_the_year_is_said() -> None:
    series = pl.Series([1_600_000_000, -9_223_372_037, 9_999_999_999])

    settled = settle(series, read_bounds("auto", "1990-01-01", ""))

    assert settled.bad.tolist() == [False, True, True]
    assert settled.why(1) == "implausible timestamp -9223372037: 1677-09-21 00:12:43"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (2014, "bare years"),
        (201402, "yyyymm"),
        (40513.3, "Excel's days"),
        (7, "take them as they are"),
        (16092020, "ddmmyyyy"),
        (9162020, "mmddyyyy"),
        (200916, "yymmdd"),
        (18521, "days since 1970"),
    ],
)
def test_numbers_that_are_no_unix_time_are_named_by_what_they_may_be(value: float, what: str) -> None:
    settled = settle(pl.Series([value, value]), read_bounds("auto", "1990", "2030"))

    assert what in settled.late.hint(2)
    assert settled.late.hint(5) == ""


def test_a_type_that_is_no_time_is_refused() -> None:
    with pytest.raises(InputError, match="a timestamp of type Boolean"):
        milliseconds(pl.Series([True]))


def test_bounds_refuse_nonsense() -> None:
    with pytest.raises(InputError, match=r"prepare\.earliest must be a date"):
        read_bounds("auto", "long ago", "")
    with pytest.raises(InputError, match=r"prepare\.times must be one of"):
        read_bounds("soon", "1990", "")


@given(st.integers(-62_135_596_800_000, 99_999_999_999_000))
def test_every_millisecond_of_text_and_numbers_is_kept(ms: int) -> None:
    assume(not 19_000_101 <= ms // 1000 <= 21_001_231)  # a column of nothing else looks like dates
    text = pl.Series([f"{ms // 1000}.{ms % 1000:03d}"]) if ms >= 0 else None

    assert milliseconds(pl.Series([ms / 1000])) == [ms]
    assert text is None or milliseconds(text) == [ms]


@given(
    values=st.lists(
        st.one_of(st.sampled_from([20130131, 1_600_000_000, 1_600_000_000_000, 7]), st.integers(0, 2**62)), min_size=1
    ),
    cuts=st.lists(st.integers(0, 20)),
)
def test_a_column_means_the_same_in_whatever_chunks_it_is_counted_and_read(values: list[int], cuts: list[int]) -> None:
    micro, forms = read_times(pl.Series(values), "file")
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    chunks = [slice(*pair) for pair in pairwise(edges)]

    whole = decide_times(tally_times(micro, forms), read_bounds("auto", "1990", "2030"))
    meaning = decide_times(sum((tally_times(micro[at], forms[at]) for at in chunks), Tally()), whole.bounds)

    assert meaning == whole
    read = [meaning.settle(micro[at], forms[at]) for at in chunks]
    assert np.concatenate([one.ms for one in read]).tolist() == whole.settle(micro, forms).ms.tolist()
