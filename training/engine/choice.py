"""Which engine prepares the data: polars in memory, DuckDB on disk, Spark on a cluster. All write the same bytes."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from training.data.interaction_file import Engine
from training.engine.cluster import Cluster, open_spark
from training.engine.disk import MEMORY_MB, Disk, open_duckdb
from training.errors import InputError
from training.file.columnar import PARQUET
from training.file.compression import open_part
from training.file.source import Part, Source

ENGINES = ("auto", "polars", "duckdb", "spark")
BYTES_A_ROW = 100  # that preparing in memory takes at its peak; see tests/bench/README.md, "Engines of prepare"
BASE_BYTES = 450 << 20  # of the process without rows
_SAMPLE = 1 << 22  # bytes of a part, uncompressed, whose lines are counted


@dataclass(frozen=True)
class EngineWish:
    """The engine that is asked for."""

    name: str = "auto"  # one of ENGINES
    memory_mb: int = MEMORY_MB  # that DuckDB may take
    master: str = ""  # of Spark

    def __post_init__(self) -> None:
        if self.memory_mb < 64:
            raise InputError(f"--memory-mb must be at least 64, not {self.memory_mb}")
        if self.master and self.name != "spark":
            raise InputError(f"--master is of --engine spark, not of {self.name}: add --engine spark, or drop it")


IN_MEMORY = EngineWish("polars")


def choose_engine(wish: EngineWish, source: Source, room: Path, available: int | None) -> tuple[Engine | None, str]:
    """Return the engine, None for memory, and what is said of the choice. Raises InputError where it is missing.

    room: a directory that an engine may make and removes; available: bytes of free memory, None where not known.
    """
    disk = Disk(room, wish.memory_mb)
    if wish.name == "polars":
        return None, ""
    if wish.name == "duckdb":
        open_duckdb()
        return disk, f"engine: duckdb, {wish.memory_mb} MB of memory"
    if wish.name == "spark":
        open_spark()
        return Cluster(wish.master), f"engine: spark, {wish.master or 'the master of its configuration'}"
    n_rows = estimate_rows(source)
    need = BASE_BYTES + BYTES_A_ROW * n_rows
    if available is None or need <= available:
        return None, ""
    why = f"about {n_rows:,} rows need {need / 1e9:.1f} GB in memory, and {available / 1e9:.1f} GB are free"
    if find_spec("duckdb") is None:
        return None, f"engine: polars, though {why}; pip install 'retort[duckdb]' prepares them on disk"
    return disk, f"engine: duckdb, because {why}"


def estimate_rows(source: Source) -> int:
    """Return about how many rows a table has, by the beginning of its largest part."""
    largest = max(source.parts, key=lambda part: part.path.stat().st_size)
    return round(source.size * _rows_a_byte(largest))


def _rows_a_byte(part: Part) -> float:
    size = part.path.stat().st_size
    with open_part(part) as opened:
        if opened.head.startswith(PARQUET) and not opened.compression:
            try:
                rows: Any = pl.scan_parquet(part.path, glob=False).select(pl.len()).collect().item()
            except pl.exceptions.PolarsError:  # a damaged file: whoever reads it says so
                rows = 0
            return rows / size
        text = opened.file.read(_SAMPLE)
        read = len(text) if not opened.compression else max(1, min(size, opened.position()))
    return text.count(b"\n") / max(1, read)
