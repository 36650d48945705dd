"""The rows of a Parquet or Arrow file, which have types: slice by slice, so that a large file needs little memory.

Columns keep their types. A struct is flattened (`user.id`); a list of structs, and what has no text, is left out by
name.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import polars as pl

from training.errors import InputError
from training.file.account import Account, Names, Row
from training.file.choice import Choice
from training.file.compression import Opened
from training.file.delimited import LINE
from training.file.source import Part

SLICE = 1_000_000  # rows that are read at a time
_ONE_EACH = ("user_id", "item_id", "timestamp")
PARQUET, ARROW = b"PAR1", b"ARROW1"


def is_columnar(head: bytes) -> bool:
    """Say whether a file begins as Parquet or Arrow does."""
    return head.startswith((PARQUET, ARROW))


def read_columnar(part: Part, opened: Opened, row: Row, account: Account, choice: Choice) -> Generator[pl.DataFrame]:
    """Yield the rows of a part: the number of each, and our names. Raises InputError for a damaged file."""
    source: Any = opened.file.read() if opened.compression else part.path
    is_parquet = opened.head.startswith(PARQUET)
    account.recognise(format="Parquet" if is_parquet else "Arrow")
    try:
        scan = pl.scan_parquet if is_parquet else pl.scan_ipc
        lazy = scan(source) if opened.compression else scan(source, glob=False)
        columns = _flattened(lazy.collect_schema())
        names = _picked(part.label, columns, choice, is_parquet=is_parquet)
        account.take_columns(names, row.label)
        account.unused = [name for name in columns if name not in names.values()]
        kept = {ours: theirs for ours, theirs in names.items() if _is_text(columns[theirs][1])}
        account.left_out = sorted({*account.left_out, *(names.keys() - kept.keys())})
        chosen = lazy.select(columns[theirs][0].alias(ours) for ours, theirs in kept.items())
        if account.unused and not account.sample:
            few = lazy.select(columns[name][0].alias(name) for name in account.unused if _is_text(columns[name][1]))
            account.sample = {one.name: [str(v) for v in one.drop_nulls().to_list()] for one in few.head(500).collect()}
        n_rows = lazy.select(pl.len()).collect().item()
        for start in range(0, n_rows, SLICE):
            frame = chosen.slice(start, SLICE).collect()
            account.rows += frame.height
            lines = pl.int_range(start + 1, start + 1 + frame.height, eager=True, dtype=pl.Int64)
            plain = [_plain(one, part.label, account, choice) for one in frame]
            yield pl.DataFrame([lines.alias(LINE), *(one for one in plain if one is not None)])
    except (pl.exceptions.PolarsError, ValueError, OSError) as exc:
        kind = "Parquet" if is_parquet else "Arrow"
        raise InputError(
            f"{part.label}: a damaged {kind} file ({str(exc).splitlines()[0][:200]}); copy or write it again"
        ) from exc


def _picked(label: str, columns: dict[str, tuple[pl.Expr, Any]], choice: Choice, *, is_parquet: bool) -> Names:
    """Return the columns to keep. Raises InputError, with a command where lists hold the rows."""
    lists = {name: dtype.inner for name, (_, dtype) in columns.items() if isinstance(dtype, pl.List | pl.Array)}
    try:
        names = choice.pick(label, list(columns))
    except InputError as exc:
        inner = next((name for name, dtype in lists.items() if isinstance(dtype, pl.Struct)), None)
        if inner is None:
            raise
        steps = f".explode({inner!r}).unnest({inner!r})"
        raise InputError(f"{exc}; or, where {inner} holds the rows: {_mended(steps, is_parquet=is_parquet)}") from exc
    listed = [theirs for ours, theirs in names.items() if ours in _ONE_EACH and theirs in lists]
    if listed:
        steps = f".explode({', '.join(map(repr, listed))})"
        way_out = _mended(steps, is_parquet=is_parquet)
        raise InputError(f"{label}: {', '.join(listed)} hold lists, and each row needs one value; {way_out}")
    return names


def _mended(steps: str, *, is_parquet: bool = True) -> str:
    """Return the command that writes a file anew. steps: of Polars."""
    read = "read_parquet" if is_parquet else "read_ipc"
    return f"python -c \"import polars as pl; pl.{read}('FILE'){steps}.write_parquet('events.parquet')\""


def at_row(row: Row, line: int) -> Row:
    """Return where a row of a file with types stands."""
    return replace(row, line=line, of=": row ")


def _flattened(schema: pl.Schema) -> dict[str, tuple[pl.Expr, Any]]:
    """Return every column, those of structs by their path, as an expression and its type."""
    found: dict[str, tuple[pl.Expr, Any]] = {}

    def add(name: str, expression: pl.Expr, dtype: Any) -> None:
        if isinstance(dtype, pl.Struct):
            for field in dtype.fields:
                add(f"{name}.{field.name}", expression.struct.field(field.name), field.dtype)
        else:
            found[name] = (expression, dtype)

    for name, dtype in schema.items():
        add(name, pl.col(name), dtype)
    return found


def _is_text(dtype: Any) -> bool:
    """Say whether values of a type can be written as text."""
    if isinstance(dtype, pl.List | pl.Array):
        return not dtype.inner.is_nested() and dtype.inner not in (pl.Object, pl.Binary)
    return not dtype.is_nested() and dtype != pl.Object


def _plain(series: pl.Series, label: str, account: Account, choice: Choice) -> pl.Series | None:
    """Return bytes as the text that they are; None, and its name is kept, for a column that nobody needs to be text."""
    is_asked = series.name in (*choice.required, *choice.optional)
    if not is_asked and series.dtype == pl.Duration:
        account.left_out = sorted({*account.left_out, series.name})
        return None
    if series.dtype != pl.Binary:
        return series
    try:
        return series.cast(pl.String)
    except pl.exceptions.PolarsError as exc:
        if not is_asked:
            account.left_out = sorted({*account.left_out, series.name})
            return None
        theirs = choice.columns.get(series.name, series.name)
        raise InputError(
            f"{label}: the {series.name} column holds bytes that are not UTF-8 text; write their digits: "
            + _mended(f".with_columns(pl.col({theirs!r}).bin.encode('hex'))")
        ) from exc
