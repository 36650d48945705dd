"""Prepare on a cluster: Spark reads the parts of a table where its workers are, and cleans the shards of users there.

A part is read by the reader of every engine, in one task. Its rows are kept as numbers on the workers' disks, cut into
ranges of users, shuffled and cleaned. The machine that asks holds the cleaned events and the ids. A worker that dies
takes its pieces with it, and Spark makes them again from the parts. The package is sent along as a zip: the workers
need Python with numpy and polars, and nothing of ours.
"""

import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from training.data.interaction_file import Cleaned, Cleaning, Found
from training.engine.parts import read_parts
from training.engine.piece import Settled, Told, clean_pieces, cut, read_one, told_by
from training.errors import InputError
from training.file.account import Account
from training.file.source import Source

SHARD = 1 << 20  # rows of a shard, about
PACKAGES = ("service", "training")
_MISSING = (
    "--engine spark needs Spark: pip install 'retort[spark]', and a Java of 17 or later, for example apt-get install "
    "default-jre-headless"
)


@dataclass(frozen=True)
class Cluster:
    """The engine. master: spark://HOST:PORT, local[2]; empty: what spark-submit or its configuration say."""

    master: str = ""
    shard: int = SHARD

    def __call__(self, source: Source, cleaning: Cleaning, account: Account) -> Found:
        """Read and clean a table. Raises InputError."""
        bare = replace(cleaning, engine=None)
        with _session(self.master) as (context, level):
            return read_parts(_Carried(context, level, source, bare), source, bare, account, self.shard)


@dataclass
class _Carried:
    """The parts of a table on a cluster. level: where Spark keeps what is needed again."""

    context: Any
    level: Any
    source: Source
    cleaning: Cleaning
    parts: Any = None

    def told(self) -> list[Told | InputError]:
        """Read the parts where the workers are."""
        source, cleaning = replace(self.source, watch=int, kept=None), self.cleaning
        numbers = self.context.parallelize(range(len(source.parts)), len(source.parts))
        self.parts = numbers.map(lambda number: read_one(source, number, cleaning)).persist(self.level)
        return self.parts.map(told_by).collect()

    def shards(self, settled: Settled) -> Iterator[Cleaned]:
        """Clean the shards: all at once, and then fetched one after the other."""
        whole = self.context.broadcast(settled)
        pieces = self.parts.flatMap(lambda part: cut(part, whole.value))
        grouped = pieces.groupByKey(len(settled.bounds) + 1, _itself).values()
        shards = grouped.map(lambda found: clean_pieces(list(found), whole.value)).persist(self.level)
        shards.count()
        return shards.toLocalIterator()


def open_spark() -> Any:
    """Return the package. Raises InputError that says how to install it."""
    try:
        return import_module("pyspark")
    except ImportError as exc:
        raise InputError(_MISSING) from exc


@contextmanager
def _session(master: str) -> Iterator[tuple[Any, Any]]:
    """Yield a context to which the package was sent, and where it keeps what is needed again: on disk."""
    pyspark = open_spark()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        # This starts the JVM. A SparkConf made before it knows nothing of what spark-submit or its files say.
        pyspark.SparkContext.setSystemProperty("spark.app.name", "retort prepare")
        conf = pyspark.SparkConf().setIfMissing("spark.master", "local[*]")
        if master:
            conf.setMaster(master)
        context = pyspark.SparkContext.getOrCreate(conf)
    except Exception as exc:  # without Java, or without the master, it raises what the gateway raises
        raise InputError(f"{_MISSING}; it said: {str(exc).splitlines()[0][:200]}") from exc
    try:
        with TemporaryDirectory(prefix="retort-") as folder:
            context.addPyFile(str(zip_package(Path(folder) / f"retort-{os.getpid()}.zip")))
            yield context, pyspark.StorageLevel.DISK_ONLY
    except import_module("py4j.protocol").Py4JJavaError as exc:
        said = str(exc.java_exception.getMessage())
        raise InputError(f"Spark gave up: {cause_of(said)}; look into the logs of its workers") from exc
    finally:
        context.stop()


def cause_of(said: str) -> str:
    """Return the line of what Spark said that tells most; of a master that is not there it says nothing at all."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    causes = re.findall(r"^[\w.]*(?:Error|Exception): .*$", said, re.MULTILINE) or lines
    return causes[-1][:300] if causes else "it says nothing, as where its master cannot be reached"


def zip_package(out: Path) -> Path:
    """Write the modules of the package as a zip that Python imports from, and return its path.

    Where they were imported from such a zip themselves (spark-submit --py-files), it is that one.
    """
    root = Path(__file__).parents[2]
    if zipfile.is_zipfile(root):
        return Path(shutil.copyfile(root, out))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for package in PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                file.write(path, path.relative_to(root))
    return out


def _itself(shard: int) -> int:
    return shard
