"""What a confined process can still read of others, as root and as a user without privileges."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NOBODY = 65534
PROBE = """
import json, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from service.release import confinement
os.environ.get("SECRET")
layer, parent, ours, others = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
if layer == "confine":
    confinement.confine([ours], [])
elif layer == "files":
    confinement.restrict_files([ours], [])
elif layer != "none":
    getattr(confinement, layer)()
def can(read):
    try:
        read()
        return True
    except OSError:
        return False
def write():
    (ours / "new").write_text("x")
print(json.dumps({{
    "environ": can(lambda: open(f"/proc/{{parent}}/environ", "rb").read(1)),
    "memory": can(lambda: open(f"/proc/{{parent}}/mem", "rb")),
    "ours": can(lambda: (ours / "file").read_bytes()),
    "others": can(lambda: others.read_bytes()),
    "write": can(write),
    "signal": can(lambda: os.kill(int(parent), 0)),
}}))
"""
HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from service.release.confinement import hide_from_same_user
if {is_hidden}:
    hide_from_same_user()
print("ready", flush=True)
sys.stdin.read()
"""
USERS = [pytest.param(None, id="own"), pytest.param(NOBODY, id="nobody")]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that everybody may enter, also below a temporary directory of root's."""
    path = Path("/tmp") / f"retort-confinement-{os.getpid()}"
    path.mkdir()
    path.chmod(0o777)
    (path / "file").write_text("ours")
    yield path
    shutil.rmtree(path)


def probe(layer: str, place: Path, user: int | None, *, is_hidden: bool = False) -> dict[str, bool]:
    """Let a process of the same user look at another one that has a secret in its environment."""
    if user is not None and os.getuid() != 0:
        pytest.skip("NOT CHECKED: needs root to become somebody else")
    python = "/usr/bin/python3" if user is not None and Path("/usr/bin/python3").exists() else sys.executable
    root = ROOT
    if user is not None:
        root = place / "copy"
        package = root / "service" / "release"
        package.mkdir(parents=True)
        shutil.copy(ROOT / "service" / "release" / "confinement.py", package)
        for name in (root / "service" / "__init__.py", package / "__init__.py"):
            name.touch()
    start = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
    holder = subprocess.Popen(
        [python, "-c", HOLDER.format(root=str(root), is_hidden=is_hidden)],
        env={"SECRET": "s"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", **start,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"ready\n"
        done = subprocess.run(
            [python, "-c", PROBE.format(root=str(root)), layer, str(holder.pid), str(place), "/etc/passwd"],
            capture_output=True, text=True, cwd="/", check=False, **start,
        )  # fmt: skip
    finally:
        holder.communicate()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("user", USERS)
def test_without_confinement_everything_is_readable(place: Path, user: int | None) -> None:
    seen = probe("none", place, user)

    assert seen["environ"] and seen["memory"] and seen["others"] and seen["write"] and seen["signal"]


@pytest.mark.parametrize("user", USERS)
def test_confined_process_reads_what_it_is_given_and_no_other_process(place: Path, user: int | None) -> None:
    seen = probe("confine", place, user)

    assert not (seen["environ"] or seen["memory"])
    assert seen["ours"]
    if has_landlock():
        assert not (seen["others"] or seen["write"] or seen["signal"])


@pytest.mark.parametrize("user", USERS)
def test_kernel_without_landlock_hides_other_processes_by_a_user_namespace(place: Path, user: int | None) -> None:
    if user is not None and not can_leave():
        pytest.skip("NOT CHECKED: this system lets nobody make a user namespace")

    seen = probe("leave_namespaces", place, user)

    assert not (seen["environ"] or seen["memory"])
    assert seen["ours"]


def test_root_without_its_capabilities_reads_no_other_process_but_files(place: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("NOT CHECKED: needs root")

    seen = probe("drop_capabilities", place, None)

    assert not (seen["environ"] or seen["memory"])
    assert seen["ours"] and seen["others"]


@pytest.mark.parametrize("layer", ["none", "leave_namespaces", "files"])
def test_process_that_hides_is_closed_to_its_own_user(place: Path, layer: str) -> None:
    seen = probe(layer, place, NOBODY, is_hidden=True)

    assert not (seen["environ"] or seen["memory"])


def has_landlock() -> bool:
    code = "import ctypes; print(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) > 0


def can_leave() -> bool:
    code = f"import os, ctypes; os.setuid({NOBODY}); print(ctypes.CDLL(None).unshare(0x50000000))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0\n"
