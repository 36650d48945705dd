"""Without a home, a name, a place for temporary files, or in a place that is closed, a line says the way out.

A trace from inside of the program would say nothing to whoever operates it.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.build_context import ROOT
from tests.contract.namespace import FOREIGN_USER, enter_as_foreign_user
from tests.service.running import clean_environment

SCRATCH = (
    "mount -t tmpfs tmpfs /mnt",
    f"install -d -m 700 -o {FOREIGN_USER} /mnt/own",
    "install -d -m 755 /mnt/others",
)
"""A file system of the namespace's own, with a directory of the foreign user's and one of root's."""
NO_TEMPORARY = tuple(
    f"mount --bind {place} {place} && mount -o remount,bind,ro {place}" for place in ("/tmp", "/var/tmp")
)
SERVE = ["-m", "service", "--port", "0", "--bundle"]


@pytest.fixture(scope="module")
def root(toy_bundle: Path) -> Iterator[Path]:
    """A directory that every user may enter, with a bundle in it."""
    path = Path(tempfile.mkdtemp(prefix="retort-bare-"))
    path.chmod(0o755)
    shutil.copytree(toy_bundle, path / "bundle", copy_function=shutil.copyfile)
    yield path
    shutil.rmtree(path)


def start_bare(
    root: Path, *words: object, mounts: tuple[str, ...] = SCRATCH, **environment: str
) -> "subprocess.Popen[str]":
    """Start Python as a user without a name, a home and a passwd entry."""
    enter = enter_as_foreign_user(root, *mounts)
    kept = {name: value for name, value in clean_environment({}).items() if name not in ("TMPDIR", "MPLCONFIGDIR")}
    return subprocess.Popen(
        [*enter, *[f"{name}={value}" for name, value in environment.items()], sys.executable, *map(str, words)],
        env=kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_bare(root: Path, *words: object, mounts: tuple[str, ...] = SCRATCH, **environment: str) -> tuple[int, str]:
    """Run Python in the same way to its end; return the exit code and all that it said."""
    with start_bare(root, *words, mounts=mounts, **environment) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def test_without_a_home_the_service_asks_for_a_data_directory(root: Path) -> None:
    code, said = run_bare(root, *SERVE, root / "bundle")

    assert code == 2
    assert "RETORT_DATA_DIR" in said
    assert "no home directory" in said
    assert len(said.splitlines()) == 1


def test_without_a_home_the_service_serves_from_a_data_directory(root: Path) -> None:
    with start_bare(root, *SERVE, root / "bundle", "--data-dir", "/mnt/own", "--workers", "2") as process:
        try:
            lines = iter(process.stderr.readline, "")
            assert any('"listening"' in line for line in lines)
        finally:
            process.send_signal(signal.SIGTERM)
        process.stderr.read()

    assert process.returncode == 0


@pytest.mark.parametrize("home", ["/root", "/nowhere", "/proc/1"])
def test_a_home_that_cannot_be_written_to_is_named_with_the_way_out(root: Path, home: str) -> None:
    code, said = run_bare(root, *SERVE, root / "bundle", HOME=home)

    assert code == 2
    assert home in said
    assert "RETORT_DATA_DIR" in said
    assert len(said.splitlines()) == 1


def test_doctor_finds_that_the_home_cannot_be_written_to(root: Path) -> None:
    code, said = run_bare(root, "-m", "service", "doctor", "--bundle", root / "bundle", HOME="/root")

    assert code == 1
    assert "FAIL  disk" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("place", "mounts"),
    [
        ("/mnt/others", SCRATCH),
        ("/mnt/own", (*SCRATCH, "mount -o remount,ro /mnt")),
        ("/mnt/others/file", (*SCRATCH, "touch /mnt/others/file")),
        ("/mnt/own", (*SCRATCH, f"install -o {FOREIGN_USER} /dev/null /mnt/own/lock && chmod 500 /mnt/own")),
    ],
    ids=["of another user", "read-only", "a file", "closed after its lock was made"],
)
def test_a_data_directory_that_cannot_be_written_to_is_named(root: Path, place: str, mounts: tuple[str, ...]) -> None:
    code, said = run_bare(root, *SERVE, root / "bundle", "--data-dir", place, mounts=mounts)

    assert code == 2
    assert said.splitlines()[-1].startswith(f"retort: {place}")
    assert "Traceback" not in said


@pytest.mark.parametrize("command", [["import"], ["export"]])
def test_a_file_that_cannot_be_reached_is_named(root: Path, command: list[str]) -> None:
    code, said = run_bare(root, "-m", "service", *command, "/mnt/others/events.jsonl", "--data-dir", "/mnt/own")

    assert code == 2
    assert said.splitlines()[-1].startswith("retort: /mnt/others/")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        (["--workers", "2", "--data-dir", "/mnt/own"], "set TMPDIR"),
        (["--data-dir", "/mnt/own/" + "long" * 30], "shorten RETORT_DATA_DIR, or set TMPDIR"),
    ],
)
def test_without_a_place_for_temporary_files_the_service_says_so(root: Path, words: list[str], way_out: str) -> None:
    code, said = run_bare(root, *SERVE, root / "bundle", *words, mounts=(*SCRATCH, *NO_TEMPORARY))

    assert code == 2
    assert way_out in said
    assert "Traceback" not in said


def test_without_a_place_for_temporary_files_training_says_so(root: Path) -> None:
    code, said = run_bare(root, "-m", "training", "--help", mounts=(*SCRATCH, *NO_TEMPORARY))

    assert code == 2
    assert "set TMPDIR" in said
    assert len(said.splitlines()) == 1


def test_training_names_a_place_that_cannot_be_written_to(root: Path, chain_world: Path) -> None:
    place = "/mnt/others"
    shutil.copyfile(chain_world, root / "interactions.csv")

    code, said = run_bare(
        root, "-m", "training", "prepare", "--interactions", root / "interactions.csv", "--out", place
    )

    assert code == 2
    assert said.startswith(f"error: {place}")
    assert len(said.splitlines()) == 1


def test_training_gives_a_user_without_a_name_one(root: Path) -> None:
    code, said = run_bare(root, "-c", "import training.machine, getpass; print(getpass.getuser())")

    assert (code, said) == (0, f"uid-{FOREIGN_USER}\n")
