"""Turn the times of a file, whatever their form, into whole milliseconds since 1970 (UTC).

Numbers are Unix seconds. Text is a number or any ISO 8601 form that datetime.fromisoformat reads; without a zone it is
taken as UTC. Numbers are never guessed to be milliseconds: one above 1e11 stops the run, because nobody would notice a
wrong guess.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl

from training.errors import InputError

MAX_SECONDS = 1e11  # the year 5138; read as milliseconds, 1973
_CALENDAR_DAYS = (19_000_101, 21_001_231)  # a column of nothing but such numbers holds dates, yyyymmdd
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"

Where = Callable[[int], str]  # position in the column -> the row's name for a message


def parse_timestamps(series: pl.Series, where: Where) -> pl.Series:
    """Return milliseconds since 1970 as Int64, null where a value cannot be read.

    where: names the row of a position. Raises InputError for numbers that are no Unix seconds and for other types.
    """
    dtype = series.dtype
    if dtype.is_numeric():
        return _from_seconds(series, where)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return _from_text(series.cast(pl.String).str.strip_chars(), where)
    if dtype in (pl.Datetime, pl.Date):
        return (series.cast(pl.Datetime("us")).dt.timestamp("us") + 500) // 1000
    raise InputError(f"{where(0)}: a timestamp of type {dtype}; give Unix seconds or ISO text")


def _from_seconds(seconds: pl.Series, where: Where) -> pl.Series:
    if not seconds.dtype.is_integer():
        seconds = seconds.cast(pl.Float64)
        seconds = seconds.set((~seconds.is_finite()).fill_null(True), None)
    too_large = (seconds > MAX_SECONDS).arg_true()
    if len(too_large):
        position = too_large[0]
        raise InputError(
            f"{where(position)}: timestamp {seconds[position]:.0f} is above 1e11: are these milliseconds? "
            "Timestamps are Unix seconds: divide the column by 1000, or write ISO times"
        )
    if len(seconds.drop_nulls()) and seconds.is_between(*_CALENDAR_DAYS).all():
        raise InputError(
            f"{where(0)}: timestamp {seconds.drop_nulls()[0]:.0f}: are these dates? As Unix seconds all of them lie in "
            "August 1970. Write them as ISO dates: 2013-12-31"
        )
    seconds = seconds.set((seconds < -MAX_SECONDS).fill_null(True), None)
    if seconds.dtype.is_integer():
        return seconds.cast(pl.Int64) * 1000
    return (seconds * 1000).round().cast(pl.Int64)


def _from_text(text: pl.Series, where: Where) -> pl.Series:
    is_number = text.str.contains(_NUMBER).fill_null(False)
    milliseconds = _from_seconds(text.set(~is_number, None).cast(pl.Float64, strict=False), where)
    if is_number.all():
        return milliseconds
    distinct = text.filter(~is_number).drop_nulls().unique()
    parsed = pl.Series([_parse_iso(value) for value in distinct.to_list()], dtype=pl.Int64)
    from_iso = text.replace_strict(distinct, parsed, default=None, return_dtype=pl.Int64)
    return milliseconds.zip_with(is_number, from_iso)


def _parse_iso(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH + timedelta(microseconds=500)) // timedelta(milliseconds=1)
