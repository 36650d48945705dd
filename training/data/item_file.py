"""The items file: titles, descriptions and attributes. The file is optional, and so is every column but item_id.

Every column that is not item_id, title or description is an attribute; `a|b|c` is three values of it. Where all its
values are numbers, or all are true or false, it is one of numbers or of booleans, and lists that were written as text
are read, unless it is named as text. Objects that were written as text are left out, as nested values and embeddings
are. A title such as `nan` is none where it stands more than once. The file never adds to the catalogue, because nothing
can be learned of an item without events. Such items are counted and left out. A file that describes none of the items
is refused: its ids are other ones.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import Item
from training.errors import InputError
from training.file.account import Account, Form, Names
from training.file.choice import Choice
from training.file.delimited import LINE
from training.file.identifier import as_id, as_text, is_missing, tidy_ids
from training.file.listed import as_lists, is_nested
from training.file.source import Place
from training.file.table import read_table

FORMS_OF_TIME = (
    "Unix time in s, ms, us or ns, or text such as 2020-09-16 18:43:01, 2020-09-16T18:43:01Z, 16 Sep 2020, 9/16/2020 "
    "6:43 PM or 20200916; without any: --set prepare.times=order"
)
PREFIX = "attribute."  # of the columns of items.parquet that hold attributes, as lists of text
NUMBER, BOOLEAN = "number.", "boolean."  # of those that hold numbers and booleans
_NUMBER = r"^-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d{1,2})?$"  # 0444778 is an id
_VECTOR = 8  # so many broken numbers in each row of a column are an embedding
_DECIMAL = r"[+-]?\d+\.?\d*(?:[eE][+-]?\d+)?"
_PRINTED_VECTOR = rf"^\[\s*(?:{_DECIMAL}\s+){{{_VECTOR - 1},}}{_DECIMAL}\s*\]$"  # as numpy prints it
KNOWN = ("item_id", "title", "description")


@dataclass(frozen=True)
class Catalog:
    """An items file as it was read."""

    frame: pl.DataFrame  # item_id, title?, description?, attribute.* as lists of text; one row per item
    report: Mapping[str, Any]  # what report.json says of the file
    label: str = "the items file"


def read_catalog(
    place: Place,
    columns: Mapping[str, str],
    max_malformed: float,
    own: Mapping[str, str] | None = None,
    form: Form | None = None,
    text: Collection[str] = (),
) -> Catalog:
    """Read an items file. Of several rows of one item the first counts.

    columns: our name -> the interactions' name; where the items file has no such column, our own name is looked for.
    own: our name -> that of the items file, which must be there. max_malformed: the largest share of rows that may be
    unreadable. text: the columns that are text whatever they hold. Raises InputError.
    """
    table = read_table(place, _choice(columns, own or {}), form or Form())
    check_malformed(table.source.label, table.account, max_malformed)
    label = table.source.label
    table = replace(table, frame=table.frame.drop(table.account.left_out, strict=False))  # some slices may have them
    _check_text(text, table.frame, label)
    ids = as_id(table.frame["item_id"], label)
    distinct_ids = ids.drop_nulls().unique(maintain_order=True)
    ids = ids.replace_strict(distinct_ids, tidy_ids(distinct_ids), default=None, return_dtype=pl.String)
    frame = table.frame.with_columns(ids.alias("item_id")).filter(pl.col("item_id").is_not_null())
    distinct = frame.unique("item_id", keep="first", maintain_order=True)
    read = {name: _column(distinct[name], label, text) for name in distinct.columns if name not in (LINE, "item_id")}
    described = distinct.select("item_id", *(column for column, _ in read.values() if column is not None))
    report = {
        "source": table.source.name,
        "sha256": table.source.fingerprint,
        "rows_read": table.account.rows,
        "malformed": malformed_report(table.account),
        "no_item": table.frame.height - frame.height,
        "duplicate": frame.height - distinct.height,
        "recognised": dict(table.account.recognised),
        "columns": {ours: theirs for ours, theirs in table.account.columns.items() if ours in KNOWN},
        "left_out": [name.removeprefix(PREFIX) for name in (*table.account.left_out, *_read_as("nested", read))],
        "said": dict(table.account.counts),
        "numbers": _names_of(described, NUMBER),
        "booleans": _names_of(described, BOOLEAN),
        "lists": [name.removeprefix(PREFIX) for name in _read_as("lists", read)],
    }
    return Catalog(described, report, label)


def check_match(catalog: Catalog, item_ids: pl.Series) -> None:
    """Raise InputError where a file describes none of the items of the catalogue, with the likely cause."""
    described = catalog.frame["item_id"]
    if described.is_in(item_ids.implode()).any():
        return
    ours, theirs = (", ".join(repr(one) for one in ids.head(3).to_list()) or "none" for ids in (item_ids, described))
    raise InputError(
        f"{catalog.label}: describes none of the {len(item_ids):,} items of the interactions. Ids there are {ours}; "
        f"here they are {theirs}{likely_cause(item_ids, described)}. Or another column holds them: --item-columns "
        "item_id=COLUMN; or leave --items out"
    )


def likely_cause(item_ids: pl.Series, described: pl.Series, least: int = 1) -> str:
    """Return why the ids of two files may not meet, as far as a rewriting of them makes at least so many meet."""
    ways = {
        "zeros at the start were lost in one of the files: write its ids as text": lambda ids: (
            ids.str.strip_chars_start("0")
        ),
        "one of the files has blanks around its ids: strip them": lambda ids: ids.str.strip_chars(),
        "one of the files writes whole numbers as 17850.0: write integers": lambda ids: ids.str.replace(r"\.0$", ""),
        "the files differ in capital letters": lambda ids: ids.str.to_lowercase(),
        "one of the files has signs around or before its ids": lambda ids: ids.str.replace_all(r"^\D+|\D+$", ""),
    }
    for cause, rewrite in ways.items():
        if rewrite(described).is_in(rewrite(item_ids).filter(rewrite(item_ids) != "").implode()).sum() >= least:
            return f"; {cause}"
    return ""


def describe_items(item_ids: pl.Series, popularity: NDArray[np.int64], catalog: Catalog | None) -> pl.DataFrame:
    """Return the table of items.parquet: item_id, popularity, title, description and attribute.*.

    item_ids [N]: the catalogue, whose order is kept; popularity [N]. An item that the file lacks has nulls.
    """
    frame = pl.DataFrame(
        {"item_id": item_ids, "popularity": popularity}, schema={"item_id": pl.String, "popularity": pl.Int64}
    )
    if catalog is not None:
        frame = frame.join(catalog.frame, on="item_id", how="left", maintain_order="left")
    missing = [name for name in ("title", "description") if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    return frame.select(
        "item_id", "popularity", "title", "description", pl.selectors.starts_with(PREFIX, NUMBER, BOOLEAN)
    )


def to_items(frame: pl.DataFrame) -> list[Item]:
    """Return the rows of items.parquet as the bundle's items, which have no description."""
    attributes, numbers, booleans = (
        {name: frame[prefix + name].to_list() for name in _names_of(frame, prefix)}
        for prefix in (PREFIX, NUMBER, BOOLEAN)
    )
    columns = zip(frame["item_id"], frame["popularity"], frame["title"], strict=True)
    return [
        Item(
            item_id,
            float(popularity),
            title,
            {name: values[row] for name, values in attributes.items() if values[row]},
            {name: values[row] for name, values in numbers.items() if values[row] is not None},
            {name: values[row] for name, values in booleans.items() if values[row] is not None},
        )
        for row, (item_id, popularity, title) in enumerate(columns)
    ]


def malformed_report(account: Account) -> dict[str, Any]:
    """Return how many rows could not be read, and the first few of them."""
    return {"count": account.malformed, "examples": account.examples}


def check_malformed(label: str, account: Account, max_malformed: float, hint: str = "") -> None:
    """Raise InputError where more than a share of the rows of a table could not be read. hint: what may be wrong."""
    if account.malformed <= max_malformed * account.rows:
        return
    share = account.malformed / account.rows
    listed = "".join(f"\n  {example}" for example in account.examples)
    allowed = "" if share > 0.5 else f", or allow more: --set prepare.max_malformed={_above(share)}"
    seen = ", ".join(f"{name} {value}" for name, value in account.recognised.items() if value not in ("yes", "no"))
    if share > 0.5 and any("timestamp" in example for example in account.examples):
        hint += f"A time is {FORMS_OF_TIME}. "
    if share > 0.5 and any("weight" in example for example in account.examples):
        hint += "A weight is a number such as 3.5, with a point; without it: --set prepare.weights=ignore. "
    hint += _say_fields(account) if share > 0.5 else ""
    message = (
        f"{label}: {account.malformed} of {account.rows} rows ({share:.1%}) are malformed, more than "
        f"{max_malformed:.1%}. The first:{listed}\n{hint}Read as: {seen}. Correct the file{allowed}"
    )
    raise InputError(message + (account.unpacking(message, label) if Path(label).is_file() else ""))


def _say_fields(account: Account) -> str:
    """Return how the header gets names for fields that all rows have beyond it; empty where they have none."""
    found = [re.search(r"(\d+) fields, the header has (\d+)$", example) for example in account.examples]
    counts = {(int(match[1]), int(match[2])) if match else (0, 0) for match in found}
    width, named = counts.pop()
    if counts or width <= named or account.recognised.get("header") != "yes":
        return ""
    delimiter = {"tab": "\\t", "space": " "}.get(one := account.recognised["delimiter"], one)
    names = "".join(f"{delimiter}x{at}" for at in range(named + 1, width + 1))
    return (
        f"Where the fields without a name stand at the end, name them: sed -E '1s/\\r?$/{names}/' FILE > events.csv. "
    )


def _above(share: float) -> float:
    """Return a round share that lets a run go on."""
    return next((step for step in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5) if step >= share), 1.0)


def _choice(columns: Mapping[str, str], own: Mapping[str, str]) -> Choice:
    borrowed = {ours: theirs for ours, theirs in columns.items() if ours in KNOWN and not theirs.isdecimal()}

    def others(present: list[str]) -> Names:
        return {PREFIX + name: name for name in present if name and name not in KNOWN}

    return Choice(
        {**borrowed, **own}, KNOWN[:1], KNOWN[1:], "--item-columns", others, may_lack=frozenset(borrowed) - set(own)
    )


def _check_text(text: Collection[str], frame: pl.DataFrame, label: str) -> None:
    known = _names_of(frame, PREFIX)
    for name in text:
        if name not in known:
            close = get_close_matches(name, known, 1) or known[:10]
            raise InputError(f"{label}: prepare.item_text: there is no column {name!r}; there is {', '.join(close)}")


def _names_of(frame: pl.DataFrame, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in frame.columns if name.startswith(prefix)]


def _as_kind(column: pl.Series) -> pl.Series | None:
    """Return a column of text as numbers or booleans, where all its values are; else None. The name has its prefix."""
    text = column.replace("", None)
    values, name = text.drop_nulls(), column.name.removeprefix(PREFIX)
    if not len(values):
        return None
    if values.str.to_lowercase().is_in(["true", "false"]).all():
        return (text.str.to_lowercase() == "true").alias(BOOLEAN + name)
    if values.str.contains(_NUMBER).all():
        return text.cast(pl.Float64).alias(NUMBER + name)
    return None


def _read_as(kind: str, read: Mapping[str, tuple[pl.Series | None, str]]) -> list[str]:
    return [name for name, (_, own) in read.items() if own == kind]


def _column(column: pl.Series, label: str, as_attributes: Collection[str]) -> tuple[pl.Series | None, str]:
    """Return a column as it is kept, None where it is left out, and what it was read as."""
    text = as_text(column, label).str.strip_chars()
    if not column.name.startswith(PREFIX):
        return _without_words(text), "text"
    text = text.to_frame("").select(pl.when(~is_missing(text)).then(pl.first())).to_series().alias(column.name)
    if column.name.removeprefix(PREFIX) not in as_attributes:
        if (kind := _as_kind(text)) is not None:
            return kind, "kind"
        if (lists := as_lists(text)) is not None:
            return (None, "nested") if _are_vectors(lists) else (lists.list.unique(maintain_order=True), "lists")
        if is_nested(text) or text.drop_nulls().str.contains(_PRINTED_VECTOR).all():
            return None, "nested"
    values = text.str.split("|").list.eval(pl.element().str.strip_chars())
    values = values.list.eval(pl.element().filter(pl.element() != ""))
    if column.name.removeprefix(PREFIX) not in as_attributes and _are_vectors(values):
        return None, "nested"
    return values.list.unique(maintain_order=True), "text"


def _without_words(text: pl.Series) -> pl.Series:
    """Return titles, null where there is none: a word such as nan is none where it stands more than once."""
    words = text.filter(is_missing(text) & text.is_not_null() & (text != ""))
    repeated = words.filter(words.is_duplicated()).unique()
    return text.set(text.is_in([*repeated, ""]).fill_null(False), None)


def _are_vectors(lists: pl.Series) -> bool:
    """Say whether all values of a column of lists of text are vectors: as long as each other, of broken numbers."""
    lengths, numbers = lists.drop_nulls().list.len(), lists.explode().drop_nulls()
    is_long = len(lengths) > 0 and lengths.min() == lengths.max() and lengths[0] >= _VECTOR
    return is_long and bool(numbers.str.contains(f"^{_DECIMAL}$").all()) and bool(numbers.str.contains("[.e]").any())
