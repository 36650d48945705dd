"""Text whose lines are no rows of a table, known by its first lines: what it is, and the command that makes rows of it.

A user with all items in a line, as LightGCN, SASRec and others have their data; Netflix's blocks below the id of a
film; records of `name: value` lines, as older Amazon reviews and YAML are.
"""

import re
from collections.abc import Collection, Sequence

from training.file.choice import propose

_BLOCK = re.compile(r"^[\w-]+:$")  # the id that the lines below belong to
_WORD = re.compile(r"^[\w.-]+$")
_PAIR = re.compile(r"^(- |  )?(?P<name>[A-Za-z][\w/.-]*): ")
_UNBLOCK = 'BEGIN { print "item_id,user_id,weight,timestamp" } /:$/ { sub(":", ""); at = $0; next } { print at "," $0 }'
_UNROLL = 'BEGIN { print "user_id,item_id" } { for (n = 2; n <= NF; n++) print $1 "," $n }'
_INTO = " FILE > events.csv"
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
    if found := _records(some):
        return found
    return None if any(name in some[0] for name in needed) else _sequences(some)


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


def _sequences(lines: Sequence[str]) -> str | None:
    """Say what lines of a user and all items are."""
    for delimiter, option in ((" ", ""), ("\t", ""), (",", "-F, ")):
        rows = [line.split(delimiter) for line in lines]
        widths = {len(row) for row in rows}
        are_ids = all(_WORD.match(word) for row in rows for word in row)
        if min(widths) >= 2 and len(widths) >= 3 and are_ids and len({row[0] for row in rows}) == len(rows):
            return f"a user and all items in each line, as it seems; make a row of each: awk {option}'{_UNROLL}'{_INTO}"
    return None
