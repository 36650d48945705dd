"""One time as text: ISO 8601 and the other forms that people's files have, to microseconds since 1970 (UTC).

A form is read only where it cannot mean two things. `03/04/2020` can: it is returned as such, and the whole column,
or a setting, decides whether the day or the month stands first. Without a zone a time is taken as UTC.
"""

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from functools import lru_cache

UNREAD, SECONDS, MILLISECONDS, MICROSECONDS, NANOSECONDS, TEXT, DAY_FIRST, MONTH_FIRST, EITHER, SHORT = range(10)
"""How a value was read: a number by its size, text of one meaning, or a day and a month in some order.

SHORT: with the day first; but its year of two digits may as well stand first, as in 20-09-16.
"""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
CLOCK = (
    r"(?:(\d{1,2})(?:[:.h](\d{2})(?:[:.](\d{2})(?:[.,](\d+))?)?|(?=\s*[AaPp]\.?\s?[Mm]))"
    r"\s*(?:([AaPp])\.?\s?(?:[Mm]\.?)?)?(?:\s?Uhr)?)?"
)
ZONE = (
    r"\s*(?:(Z|z|UTC|GMT|(?:(?:UTC|GMT)\s?[+-]\d{1,2}|[+-]\d{2})(?::?\d{2})?)"
    r"(?:\[[\w/+-]+\]|\s+\([^()]+\)|\s+[A-Z]{3,5}(?:\sm=\S+)?)?)?$"  # a region or a name behind an offset says it again
)
_YEAR_FIRST = re.compile(r"^(\d{4})[-/._](\d{1,2})[-/._](\d{1,2})(?:[T\s_]+" + CLOCK + ")?" + ZONE)
_YEAR_LAST = re.compile(r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4}|\d{2})(?:[T,\s]+" + CLOCK + ")?" + ZONE)
_WORD = r"([^\W\d_]{3,10})"
_DAY_NAME = r"^(?:[^\W\d_]{2,13}(?:-feira)?\.?,?\s+)?"
_OF_DAY = r"(?:[T:,\s]+(?:(?:at|à|às|alle|a las|um)\s)?" + CLOCK + ")?" + ZONE
_DAY_MONTH = re.compile(
    _DAY_NAME
    + r"(\d{1,2})(?:st|nd|rd|th|er|º|°)?[\s\-/.]+(?:de\s)?"
    + _WORD
    + r"\.?[\s\-/.,]+(?:del?\s)?(\d{4}|\d{2})"
    + _OF_DAY
)
_MONTH_DAY = re.compile(_DAY_NAME + _WORD + r"\.?[\s\-/]+(\d{1,2})(?:st|nd|rd|th)?,?[\s\-/]+(\d{4})" + _OF_DAY)
_UNIX_DATE = re.compile(
    r"^[A-Za-z]{3},?\s+([A-Za-z]{3})\s+(\d{1,2})\s+([\d:.]+(?:\s[AP]M)?)\s+(\S+\s+)?(\d{4})$"
)  # date(1), Twitter
_WRAPPED = re.compile(
    r"""^(?:\\?/Date\(|(?:new\s)?Date\(|ISODate\(|NumberLong\(|Timestamp\(|\{"\$date":\s*(?:\{"\$numberLong":\s*)?)"""
    r"""["']?(-?\d{9,13}|\d{4}-\d\d-\d\d[^"'(){}]*)(?:[+-]\d{4})?["']?[)}]+(?:\\?/)?$"""
)  # .NET's JSON, MongoDB's, JavaScript, pandas: Unix time, which an offset does not change, or text
_REWRITTEN = [
    (re.compile(pattern), into)
    for pattern, into in (
        (r"^(\d{4}-\d\d-\d\d)-(\d\d)\.(\d\d)\.(\d\d)", r"\1 \2:\3:\4"),  # DB2
        (r"^(\d{4}):(\d\d):(\d\d)\b", r"\1-\2-\3"),  # Exif
        (r"^(\d{1,2})([A-Za-z]{3})(\d{4})\b", r"\1 \2 \3"),  # SAS
        (r"^(\d{4})[\s\-/.]+" + _WORD + r"[\s\-/.]+(\d{1,2})\b", r"\3 \2 \1"),
        (r"^(\d{4})\s?[年년]\s?(\d{1,2})\s?[月월]\s?(\d{1,2})\s?[日일]", r"\1-\2-\3"),
    )
]
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-")
_MONTHS = [
    "january janvier januar janner enero janeiro gennaio januari",
    "february fevrier februar feber febrero fevereiro febbraio februari",
    "march mars marz maerz marzo marco maart mrt",
    "april avril abril aprile",
    "may mai mayo maio maggio mei maj",
    "june juin juni junio junho giugno",
    "july juillet juli julio julho luglio",
    "august aout agosto augustus",
    "september septembre septiembre setiembre setembro settembre",
    "october octobre oktober octubre outubro ottobre",
    "november novembre noviembre novembro",
    "december decembre dezember diciembre dezembro dicembre",
]
"""The names of each month in English, French, German, Spanish, Portuguese, Italian and Dutch, without accents."""
_NUMBER = re.compile(r"^[0-9]{8,19}(\.[0-9]*)?$")


def latest() -> datetime:
    """Return the end of tomorrow, after which no event can have happened yet."""
    return datetime.now(UTC) + timedelta(days=1)


def read_moment(text: str) -> tuple[int, int]:
    """Return the microseconds since 1970 of a text and how it was read; UNREAD where it is no time.

    Where day and month may be either, the microseconds are those with the day first.
    """
    if (found := _iso(text)) is not None or (found := _iso(text := _plain(text))) is not None:
        return found, TEXT
    for pattern, read in ((_YEAR_FIRST, _year_first), (_YEAR_LAST, _year_last), (_DAY_MONTH, _day_month)):
        if match := pattern.match(text):
            return read(match)
    if match := _MONTH_DAY.match(text):
        name, day, year, *rest = match.groups()
        return _read(year, _month(name), day, rest)
    if match := _UNIX_DATE.match(text):
        month, day, clock, zone, year = match.groups()
        return read_moment(f"{day} {month} {year} {clock} {zone or ''}".strip())
    return 0, UNREAD


def swap_day_and_month(microseconds: int) -> int:
    """Return the microseconds with the month first of a time that was read with the day first."""
    moment = EPOCH + timedelta(microseconds=microseconds)
    return _microseconds(moment.replace(day=moment.month, month=moment.day))


def is_plausible(text: str) -> bool:
    """Say whether a text is a time between 1990 and tomorrow: for telling a column of times from others."""
    text = text.strip()
    if _NUMBER.match(text):
        number = float(text)
        first, last = EARLIEST.timestamp(), latest().timestamp()
        calendar = 1.99e7 < number < 2.2e7 or 1.99e13 < number < 2.2e13
        return calendar or any(first * scale <= number <= last * scale for scale in (1, 1e3, 1e6, 1e9))
    microseconds, form = read_moment(text) if len(text) >= 8 else (0, UNREAD)
    return form != UNREAD and microseconds >= EARLIEST.timestamp() * 1e6


def _year_first(match: re.Match[str]) -> tuple[int, int]:
    year, month, day, *rest = match.groups()
    return _read(year, int(month), day, rest)


def _year_last(match: re.Match[str]) -> tuple[int, int]:
    first, second, year, *rest = match.groups()
    day_first, month_first = (_made(year, int(m), d, rest) for m, d in ((second, first), (first, second)))
    if day_first is not None and month_first is not None:
        return day_first, EITHER
    if day_first is not None:
        year_first = _made(first, int(second), year, rest) if len(year) == 2 and "." not in match[0][:3] else None
        now = _microseconds(latest())
        return day_first, SHORT if year_first is not None and max(day_first, year_first) <= now else DAY_FIRST
    return (month_first, MONTH_FIRST) if month_first is not None else (0, UNREAD)


def _day_month(match: re.Match[str]) -> tuple[int, int]:
    day, month, year, *rest = match.groups()
    return _read(year, _month(month), day, rest)


def _read(year: str, month: int, day: str, rest: list[str | None]) -> tuple[int, int]:
    made = _made(year, month, day, rest)
    return (made, TEXT) if made is not None else (0, UNREAD)


def _made(year: str, month: int, day: str, rest: list[str | None]) -> int | None:
    """Return the microseconds of a date and of hour, minute, second, fraction, half of the day and zone, or None."""
    hour, minute, second, fraction, half, zone = rest
    hours = int(hour or 0)
    if half:
        if not 1 <= hours <= 12:
            return None
        hours = hours % 12 + (12 if half in "pP" else 0)
    days, hours = divmod(hours, 24) if hours == 24 and not int(minute or 0) + int(second or 0) else (0, hours)
    full_year = int(year) + (0 if len(year) == 4 else 2000 if int(year) < 70 else 1900)
    micro = int((fraction or "0").ljust(6, "0")[:6])
    try:
        moment = datetime(full_year, month, int(day), hours, int(minute or 0), int(second or 0), micro, tzinfo=UTC)
    except ValueError:
        return None
    return _microseconds(moment + timedelta(days=days) - _offset(zone))


def _offset(zone: str | None) -> timedelta:
    found = re.search(r"([+-])(\d{1,2}):?(\d{2})?$", zone or "")
    if found is None:
        return timedelta()
    offset = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
    return -offset if found[1] == "-" else offset


def _iso(text: str) -> int | None:
    try:
        return _microseconds(datetime.fromisoformat(text))
    except ValueError:
        return None


def _plain(text: str) -> str:
    """Return a time without what other programs wrap around it, in the order and with the signs of usual ones."""
    text = text.strip("[]") if text[:1] == "[" else text  # as web servers log it
    text = text.translate(_DASHES)
    if match := _WRAPPED.match(text):
        text = match[1]
        if text.lstrip("-").isdecimal():
            number = int(text)
            return (EPOCH + timedelta(milliseconds=number if abs(number) >= 10**11 else number * 1000)).isoformat()
    for pattern, into in _REWRITTEN:
        text = pattern.sub(into, text)
    return text


@lru_cache(maxsize=1000)
def _month(name: str) -> int:
    """Return the number of a month by its name or the start of it; 0 where it is none, or could be two."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", name.lower()) if not unicodedata.combining(sign))
    found = {
        number for number, names in enumerate(_MONTHS, start=1) for each in names.split() if each.startswith(plain)
    }
    return found.pop() if len(found) == 1 else 0


def _microseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)
