"""See from its first lines how a file of text is laid out: delimiter, header, comments, names of rows.

Every finding is said, and each can be given instead: `prepare.delimiter`, `prepare.quote`, `prepare.header`, and
names or places of columns.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.errors import InputError
from training.file.account import Form
from training.file.choice import PRINTED, Choice, propose, shown
from training.file.delimited import Layout, split_line
from training.file.moment import is_plausible
from training.file.shape import say_shape

DELIMITERS = (",", "\t", ";", "|", "::", "\x01", "\x1f", " ")
WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ", "\\x01": "\x01"}
_TYPED = re.compile(r"^(.+):(token|float|token_seq|float_seq)$")  # RecBole's headers: user_id:token
_SEPARATOR_LINE = re.compile(r"^\"?sep=(.)\"?$", re.IGNORECASE)  # what Excel writes above a table
_MOST_LINES = 50  # of a row; a quote that is closed later is none
_MOST_TITLES = 20  # lines among which a header is looked for
_BROKEN = re.compile(r"^-?[0-9]*[.,][0-9]+$")
_RATING = re.compile(r"^(10|[0-9])([.,][05]0*)?$")
_CLOCK = re.compile(r"^\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?$")
_WIDEST = 12  # columns among which places are looked for
_LEAST = 10  # rows to a rating that are more than items have in a few rows
_NUMBER = re.compile(r"^[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?$")


@dataclass(frozen=True)
class Seen:
    """What the first lines show."""

    layout: Layout
    header: list[str]  # the names of the fields; their places where there is no header
    offset: int  # fields before the first named one
    found: dict[str, str]  # what is said of it
    sample: dict[str, list[str]]  # the first values of the fields that are not wanted

    def name_of(self, ours: str) -> str:
        """Return the file's name of a wanted field."""
        return self.header[self.layout.fields[ours] - self.offset]

    def unused(self) -> list[str]:
        """Return the fields that are not wanted."""
        return list(self.sample)


@dataclass(frozen=True)
class _Top:
    """The first lines without comments."""

    lines: list[str]
    numbers: list[int]  # of the lines in the file
    delimiter: str  # that a line above the table names
    n_titles: int  # lines above the header that are none of the table


def see_layout(label: str, sample: list[str], form: Form, choice: Choice, suffix: str) -> Seen:
    """Return the layout of a file. suffix: of its name, which decides between delimiters that fit as well.

    Raises InputError where a column that is required is not there, with the option that names it.
    """
    top = _top(sample, choice)
    if not top.lines:
        raise InputError(f"{label}: no rows; the file needs at least one")
    if not choice.columns and (shape := say_shape(top.lines, choice.needed().values())):
        raise InputError(f"{label}: {shape}")
    delimiter = WORDS.get(form.delimiter, form.delimiter) or top.delimiter or _delimiter(top.lines, choice, suffix)
    if delimiter == " " and not form.delimiter and re.search(r"\S {2,}\S", top.lines[0]):
        raise InputError(f"{label}:{top.numbers[0]}: {PRINTED}")
    quote = form.quote if len(delimiter) == 1 else ""
    rows = [split_line(line, delimiter, quote) for line in _whole_rows(top.lines, delimiter, quote)]
    first = [name.strip().lstrip("\ufeff") for name in rows[0]]
    if first and first[0].startswith("#") and first[0].lstrip("# ") in choice.needed().values():
        first[0] = first[0].lstrip("# ")
    typed = [_TYPED.match(name) for name in first]
    if all(typed):
        first = [match[1] for match in typed if match]
    header, has_header, why = _header(label, first, rows, form, choice)
    offset, loose, note = _shape(header, rows[1:] if has_header else rows, has_header=has_header)
    where = f"{label}:{top.numbers[0]}" if has_header else label
    header = _distinct(where, header, choice)
    picked = _picked(where, header, choice, rows[1:])
    fields = {ours: header.index(theirs) + offset for ours, theirs in picked.items()}
    start = top.numbers[0] + has_header
    said = {"delimiter": _shown(delimiter), "header": why or ("RecBole's types" if all(typed) else "yes")}
    if note:
        said["shape"] = note
    if top.n_titles:
        said["header"] = f"line {top.numbers[0]}, what stands above it is left out"
    data = [row for row in rows[has_header:] if len(row) >= len(header) + offset]
    rest = {name: place + offset for place, name in enumerate(header) if name and place + offset not in fields.values()}
    values = {name: [row[at] for row in data] for name, at in rest.items()}
    names = tuple(name.strip().lstrip("\ufeff") for name in rows[0]) if has_header else ()
    skips = _skips_blanks(top.lines[has_header:], delimiter, quote)
    layout = Layout(delimiter, quote, len(header) + offset, start, fields, loose, names, skips)
    return Seen(layout, header, offset, said, values)


def _top(sample: list[str], choice: Choice) -> _Top:
    """Skip blank lines, comments and Excel's sep= above the table."""
    numbered = [(number, line) for number, line in enumerate(sample, start=1) if line.strip()]
    delimiter = ""
    if numbered and (match := _SEPARATOR_LINE.match(numbered[0][1].strip().lstrip("\ufeff"))):
        delimiter, numbered = match[1], numbered[1:]
    needed = set(choice.needed().values())
    while len(numbered) > 1 and numbered[0][1].startswith(("#", "%")):
        words = set(re.split(r"[^\w.-]+", numbered[0][1].lstrip("#% ")))
        if words & needed:
            break
        numbered = numbered[1:]
    n_titles = _titles([line for _, line in numbered[:_MOST_TITLES]], needed)
    numbered = numbered[n_titles:]
    return _Top([line for _, line in numbered], [number for number, _ in numbered], delimiter, n_titles)


def _titles(lines: list[str], needed: set[str]) -> int:
    """Return how many lines above the header are a title, as reports have one.

    The header is the first line that has all names that are needed. 0 where it is the first, or is not found.
    """
    for delimiter in DELIMITERS:
        rows = [[name.strip().lstrip("\ufeff") for name in split_line(line, delimiter)] for line in lines]
        at = next((at for at, row in enumerate(rows) if needed and needed <= set(row)), 0)
        is_named = not any(name.isdecimal() for name in needed)
        if at and (is_named or max(len(list(filter(None, row))) for row in rows[:at]) < len(rows[at])):
            return at
    return 0


def _delimiter(lines: list[str], choice: Choice, suffix: str) -> str:
    """Return the delimiter that splits the header into our names, or else the rows most evenly into most fields."""
    needed, best, best_key = set(choice.needed().values()), "," if suffix != ".tsv" else "\t", (0, 0, 0.0, 0, 0)
    for place, delimiter in enumerate(DELIMITERS):
        rows = [split_line(line, delimiter) for line in _whole_rows(lines[:200], delimiter)]
        widths = Counter(map(len, rows))
        width, count = widths.most_common(1)[0]
        names = {re.sub(r":\w+$", "", name.strip().lstrip("\ufeff# ")) for name in rows[0]}
        meets = len(needed & names)
        if width < 2 or count < 0.6 * len(rows):
            continue
        key = (meets, int(delimiter != " "), round(count / len(rows), 1), width, -place)
        if key > best_key:
            best, best_key = delimiter, key
    return best


def _whole_rows(lines: list[str], delimiter: str, quote: str = '"') -> list[str]:
    """Return lines where those that a quoted text goes over are one; a quote that nothing closes opens none."""
    if not quote:
        return lines
    found, at = lines[:1], 1  # a header has one line
    while at < len(lines):
        n_lines = 1
        while n_lines < _MOST_LINES and _is_open("\n".join(lines[at : at + n_lines]), delimiter, quote):
            n_lines += 1
        n_lines = 1 if n_lines == _MOST_LINES or at + n_lines > len(lines) else n_lines
        found.append("\n".join(lines[at : at + n_lines]))
        at += n_lines
    return found


def _is_open(text: str, delimiter: str, quote: str) -> bool:
    """Say whether the last field of a text begins with a quote that is not closed."""
    at = 0
    while True:
        while delimiter != " " and text.startswith(" ", at):
            at += 1
        if text.startswith(quote, at):
            at = text.find(quote, at + 1)
            while at >= 0 and text.startswith(quote, at + 1):  # two of them stand for one
                at = text.find(quote, at + 2)
            if at < 0:
                return True
        at = text.find(delimiter, at)
        if at < 0:
            return False
        at += len(delimiter)


def _header(
    label: str, first: list[str], rows: list[list[str]], form: Form, choice: Choice
) -> tuple[list[str], bool, str]:
    """Return the names of the fields, whether the first row holds them, and what is said where it does not."""
    places = [str(number + 1) for number in range(len(rows[0]))]
    needed = choice.needed()
    is_counted = first == [str(at) for at in range(len(first))]  # the names that pandas gives
    given = {ours: at for ours, at in choice.columns.items() if at.isdecimal() and not is_counted}
    words = set(needed.values()) - set(given.values())
    if form.header == "yes" or (form.header == "auto" and (words & set(first) or is_counted)):
        return first, True, ""
    if given:
        has_names = form.header == "auto" and _has_names(rows, given)
        return (first, True, "yes, columns by their places") if has_names else (places, False, "none")
    looks_like_data = any(_NUMBER.match(value.strip()) or is_plausible(value) for value in rows[0])
    if form.header == "auto" and not looks_like_data:
        return first, True, ""
    guess = _guess(rows) if not choice.columns else None
    if guess and "user_id" in needed:
        by_place = [next((ours for ours, at in guess.items() if at == place), place) for place in places]
        return by_place, False, "none: " + ", ".join(f"{ours} is column {at}" for ours, at in guess.items())
    if choice.columns and form.header == "auto":
        return first, True, ""
    example = _likely_places(rows) if "user_id" in needed else "item_id=1,title=2"
    raise InputError(
        f"{label}:1: no header: the first row is {', '.join(map(shown, rows[0][:8]))}. Name the columns by their "
        f"places, counted from 1, for example {choice.option} {example}, or write a header"
    )


def _has_names(rows: list[list[str]], given: Mapping[str, str]) -> bool:
    """Say whether the first row holds names where columns are given by their places: known ones, or no time."""

    def cell(row: int, place: str) -> str:
        return rows[row][int(place) - 1] if int(place) <= len(rows[row]) else ""

    if any(propose(ours, [cell(0, place)]) for ours, place in given.items()):
        return True
    time = given.get("timestamp")
    return time is not None and len(rows) > 1 and not _is_time(cell(0, time)) and _is_time(cell(1, time))


def _is_time(text: str) -> bool:
    return bool(_NUMBER.match(text.strip())) or is_plausible(text)


def _picked(where: str, header: list[str], choice: Choice, rows: list[list[str]]) -> dict[str, str]:
    """Return the columns to keep. Where nothing of the header is known, the refusal says that it may be none."""
    try:
        return choice.pick(where, header)
    except InputError as exc:
        if len(header) < 2 or any(propose(ours, header) for ours in (*choice.required, *choice.optional)):
            raise
        places = ",".join(f"{ours}={at}" for at, ours in enumerate(choice.required, start=1))
        if "user_id" in choice.required and rows and len(rows[0]) == len(header):
            places = _likely_places(rows)
        raise InputError(f"{exc}; or, where the first row is no header, its place: {choice.option} {places}") from exc


def _distinct(where: str, header: list[str], choice: Choice) -> list[str]:
    """Return the names, with its place beside each that stands more than once. Raises InputError if one is wanted."""
    for ours in (*choice.required, *choice.optional):
        theirs = choice.columns.get(ours, ours)
        if header.count(theirs) > 1:
            raise InputError(
                f"{where}: two columns are named {theirs}; rename one, or name it by its place, counted from 1: "
                f"{choice.option} {ours}={header.index(theirs) + 1}"
            )
    places = set(choice.columns.values())
    return [
        f"{name} ({at})" if name and header.count(name) > 1 else name or (str(at) if str(at) in places else "")
        for at, name in enumerate(header, start=1)
    ]


def _guess(rows: list[list[str]]) -> dict[str, str] | None:
    """Return the places of user, item and time in a table of three or four columns whose times are plain to see."""
    columns = _columns(rows)
    times = [at for at, values in enumerate(columns) if all(map(is_plausible, values))]
    if len(columns) in (3, 4) and len(times) == 1 and times[0] >= 2 and all(map(_may_be_ids, columns[:2])):
        return {"user_id": "1", "item_id": "2", "timestamp": str(times[0] + 1)}
    return None


def _likely_places(rows: list[list[str]]) -> str:
    """Return the places of user, item and time of a table without a header, as far as its values tell."""
    columns = _columns(rows)
    times = [at for at, values in enumerate(columns) if all(map(is_plausible, values))]
    clock = next((at for at, values in enumerate(columns) if all(map(_CLOCK.match, values))), None)
    ids = [at for at, values in enumerate(columns) if at not in (*times, clock) and _may_be_ids(values)]
    numbered = [at for at in ids if len(set(columns[at])) < len(columns[at])]  # not that of a row
    ids = numbered if len(numbered) > 1 else ids
    if len(columns) > _WIDEST:
        return "user_id=PLACE,item_id=PLACE"
    user, item = (str(at + 1) for at in ids[:2]) if len(ids) > 1 else ("PLACE", "PLACE")
    time = "" if not times else f",timestamp={times[0] + 1}" + (f"+{clock + 1}" if clock is not None else "")
    return f"user_id={user},item_id={item}{time}"


def _columns(rows: list[list[str]]) -> list[tuple[str, ...]]:
    """Return the values of each field of the first rows that are as wide as the first."""
    return list(zip(*(row for row in rows[:200] if len(row) == len(rows[0])), strict=True))


def _may_be_ids(values: Sequence[str]) -> bool:
    """Say whether values may be ids: no broken numbers, not always the same, no labels of 0 and 1, no ratings."""
    distinct = set(values)
    if len(values) > len(distinct) == 1 or all(map(_BROKEN.match, distinct)) or distinct <= {"0", "1", "-1"}:
        return False
    return not all(map(_RATING.match, distinct)) or len(values) < _LEAST * len(distinct)


def _shape(header: list[str], rows: list[list[str]], *, has_header: bool) -> tuple[int, bool, str]:
    """Return how many fields stand before the first named one, whether rows may end in an empty field, and a note."""
    widths = Counter(map(len, rows))
    if not has_header or not rows or widths.most_common(1)[0][0] != len(header) + 1:
        return 0, False, ""
    long = [row for row in rows if len(row) == len(header) + 1]
    if all(not row[-1].strip() for row in long):
        return 0, True, "rows end in a delimiter"
    if len({row[0] for row in long}) < len(long):  # R's names of rows are all different
        return 0, False, ""
    return 1, False, "the first field of a row is its name, as R writes it"


def _skips_blanks(lines: list[str], delimiter: str, quote: str) -> bool:
    """Say whether blanks stand before the quotes of fields, and before every other field but the first."""
    if not quote or delimiter in " \t" or not any(f"{delimiter} {quote}" in line for line in lines):
        return False
    return all(f"{delimiter} " in line for line in lines if delimiter in line)


def _shown(delimiter: str) -> str:
    return {"\t": "tab", " ": "space", "\x01": "\\x01", "\x1f": "\\x1f"}.get(delimiter, delimiter)
