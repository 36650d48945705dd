"""Text whose lines are no rows of a table, known by its first lines: what it is, and the command that makes rows of it.

A user with all items in a line, as LightGCN, SASRec and others have their data; Netflix's blocks below the id of a
film; records of `name: value` lines, as older Amazon reviews and YAML are.
"""

import re
from collections.abc import Collection, Sequence

from training.file.choice import propose, shown
from training.file.compression import XML

_BLOCK = re.compile(r"^[\w-]+:$")  # the id that the lines below belong to
_WORD = re.compile(r"^[\w.-]+$")
_PAIR = re.compile(r"^(- |  )?(?P<name>[A-Za-z][\w/.-]*): ")
_UNBLOCK = 'BEGIN { print "item_id,user_id,weight,timestamp" } /:$/ { sub(":", ""); at = $0; next } { print at "," $0 }'
_IMPRESSIONS = re.compile(r"^\S+\t\S+\t[^\t]+\t[^\t]*\t\S+-[01]( \S+-[01])*$")
_SVM = re.compile(r"^[\w.-]+( [\w.-]+:-?[0-9.eE+-]+)*$")
_FEATURES = re.compile(r"^-?[0-9.]+( [0-9]+:[0-9]+:[0-9.]+| ?(\S+ )?\|\S.*)+$")  # libffm, Vowpal Wabbit
_CLICKS = (
    'BEGIN { print "user_id,item_id,timestamp" } { n = split($5, at, " "); for (k = 1; k <= n; k++) '
    'if (sub(/-1$/, "", at[k])) print $2 "," at[k] "," $3 }'
)
_PAIRS = (
    'BEGIN { print "user_id,item_id,weight" } '
    '{ for (n = 2; n <= NF; n++) { split($n, at, ":"); print USER "," at[1] "," at[2] } }'
)
_UNROLL = 'BEGIN { print "user_id,item_id" } { for (n = 2; n <= NF; n++) print $1 "," $n }'
_INTO = " FILE > events.csv"
_NAMED = tuple((between, sign) for sign in "=:" for between in "\t&;|, ")[:-1]
"""What may stand between the fields of a line, and between a name and its value, where each field has its name."""
_CELLS = 'BEGIN { print "user_id,item_id,weight" } { for (n = 1; n <= NF; n++) if ($n + 0 != 0) print NR "," n "," $n }'
_TAG = re.compile(r"^\s*</?[A-Za-z]")
_VALUE = re.compile(r"^\s*(-?[0-9]*\.?[0-9]+|)\s*$")
_WIDE = 13  # numbers in a line that are more than the columns of a table of events
_LEAST = 5  # lines that a shape is told by


def say_shape(lines: Sequence[str], needed: Collection[str]) -> str | None:
    """Return what lines are that are no rows, and how to make rows of them; None where they may be rows.

    needed: the names that a header would have.
    """
    some = [line.rstrip() for line in lines[:200] if line.strip()]
    if len(some) < _LEAST:
        return None
    if _BLOCK.match(some[0]) and "," in some[1] and any(_BLOCK.match(line) for line in some[1:]):
        return f"rows below the id that they belong to, as Netflix had them; put it into each: awk '{_UNBLOCK}'{_INTO}"
    if all(map(_TAG.match, some)):
        return f"XML or HTML; {XML}"
    if found := _named_fields(some) or _records(some):
        return found
    if "user_id" not in needed or any(name in some[0] for name in needed):
        return None
    return _features(some) or _sequences(some) or _matrix(some)


def _records(lines: Sequence[str]) -> str | None:
    """Say what records of a line for each value are."""
    names = [match["name"] if (match := _PAIR.match(line)) else None for line in lines]
    first = names[0]
    if first is None or names.count(first) < 2 or names.count(None) > len(names) / 10:
        return None
    record = [name for name in dict.fromkeys(names) if name]
    ours = {wanted: _named(wanted, record) for wanted in ("user_id", "item_id", "timestamp")}
    found = {wanted: name for wanted, name in ours.items() if name}
    listed = ", ".join(record[:10])
    if lines[0].startswith("- "):
        return f"YAML ({listed}), no rows; write an object a line: yq -o=json -I=0 '.[]' FILE > events.jsonl"
    last = next((name for name in reversed(record) if name in found.values()), None)
    if last is None:
        return f"records of a line for each value ({listed}); write a row for each record"
    keep = " ".join(f'$1 == "{name}" {{ {wanted} = $2 }}' for wanted, name in found.items())
    row = ' "," '.join(found)
    program = f'BEGIN {{ print "{",".join(found)}" }} {keep} $1 == "{last}" {{ print {row}; {" = ".join(found)} = "" }}'
    return f"records of a line for each value ({listed}); make a row of each: awk -F': ' '{program}'{_INTO}"


def _named(wanted: str, names: Sequence[str]) -> str | None:
    """Return which of the names is most likely one of ours, by what stands behind its last slash."""
    plain = {name.rpartition("/")[2]: name for name in names}
    found = propose(wanted, list(plain))
    return plain[found] if found else None


def _named_fields(lines: Sequence[str]) -> str | None:
    """Say what lines of name=value are, as logfmt, LTSV and the queries of addresses have them."""
    for between, sign in _NAMED:
        named = re.compile(rf"(?:^|{re.escape(between)}) ?([A-Za-z_][\w.-]*){sign}")
        found = [named.findall(line) for line in lines]
        names = list(dict.fromkeys(name for line in found for name in line))
        if sign == ":":  # ids may have one too
            are_named = all(len(names) == line.count(between) + 1 for names, line in zip(found, lines, strict=True))
        else:  # not in an address that a row ends with
            are_named = between == " " or all(map(named.match, lines))
        if are_named and min(map(len, found)) >= 2 and len(names) <= 2 * max(map(len, found)):
            return (
                f"a name before each value ({', '.join(map(shown, names[:10]))}); write an object a line: "
                f'python -c "{_program_of(between, sign)}" > events.jsonl'
            )
    return None


def _program_of(between: str, sign: str) -> str:
    """Return the program that writes objects of lines with named fields, and other words under their places."""
    pairs = f"dict(map(str.strip, one.split('{sign}', 1)) for one in line.split('{between}') if '{sign}' in one)"
    modules = "import json; "
    if between == "&":
        pairs, modules = "dict(parse_qsl(line.strip()))", "import json; from urllib.parse import parse_qsl; "
    elif between == " ":
        pairs = "dict(one.split('=', 1) if '=' in one else (str(at), one) for at, one in enumerate(split(line), 1))"
        modules = "import json; from shlex import split; "
    return f"{modules}[print(json.dumps({pairs})) for line in open('FILE')]".replace("\t", "\\t")


def _features(lines: Sequence[str]) -> str | None:
    """Say what lines of clicked and other items are, or of a label and features."""
    if all(map(_IMPRESSIONS.match, lines)):
        return (
            "impressions, as MIND has them; make a row of each click (the history before has no times, and is left "
            f"out): awk -F'\\t' '{_CLICKS}'{_INTO}"
        )
    if all(map(_SVM.match, lines)) and any(":" in line for line in lines):
        first = [line.split(" ")[0] for line in lines]
        is_label = len(set(first)) < len(first)
        user, what = ("NR", "a label, and the line") if is_label else ("$1", "a user")
        return (
            f"{what} with item:value for each item, as libsvm has them; make a row of each: "
            f"awk '{_PAIRS.replace('USER', user)}'{_INTO}"
        )
    if all(map(_FEATURES.match, lines)):
        return (
            "a label and features, as libffm and Vowpal Wabbit have them, no events; write rows of user, item and time"
        )
    return None


def _sequences(lines: Sequence[str]) -> str | None:
    """Say what lines of a user and all items are."""
    for delimiter, option in ((" ", ""), ("\t", ""), (",", "-F, ")):
        rows = [line.split(delimiter) for line in lines]
        widths = {len(row) for row in rows}
        are_ids = all(_WORD.match(word) for row in rows for word in row)
        if len(widths) >= 2 and min(widths) >= 2 and are_ids and all(row[0] == str(len(row) - 1) for row in rows):
            program = _UNROLL.replace("$1", "NR")
            return f"the number of items of a user, and the items; make a row of each: awk {option}'{program}'{_INTO}"
        lonely = sum(len(row) == 1 for row in rows)
        if lonely < 0.5 * len(rows) and len(widths) >= 3 and are_ids and len({row[0] for row in rows}) == len(rows):
            return f"a user and all items in each line, as it seems; make a row of each: awk {option}'{_UNROLL}'{_INTO}"
    return None


def _matrix(lines: Sequence[str]) -> str | None:
    """Say what lines of a number for each item are."""
    for delimiter in ",;\t ":
        rows = [line.split(delimiter) for line in lines]
        if len(rows[0]) < _WIDE or {len(row) for row in rows} != {len(rows[0])}:
            continue
        if all(_VALUE.match(value) for row in rows for value in row):
            option = {"\t": "-F'\\t' ", " ": ""}.get(delimiter, f"-F'{delimiter}' ")
            return (
                "a line of numbers for each user, one for each item, as it seems; make a row of each that is not 0: "
                f"awk {option}'{_CELLS}'{_INTO}"
            )
    return None
