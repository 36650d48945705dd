"""Prepare on one machine, beyond its memory: DuckDB keeps the rows on disk and sorts them by user.

Rows are read as ever, chunk by chunk, and kept as numbers in a table. DuckDB sorts it by the users' ids, within the
memory that it is given. Then it is cleaned in ranges of users by the same functions as a table in memory. Memory holds
the distinct ids, the cleaned events (16 bytes each) and one range of rows.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.gathering import KINDS, Gathered, Gathering, gather
from training.data.interaction_file import (
    Cleaned,
    Cleaning,
    Coded,
    Found,
    clean_rows,
    code_ids,
    find_meaning,
    say_times,
    tell_malformed,
)
from training.data.settling import Meaning
from training.engine.join import join_shards
from training.errors import InputError
from training.file.account import Account
from training.file.source import Source

SHARD = 1 << 21  # rows that are cleaned at a time; a user with more has a shard to himself
MEMORY_MB = 512  # that DuckDB may take by default
_COLUMNS = {
    "position": "BIGINT", "line": "UINTEGER", "user": "INTEGER", "item": "INTEGER", "event": "INTEGER",
    "bad": "BOOLEAN", "micro": "BIGINT", "forms": "UTINYINT", "weight": "DOUBLE",
}  # fmt: skip
_LISTED = ", ".join(f'"{name}"' for name in _COLUMNS)


@dataclass
class OnDisk(Gathering):
    """Rows that are kept in a table of DuckDB."""

    connection: Any = None

    def keep(self, arrays: Mapping[str, Any]) -> None:
        """Append the arrays of a chunk to the table."""
        n = len(arrays["user"])
        chunk = {name: arrays[name] if name in arrays else np.zeros(n, dtype=kind) for name, kind in KINDS.items()}
        self.connection.register("chunk", chunk | {"position": np.arange(self.n, self.n + n, dtype=np.int64)})
        self.connection.execute(f"INSERT INTO gathered SELECT {_LISTED} FROM chunk")  # noqa: S608
        self.connection.unregister("chunk")


@dataclass(frozen=True)
class Disk:
    """The engine. room: a directory of its own, which is removed afterwards."""

    room: Path
    memory_mb: int = MEMORY_MB
    shard: int = SHARD

    def __call__(self, source: Source, cleaning: Cleaning, account: Account) -> Found:
        """Read and clean a table. Raises InputError."""
        with self._database() as connection:
            rows = OnDisk(connection=connection)
            gather(source, cleaning, account, rows)
            meaning = find_meaning(rows, cleaning)
            coded = code_ids(rows, account)
            event_values, n = list(rows.event_codes), rows.n
            rows.users.codes, rows.items.codes = {}, {}
            _sort(connection, coded.users.lookup)
            gathered = _read_shards(connection, _edges(connection, self.shard), rows, account)
            cleaned = join_shards(_clean(gathered, coded, cleaning, meaning), n)
        tell_malformed(account, rows, cleaned)
        return Found(cleaned, say_times(rows, meaning, cleaned.late), event_values)

    @contextmanager
    def _database(self) -> Iterator[Any]:
        duckdb = open_duckdb()
        shutil.rmtree(self.room, ignore_errors=True)  # left by a run that was killed
        self.room.mkdir(parents=True)
        settings = {"memory_limit": f"{self.memory_mb}MB", "temp_directory": str(self.room)}
        try:
            connection = duckdb.connect(str(self.room / "rows.duckdb"), config=settings)
            try:
                columns = ", ".join(f'"{name}" {kind}' for name, kind in _COLUMNS.items())
                connection.execute(f"CREATE TABLE gathered ({columns})")
                yield connection
            except duckdb.OutOfMemoryException as exc:
                raise InputError(
                    f"DuckDB cannot sort the rows in {self.memory_mb} MB of memory; give it more: --memory-mb "
                    f"{2 * self.memory_mb}"
                ) from exc
            except duckdb.IOException as exc:
                raise InputError(f"{self.room}: {str(exc).splitlines()[0]}; free disk under --out") from exc
            finally:
                connection.close()
        finally:
            shutil.rmtree(self.room, ignore_errors=True)


def open_duckdb() -> Any:
    """Return the package. Raises InputError that says how to install it."""
    try:
        return import_module("duckdb")
    except ImportError as exc:
        raise InputError("--engine duckdb needs DuckDB: pip install 'retort[duckdb]'") from exc


def _sort(connection: Any, lookup: NDArray[np.int32]) -> None:
    """Order the table by user and position. lookup: the user's place by code, -1 for none."""
    connection.register("places", {"code": np.arange(-1, len(lookup) - 1), "owner": np.roll(lookup, 1)})
    connection.execute(
        "CREATE TABLE sorted AS SELECT owner, gathered.* FROM gathered JOIN places ON gathered.user = places.code "
        "ORDER BY owner, position"
    )
    connection.unregister("places")
    connection.execute("DROP TABLE gathered")


def _edges(connection: Any, most: int) -> list[int]:
    """Return where the shards begin and end in the sorted table: between users, at most so many rows apart."""
    found = connection.execute("SELECT owner, count(*) AS n FROM sorted GROUP BY owner ORDER BY owner").fetchnumpy()
    ends = np.cumsum(found["n"].astype(np.int64))
    if not len(ends):
        return [0, 0]
    edges = [0]
    if found["owner"][0] < 0:  # rows of no user, which may be parted anywhere
        edges += [*range(most, int(ends[0]), most), int(ends[0])]
    while edges[-1] < ends[-1]:
        last = int(np.searchsorted(ends, edges[-1] + most, side="right")) - 1
        if last < 0 or ends[last] <= edges[-1]:
            last += 1
        edges.append(int(ends[last]))
    return edges


def _read_shards(connection: Any, edges: list[int], rows: Gathering, account: Account) -> Iterator[Gathered]:
    has = {"micro": rows.has_times, "forms": rows.has_times, "weight": "weight" in account.columns}
    wanted = [name for name in _COLUMNS if has.get(name, True)]
    listed = ", ".join(f'"{name}"' for name in wanted)
    query = f"SELECT {listed} FROM sorted WHERE rowid >= ? AND rowid < ? ORDER BY rowid"  # noqa: S608
    for start, end in pairwise(edges):
        found = connection.execute(query, [start, end]).fetchnumpy()
        if "weight" in found:
            found["weight"] = np.ma.filled(found["weight"], np.nan)  # DuckDB takes nan for NULL
        yield Gathered(**found)


def _clean(shards: Iterator[Gathered], coded: Coded, cleaning: Cleaning, meaning: Meaning | None) -> Iterator[Cleaned]:
    for shard in shards:
        yield clean_rows(shard, coded, cleaning, meaning)
