"""Spark on a standalone cluster of two workers, one of which is killed midway: the same events as in memory."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import polars as pl
import pytest

import training.__main__
from tests.training.engine.test_engine import hashes
from training.data.interaction_file import Cleaning
from training.data.prepare import prepare
from training.data.simulate import simulate
from training.data.split import SplitRule
from training.engine.choice import EngineWish, choose_engine
from training.engine.cluster import Cluster, cause_of, zip_package
from training.errors import InputError
from training.file.source import find_source

MASTER, WORKER = "org.apache.spark.deploy.master.Master", "org.apache.spark.deploy.worker.Worker"
ENTRY = str(training.__main__.__file__)
QUICK = {
    "spark.shuffle.io.retryWait": "200ms", "spark.shuffle.io.maxRetries": "1", "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.executor.memory": "512m",
    "spark.ui.showConsoleProgress": "false",
}  # fmt: skip


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the settings that everything of Spark reads, as the environment says from here on."""
    if find_spec("pyspark") is None or shutil.which("java") is None:
        assert "RETORT_REQUIRE_SPARK" not in os.environ, "pyspark or java is not installed"
        pytest.skip("pyspark or java is not installed")
    folder = tmp_path_factory.mktemp("conf")
    (folder / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in QUICK.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONF_DIR", str(folder))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("SPARK_LOCAL_DIRS", str(folder / "local"))
        yield folder


def spark_class() -> str:
    spec = find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "spark-class")


@contextmanager
def started(*command: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a process and what it starts as a group."""
    with subprocess.Popen(
        [spark_class(), *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            kill(process)


def wait_for(process: "subprocess.Popen[str]", words: str) -> str:
    """Wait until a process says something, and return that line."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            Thread(target=process.stderr.read, daemon=True).start()  # or it stands still when the pipe is full
            return line
    raise AssertionError("".join(seen))


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a worker with its executors, which are in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def write_parts(folder: Path, world: Path) -> Path:
    """Write a table in five parts, dirty ones among them."""
    frame = pl.read_csv(world / "interactions.csv.gz", schema_overrides={"user_id": pl.String, "item_id": pl.String})
    folder.mkdir()
    for at in range(5):
        text = frame[at::5].write_csv(None)
        if at == 1:
            text += "u1,i1,never\nu1\n,i2,1600000000\n" + text.splitlines()[1] + "\n"
        if at == 2:
            text = text.replace("\n", "\r\n")
        (folder / f"part-{at}.csv").write_bytes(gzip.compress(text.encode()) if at == 3 else text.encode())
    return folder


@dataclass(frozen=True)
class Standalone:
    """A master's address, its two workers of one core, and where those leave what they did."""

    address: str
    workers: "list[subprocess.Popen[str]]"
    work: Path


@pytest.fixture(scope="module")
def standalone(conf: Path) -> Iterator[Standalone]:
    """A cluster for all tests, since it takes three Javas; a test that kills a worker comes last."""
    with ExitStack() as stack:
        common = "--host", "127.0.0.1", "--port", "0", "--webui-port", "0"
        master = stack.enter_context(started(MASTER, *common))
        address = wait_for(master, "Starting Spark master at").split()[-1]
        worker = (*common, "--cores", "1", "--memory", "600m", "--work-dir", str(conf / "work"), address)
        workers = [stack.enter_context(started(WORKER, *worker)) for _ in range(2)]
        for process in workers:
            wait_for(process, "Successfully registered")
        yield Standalone(address, workers, conf / "work")


@pytest.mark.timeout(400)  # of a machine that others keep busy: five Javas start
def test_spark_submit_takes_a_zip_of_the_package_and_writes_the_bytes_that_memory_writes(
    standalone: Standalone, tmp_path: Path
) -> None:
    simulate(tmp_path / "world", users=120, items=60, days=60, seed=3)
    parts = write_parts(tmp_path / "parts", tmp_path / "world")
    items = tmp_path / "world" / "items.csv"
    package = zip_package(tmp_path / "retort.zip")

    submit = [spark_class().replace("spark-class", "spark-submit"), "--master", standalone.address]
    submit += ["--py-files", str(package)]
    words = ["prepare", "--interactions", str(parts), "--items", str(items), "--out", str(tmp_path / "spark")]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the package is in the zip
    with subprocess.Popen(
        [*submit, ENTRY, *words, "--engine", "spark"],
        env=own | {"PYSPARK_PYTHON": sys.executable},
        cwd=tmp_path,
        stdout=subprocess.PIPE,  # where spark-submit writes what Python says, errors too
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as submitted:
        try:
            said = submitted.communicate()[0]
        finally:
            kill(submitted)
    assert submitted.returncode == 0, said[-3000:]
    assert list(standalone.work.glob("app-*/*")), "no worker was asked"
    words[-1] = str(tmp_path / "memory")
    assert training.__main__.main([*words, "--engine", "polars"]) == 0

    assert hashes(tmp_path / "spark" / "prepared") == hashes(tmp_path / "memory" / "prepared")
    assert "engine: spark, the master of its configuration" in said


def test_a_cluster_that_loses_a_worker_writes_the_bytes_that_memory_writes(
    standalone: Standalone, tmp_path: Path
) -> None:
    simulate(tmp_path / "world", users=120, items=60, days=60, seed=3)
    source = find_source(write_parts(tmp_path / "parts", tmp_path / "world"))
    items, killed = tmp_path / "world" / "items.csv", []

    def lose_a_worker(n_bytes: int) -> None:
        """It is told of the bytes when all parts were read, and nothing else was done."""
        killed.append(n_bytes)
        kill(standalone.workers[0])

    watched, cleaning = replace(source, watch=lose_a_worker), Cleaning(engine=Cluster(standalone.address, shard=2000))
    prepare(watched, items, tmp_path / "spark", cleaning, SplitRule())
    prepare(source, items, tmp_path / "memory", Cleaning(), SplitRule())

    assert killed == [source.size]
    assert hashes(tmp_path / "spark") == hashes(tmp_path / "memory")


def test_without_spark_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n")

    with pytest.raises(InputError, match=r"pip install 'retort\[spark\]'"):
        choose_engine(EngineWish("spark"), find_source(tmp_path / "log.csv"), tmp_path, None)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (" \n", "it says nothing, as where its master cannot be reached"),
        ("Job aborted\njava.io.IOException: no room\n\tat Driver", "java.io.IOException: no room"),
        ("Job aborted\n  by hand\n", "by hand"),
    ],
)
def test_what_spark_says_is_told_in_a_line(said: str, cause: str) -> None:
    assert cause_of(said) == cause


def test_a_master_without_spark_is_refused() -> None:
    for engine in ("auto", "polars", "duckdb"):
        with pytest.raises(InputError, match=f"--master is of --engine spark, not of {engine}"):
            EngineWish(engine, master="spark://host:7077")
