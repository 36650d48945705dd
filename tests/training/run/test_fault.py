"""What the machine does to a run is said in a line, and what was whole stays whole."""

import errno
import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.world import write_chain_world
from training.__main__ import main
from training.errors import InputError
from training.run.fault import machine_fault, write_whole
from training.run.lock import NAME, hold


def prepare(world: Path, out: Path, *more: str) -> list[str]:
    return ["prepare", "--interactions", str(world), "--out", str(out), *more]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError("17 requested and 0 written"), "the disk is full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large", "a.npy"), "a.npy: a file is larger than the limit allows"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; choose another place"),
        (FileNotFoundError("No such file (os error 2): run/a.parquet"), "run/a.parquet: No such file or directory"),
        (MemoryError(), "out of memory"),
        (ValueError("a bug"), None),
        (OSError("a bug"), None),
    ],
)
def test_machine_fault_knows_the_machine_from_a_bug(error: Exception, said: str | None) -> None:
    fault = machine_fault(error)

    assert fault is None if said is None else said in str(fault)


def test_machine_fault_looks_behind_an_error() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as exc:
            raise ValueError("later") from exc
    except ValueError as error:
        assert "the disk is full" in str(machine_fault(error))


def test_write_whole_leaves_the_old_file_where_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("old")

    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")

    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["config.toml"]


def test_a_write_that_fails_is_said_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    world, out = write_chain_world(tmp_path / "log.csv"), tmp_path / "run"
    assert main(prepare(world, out)) == 0
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-m", "training", *prepare(world, out, "--set", "prepare.max_history=7")],
        preexec_fn=limit,  # it only sets a limit
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "larger than the limit allows. What was finished is whole" in done.stderr
    assert {file: file.read_bytes() for file in before} == before


def test_a_second_command_in_a_directory_is_refused_with_the_process_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, out = write_chain_world(tmp_path / "log.csv"), tmp_path / "run"
    assert main(prepare(world, out)) == 0
    config = (out / "config.toml").read_bytes()

    with hold(out):
        code = main(prepare(world, out, "--set", "student.seed=2"))

    assert code == 2
    assert f"another command works in it (process {os.getpid()})" in capsys.readouterr().err
    assert (out / "config.toml").read_bytes() == config
    assert not (out / NAME).exists()


def test_hold_takes_over_from_a_process_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("12345\n")

    with hold(tmp_path):
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"


def test_hold_says_that_the_owner_is_unknown_where_it_wrote_nothing(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="process unknown"), hold(tmp_path):
            pass
