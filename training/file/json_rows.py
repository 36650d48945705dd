"""The rows of JSON: an object a line, an array of objects, or objects one after the other over several lines.

Numbers are taken as the text that stands there where a float could not hold them, so ids beyond 2^53 stay apart.
Objects inside an object are flattened (`user.id`); what MongoDB wraps (`{"$oid": ...}`) is unwrapped. A list of
objects is left out, by name.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import polars as pl

from training.errors import InputError
from training.file.account import Account, Names, Row
from training.file.choice import AS_LINES, Choice, propose
from training.file.delimited import LINE
from training.file.line import LineReader

CHUNK = 10_000  # rows that are held as objects at a time
_LONG_NUMBER = re.compile(r"[0-9]{16}")
_SHELL = re.compile(r"(ObjectId|ISODate|NumberLong|NumberInt|NumberDecimal)\(")
Object = dict[str, Any]


def read_json(reader: LineReader, row: Row, account: Account, choice: Choice) -> Iterator[pl.DataFrame]:
    """Yield the rows of a part as frames of text: the line, and our names. Raises InputError where no line is JSON."""
    if is_whole(reader.sample(3)):
        account.recognise(format="JSON, an array or objects over several lines")
        objects = _whole(reader, row, account, choice)
    else:
        account.recognise(format="JSON lines")
        objects = _lines(reader, row, account)
    rows: list[tuple[int, Object]] = []
    keys: dict[str, None] = {}
    is_known = False
    for found in objects:
        rows.append(found)
        if len(rows) == CHUNK:
            yield _frame(rows, _names(rows, keys, row, account, choice, is_known), row, account)
            rows, is_known = [], True
    if rows:
        yield _frame(rows, _names(rows, keys, row, account, choice, is_known), row, account)
    elif not is_known:
        first = account.examples[0] if account.examples else f"{row.label}: no rows"
        raise InputError(f"{first}; no line could be read as JSON; {_as_json(reader.head)}")


def is_whole(lines: list[str]) -> bool:
    """Say whether the first lines begin an array, or objects that are no line each."""
    full = [line.strip("\ufeff\x1e \t") for line in lines if line.strip()]
    if not full or full[0].startswith("["):
        return bool(full)
    try:
        found = json.loads(full[0])
    except ValueError as exc:
        if isinstance(exc, json.JSONDecodeError) and full[0][exc.pos :].startswith("{"):
            return True  # one after the other without line ends, as queues write them
        return full[0].startswith("{") and (len(full[0]) < 3 or not full[0].endswith("}"))
    return len(full) == 1 and isinstance(found, dict) and any(isinstance(one, dict | list) for one in found.values())


def _names(
    rows: list[tuple[int, Object]], keys: dict[str, None], row: Row, account: Account, choice: Choice, is_known: bool
) -> Names:
    """Return the wanted columns among the keys that were met so far."""
    before = len(keys)
    for _, found in rows:
        keys.update(dict.fromkeys(found))
    try:
        names = choice.pick(row.label, list(keys))
    except InputError as exc:
        first = rows[0][1]
        if (text := next((key for key in keys if _is_text_of_object(first.get(key))), None)) is not None:
            raise InputError(f"{exc}; or, where {text} holds the row as text: {_unpacked(text, account)}") from exc
        inner = next((key for key in keys if _holds_objects(first.get(key))), None)
        if inner is None:
            raise
        raise InputError(f"{exc}; or, where {inner} holds the rows: {_unrolled(inner, '**one', account)}") from exc
    if not is_known or len(keys) > before:
        account.columns |= names
        account.unused = [key for key in keys if key not in names.values()]
        for key in account.unused:
            account.sample[key] = [str(found[key]) for _, found in rows[:500] if found.get(key) is not None]
    return names


def _lines(reader: LineReader, row: Row, account: Account) -> Iterator[tuple[int, Object]]:
    for block in reader.blocks():
        for number, line in enumerate(block.lines.to_list(), start=block.first):
            if not line.strip(" \t\ufeff"):
                continue
            account.rows += 1
            at = replace(row, line=number)
            try:
                found = _loads(line.lstrip("\ufeff\x1e"))
            except ValueError as exc:
                account.bad(at, f"not JSON: {str(exc).partition(': line')[0]}")
                continue
            if isinstance(found, dict):
                yield number, _flat(found)
            else:
                account.bad(at, "not a JSON object")


def _whole(reader: LineReader, row: Row, account: Account, choice: Choice) -> Iterator[tuple[int, Object]]:
    """Yield the objects of a document that is read at once, with the number of each as its line."""
    text = "\n".join("\n".join(block.lines.to_list()) for block in reader.blocks()).lstrip("\ufeff")
    values = list(_documents(text, row))
    if len(values) == 1 and isinstance(values[0], dict) and not _is_row(values[0], choice):
        lists = [value for value in values[0].values() if isinstance(value, list) and value and _is_object(value[0])]
        columns = [value for value in values[0].values() if isinstance(value, dict | list)]
        if len(lists) == 1:
            values = lists[0]
        elif len(columns) == len(values[0]) and len(columns) > 1:
            raise InputError(f"{row.label}: {_say_columns(values[0], choice)}")
    account.rows += len(values)
    for number, value in enumerate(values, start=1):
        if not _is_object(value):
            way_out = _python(*_of_lists(value, choice)) if isinstance(value, list) else AS_LINES
            raise InputError(f"{row.label}: value {number} of the array is not a JSON object; {way_out}")
        yield number, _flat(value)


def _as_json(head: str) -> str:
    """Return the way out of a file that is no JSON, by its first characters."""
    if _SHELL.search(head):
        program = f"s/{_SHELL.pattern}([^)]*)\\)/\\2/g"
        return f"what MongoDB's shell prints; write JSON of it: sed -E '{program}' FILE > events.jsonl"
    if re.match(r"\s*\{u?'", head):
        program = "import ast, json; [print(json.dumps(ast.literal_eval(line))) for line in open('FILE')]"
        return f'dicts of Python; write JSON of them: python -c "{program}" > events.jsonl'
    return AS_LINES


def _python(start: str, printed: str, loop: str) -> str:
    """Return a command that writes JSON lines. start: what is done before; printed: of each step of the loop."""
    return (
        f'write an object a line: python -c "import json; {start}[print(json.dumps({printed})) {loop}]" > events.jsonl'
    )


def _unrolled(inner: str, taken: str, account: Account) -> str:
    """Return the command that writes a row for each value of a list. taken: what the row has of the value."""
    top, *rest = inner.split(".")
    below = "".join(f"[{name!r}]" for name in rest)
    row = f"{{**{{k: v for k, v in row.items() if k != {top!r}}}, {taken}}}"
    if account.recognised.get("format") == "JSON lines":
        return _python("", row, f"for row in map(json.loads, open('FILE')) for one in row[{top!r}]{below}")
    start = (
        f"at = json.load(open('FILE')); at = at if isinstance(at, list) else [at] if {top!r} in at else "
        "next(one for one in at.values() if isinstance(one, list)); "
    )
    return _python(start, row, f"for row in at for one in row[{top!r}]{below}")


def _unpacked(inner: str, account: Account) -> str:
    """Return the command that adds to each row what a value has as JSON in text, as messages of queues do."""
    top, *rest = inner.split(".")
    value = f"row[{top!r}]" + "".join(f"[{name!r}]" for name in rest)
    row = f"{{**row, **json.loads({value} or '{{}}')}}"
    if account.recognised.get("format") == "JSON lines":
        return _python("", row, "for row in map(json.loads, open('FILE'))")
    return _python("", row, "for row in json.load(open('FILE'))")


def _of_lists(first: list[Any], choice: Choice) -> tuple[str, str, str]:
    """Return the command of an array of arrays. first: of them, which may hold the names."""
    start = "at = json.load(open('FILE')); "
    if set(choice.needed().values()) <= {str(one) for one in first}:
        return start, "dict(zip(at[0], row))", "for row in at[1:]"
    return start + "names = ['user_id', 'item_id', 'timestamp']; ", "dict(zip(names, row))", "for row in at"


def _keyed(first: Object, choice: Choice) -> tuple[str, str]:
    """Return what is printed of rows that stand by a name: it is the id that they lack, where they lack one."""
    lacks = [ours for ours, theirs in choice.needed().items() if theirs not in first and not propose(ours, list(first))]
    if lacks:
        return f"{{{lacks[0]!r}: name, **row}}", "for name, row in at.items()"
    return "row", "for row in at.values()"


def _say_columns(found: Object, choice: Choice) -> str:
    """Say what an object of lists or objects is, and how rows are made of it."""
    start, inner = "at = json.load(open('FILE')); ", list(found.values())
    if found.keys() >= {"columns", "data"}:
        what, row, loop = "pandas' orient='split'", "dict(zip(at['columns'], row))", "for row in at['data']"
    elif all(propose(ours, list(found)) or theirs in found for ours, theirs in choice.needed().items()):
        start += "at = {k: v.values() if isinstance(v, dict) else v for k, v in at.items()}; "
        what, row, loop = "a JSON of columns, not of rows", "dict(zip(at, row))", "for row in zip(*at.values())"
    elif all(map(_is_object, inner)):
        what, (row, loop) = "rows by their names or ids", _keyed(inner[0], choice)
    elif all(map(_holds_objects, inner)):
        what = "rows below the id that they belong to, as it seems that of a user"
        row, loop = "{'user_id': user, **row}", "for user, rows in at.items() for row in rows"
    else:
        what = "items below the id that they belong to, as it seems that of a user"
        row, loop = "{'user_id': user, 'item_id': item}", "for user, items in at.items() for item in items"
    return f"{what}; {_python(start, row, loop)}"


def _is_row(found: Object, choice: Choice) -> bool:
    return any(not isinstance(found.get(name, []), dict | list) for name in choice.needed().values())


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and _is_object(value[0])


def _is_text_of_object(value: Any) -> bool:
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return False
    try:
        return _is_object(json.loads(value))
    except ValueError:
        return False


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _documents(text: str, row: Row) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_int=_integer, parse_float=_float)
    position, end = 0, len(text)
    blank = re.compile(r"[\s,]*")
    while (position := blank.match(text, position).end()) < end:  # type: ignore[union-attr]  # it matches nothing too
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError as exc:
            line = text.count("\n", 0, getattr(exc, "pos", position)) + 1
            raise InputError(
                f"{row.label}:{line}: not JSON: {str(exc).partition(': line')[0]}; is the file cut off? Write it "
                f"again, or {_as_json(text[:4096])}"
            ) from exc
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _loads(line: str) -> Any:
    if _LONG_NUMBER.search(line):
        return json.loads(line, parse_int=_integer, parse_float=_float)
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        if "NaN" in line or "Infinity" in line:
            return json.loads(line, parse_int=_integer, parse_float=_float)
        raise


def _integer(text: str) -> int | str:
    return int(text) if len(text) < 19 else text


def _float(text: str) -> float | str:
    return float(text) if len(text) < 17 else text


def _flat(found: Object) -> Object:
    """Return an object whose values are no objects."""
    if not any(isinstance(value, dict) for value in found.values()):
        return found
    flat: Object = {}
    for name, value in found.items():
        if not isinstance(value, dict):
            flat[name] = value
        elif len(value) == 1 and next(iter(value)).startswith("$"):
            inner = next(iter(value.values()))
            flat[name] = next(iter(inner.values())) if isinstance(inner, dict) and len(inner) == 1 else inner
        else:
            flat |= {f"{name}.{key}": one for key, one in _flat(value).items()}
    return flat


def _frame(rows: list[tuple[int, Object]], names: Names, row: Row, account: Account) -> pl.DataFrame:
    _refuse_lists(rows, names, row, account)
    data = {ours: [_text(found.get(theirs), ours, account) for _, found in rows] for ours, theirs in names.items()}
    try:
        return _text_frame(rows, data)
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may hold and no text may
        for values in data.values():
            values[:] = [value.encode("utf-8", "replace").decode() if value else value for value in values]
        account.note("values_with_half_characters", replace(row, line=rows[0][0]))
        return _text_frame(rows, data)


def _refuse_lists(rows: list[tuple[int, Object]], names: Names, row: Row, account: Account) -> None:
    """Raise InputError where an id or a time is a list of several."""
    for ours in names.keys() & {"user_id", "item_id", "timestamp"}:
        for line, found in rows:
            value = found.get(names[ours])
            if isinstance(value, list) and len(value) > 1:
                raise InputError(
                    f"{replace(row, line=line)}: {names[ours]} is a list, and each row needs one {ours}; "
                    f"{_unrolled(names[ours], f'{names[ours]!r}: one', account)}"
                )


def _text_frame(rows: list[tuple[int, Object]], data: dict[str, list[str | None]]) -> pl.DataFrame:
    lines = pl.Series(LINE, [line for line, _ in rows], dtype=pl.Int64)
    columns = [pl.Series(name, values, dtype=pl.String) for name, values in data.items()]
    return pl.DataFrame([lines, *columns]).with_columns(pl.col(pl.String).replace("", None))


def _text(value: Any, name: str, account: Account) -> str | None:
    """Return a JSON value as the text that a CSV would hold; a list is joined by '|'."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    if isinstance(value, list):
        if any(isinstance(one, dict | list) for one in value):
            if name not in account.left_out:
                account.left_out.append(name)
            return None
        return "|".join(_text(one, name, account) or "" for one in value)
    return str(value)
