"""The items file: titles, descriptions and attributes. The file is optional, and so is every column but item_id.

Every column that is not item_id, title or description is an attribute; `a|b|c` is three values of it. An items file
never adds to the catalogue, because nothing can be learned of an item without events. Such items are counted and left
out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle import Item
from training.data.table import LINE, Malformed, Table, as_id, as_text, file_sha256, read_table
from training.errors import InputError

PREFIX = "attribute."  # of the columns of items.parquet that hold attributes, as lists of text


@dataclass(frozen=True)
class Catalog:
    """An items file as it was read."""

    frame: pl.DataFrame  # item_id, title?, description?, attribute.* as lists of text; one row per item
    report: Mapping[str, Any]  # what report.json says of the file


def read_catalog(path: Path, columns: Mapping[str, str], max_malformed: float) -> Catalog:
    """Read an items file. Of several rows of one item the first counts.

    columns: our name -> the file's; where the file has no such column, our own name is looked for. max_malformed: the
    largest share of rows that may be unreadable. Raises InputError.
    """
    table = read_table(path, lambda present: _choose(path, present, columns))
    check_malformed(table, table.malformed, max_malformed)
    frame = table.frame.with_columns(as_id(table.frame["item_id"], path)).filter(pl.col("item_id").is_not_null())
    distinct = frame.unique("item_id", keep="first", maintain_order=True)
    report = {
        "source": path.name,
        "sha256": file_sha256(path),
        "rows_read": table.n_rows,
        "malformed": malformed_report(table, table.malformed),
        "no_item": table.frame.height - frame.height,
        "duplicate": frame.height - distinct.height,
    }
    return Catalog(distinct.select("item_id", *_columns(distinct, path)), report)


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
    return frame.select("item_id", "popularity", "title", "description", pl.selectors.starts_with(PREFIX))


def to_items(frame: pl.DataFrame) -> list[Item]:
    """Return the rows of items.parquet as the bundle's items, which have no description."""
    names = [name for name in frame.columns if name.startswith(PREFIX)]
    values = [frame[name].to_list() for name in names]
    columns = zip(frame["item_id"], frame["popularity"], frame["title"], strict=True)
    return [
        Item(
            item_id,
            float(popularity),
            title,
            {name.removeprefix(PREFIX): v[row] for name, v in zip(names, values, strict=True) if v[row]},
        )
        for row, (item_id, popularity, title) in enumerate(columns)
    ]


def malformed_report(table: Table, malformed: Malformed) -> dict[str, Any]:
    """Return how many rows could not be read, and the first few of them."""
    examples = [f"{table.where(line)}: {what}" for line, what in malformed.examples]
    return {"count": malformed.count, "examples": examples}


def check_malformed(table: Table, malformed: Malformed, max_malformed: float) -> None:
    """Raise InputError where more than a share of the rows of a file could not be read."""
    if malformed.count <= max_malformed * table.n_rows:
        return
    share = malformed.count / table.n_rows
    listed = "".join(f"\n  {table.where(line)}: {what}" for line, what in malformed.examples)
    raise InputError(
        f"{table.path}: {malformed.count} of {table.n_rows} rows ({share:.1%}) are malformed, more than "
        f"{max_malformed:.1%}. The first:{listed}\nCorrect the file, or allow more: --set prepare.max_malformed=0.05"
    )


def _choose(path: Path, present: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    known = ("item_id", "title", "description")
    names = {}
    for ours in known:
        found = next((name for name in (columns.get(ours), ours) if name in present), None)
        if found is not None:
            names[ours] = found
    if "item_id" not in names:
        raise InputError(
            f"{path}: no column 'item_id'; the file has: {', '.join(present) or 'none'}. "
            "Name the right one: --columns item_id=COLUMN"
        )
    return names | {PREFIX + name: name for name in present if name and name not in {*names.values(), *known}}


def _columns(frame: pl.DataFrame, path: Path) -> list[pl.Series]:
    columns = []
    for name in frame.columns:
        if name in (LINE, "item_id"):
            continue
        text = as_text(frame[name], path).str.strip_chars()
        if name.startswith(PREFIX):
            values = text.str.split("|").list.eval(pl.element().str.strip_chars())
            columns.append(values.list.eval(pl.element().filter(pl.element() != "")).list.unique(maintain_order=True))
        else:
            columns.append(text.replace("", None))
    return columns
