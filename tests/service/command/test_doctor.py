"""The doctor finds what is wrong with real parts, says the way out, and says so by its exit code."""

import asyncio
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bundle import EMBEDDINGS
from service.command import doctor
from service.command.store_check import FAIL, PASS, WARN, Finding
from service.errors import RefusedError
from service.store.server import find_server
from tests.service.running import Running, run_command, wait_for


@pytest.fixture(scope="module")
def careless_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that may evict and keeps no file."""
    path = tmp_path_factory.mktemp("store") / "s"
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(path.parent), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(
        [str(find_server()), *options, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"],
        stdout=subprocess.DEVNULL,
    )
    wait_for(path.exists)
    yield f"unix://{path}"
    process.terminate()
    process.wait()


def levels(stdout: str) -> dict[str, str]:
    """Subject -> level of every finding printed."""
    lines = [line.split() for line in stdout.splitlines() if line.startswith((PASS, WARN, FAIL))]
    return {words[1]: words[0] for words in lines}


def test_doctor_finds_nothing_to_fail_beside_a_running_service(shared_service: Running, toy_bundle: Path) -> None:
    done = run_command("doctor", "--bundle", str(toy_bundle), "--data-dir", str(shared_service.data_dir))

    found = levels(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {found[name] for name in ("bundle", "use", "eviction", "persistence", "clock", "keys", "metrics")} == {PASS}


def test_doctor_fails_for_damage_and_eviction_and_says_the_way_out(
    careless_store: str, toy_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_bundle, tmp_path / "bundle")
    data = bytearray((tmp_path / "bundle" / EMBEDDINGS).read_bytes())
    data[-1] ^= 1
    (tmp_path / "bundle" / EMBEDDINGS).write_bytes(data)

    done = run_command(
        "doctor", "--bundle", str(tmp_path / "bundle"), "--data-dir", str(tmp_path), redis_url=careless_store
    )

    found = levels(done.stdout)
    assert done.returncode == 1
    assert (found["bundle"], found["eviction"], found["persistence"]) == (FAIL, FAIL, WARN)
    assert f"{EMBEDDINGS}: its sha256 differs" in done.stdout
    assert "maxmemory-policy noeviction" in done.stdout and "appendonly yes" in done.stdout


def test_doctor_fails_without_a_store_and_without_keys(tmp_path: Path) -> None:
    done = run_command("doctor", "--data-dir", str(tmp_path), host="0.0.0.0", redis_url="redis://127.0.0.1:1/0")

    found = levels(done.stdout)
    assert done.returncode == 1
    assert (found["store"], found["keys"], found["bundle"]) == (FAIL, FAIL, WARN)
    assert "RETORT_REDIS_URL" in done.stdout and "RETORT_API_KEYS" in done.stdout


@pytest.mark.parametrize(
    ("n_workers", "n_cores", "environment", "expected"),
    [
        (1, 1, {}, PASS), (3, 4, {}, PASS), (4, 4, {}, WARN), (5, 4, {}, WARN),
        (2, 4, {"OMP_NUM_THREADS": "4"}, WARN), (2, 4, {"OMP_NUM_THREADS": "many"}, PASS),
    ],
)  # fmt: skip
def test_cores_are_compared_with_workers_times_threads(
    n_workers: int, n_cores: int, environment: dict[str, str], expected: str
) -> None:
    assert doctor.check_cores(n_workers, n_cores, environment).level == expected


def test_metrics_directory_must_be_there_and_empty(tmp_path: Path) -> None:
    missing = doctor.check_metrics_directory({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "no")})
    empty = doctor.check_metrics_directory({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    (tmp_path / "counter_1.db").touch()
    used = doctor.check_metrics_directory({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})

    assert [missing.level, empty.level, used.level] == [FAIL, PASS, WARN]


def test_too_few_files_are_a_warning() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert doctor.check_files(soft, 1).level == WARN
    assert doctor.check_files(-doctor.SPARE_FILES, 1).level == PASS


def test_findings_give_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    good, poor, bad = (Finding(level, "it", "text", "do this") for level in (PASS, WARN, FAIL))

    assert [doctor.print_findings(found) for found in ([good], [good, poor], [good, bad])] == [0, 0, 1]
    assert "do this" in capsys.readouterr().out


def test_missing_bundle_is_a_failure(tmp_path: Path) -> None:
    async def refuse(path: Path) -> None:
        raise RefusedError("rejected_checksum", f"{path}: no manifest.json here")

    assert asyncio.run(doctor.check_bundle(tmp_path, refuse)).level == FAIL
    assert asyncio.run(doctor.check_bundle(None, refuse)).level == WARN
