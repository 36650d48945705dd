"""Children run what this process runs: nothing of the working directory, however inviting it is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.child import python_module
from tests.service.running import DEADLINE_S, Running, clean_environment

ROOT = Path(__file__).parents[2]
PLANTED = ("service/__init__.py", "service.py", "numpy.py", "orjson.py", "sitecustomize.py", "usercustomize.py",
           "encodings/__init__.py", "runpy.py", "ctypes.py")  # fmt: skip


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A directory whose files leave a mark where they are run."""
    directory = tmp_path / "trap"
    for name in PLANTED:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'sprung')!r}).write_text({name!r})\n")
    (directory / "service" / "__main__.py").write_text((directory / "service" / "__init__.py").read_text())
    return directory


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """What pip installs as the command: its own directory comes first on the path, not the working directory."""
    path = tmp_path / "bin" / "retort.py"
    path.parent.mkdir()
    path.write_text(
        f"import sys\nsys.path.insert(1, {str(ROOT)!r})\nfrom service.__main__ import main\nsys.exit(main())\n"
    )
    return path


def run_script(script: Path, *arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(script), *arguments], cwd=cwd, env=clean_environment({}) | environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class Installed(Running):
    """A service that was started by the installed command."""

    def __init__(self, script: Path, bundle: Path, data_dir: Path, *arguments: str, cwd: Path) -> None:
        super().__init__(bundle, data_dir, *arguments, cwd=cwd)
        self._command = [sys.executable, str(script)]


def test_workers_run_nothing_of_the_working_directory(
    trap: Path, script: Path, toy_bundle: Path, tmp_path: Path
) -> None:
    with Installed(script, toy_bundle, tmp_path / "data", "--workers", "2", cwd=trap) as service:
        assert service.recommend(history=["i1"], k=1)["quality"]["level"] == "full"

    assert not (tmp_path / "sprung").exists()


def test_trial_runs_nothing_of_the_working_directory(
    trap: Path, script: Path, toy_bundle: Path, tmp_path: Path
) -> None:
    done = run_script(script, "publish", str(toy_bundle), "--data-dir", str(tmp_path / "data"), cwd=trap)

    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("path", ["", ":/nowhere", ".", "{trap}"])
def test_an_empty_or_relative_entry_of_the_python_path_leads_no_child_astray(
    trap: Path, tmp_path: Path, path: str
) -> None:
    here, root = repr(str(trap)), repr(str(ROOT))
    code = (
        f"import sys; sys.path = [entry for entry in sys.path if entry != {here}]; sys.path.append({root}); "
        f"import service.child as child, subprocess; sys.path.insert(0, {here}); sys.path.insert(0, ''); "
        "sys.exit(subprocess.run(child.python_module('service', '--version'), stdin=subprocess.DEVNULL).returncode)"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=trap, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        env={**os.environ, "PYTHONPATH": path.format(trap=trap)},
    )  # fmt: skip

    assert (done.returncode, done.stdout[:6]) == (0, "retort"), done.stderr
    assert not (tmp_path / "sprung").exists()


def test_child_runs_the_module_of_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    """Without site-packages of its own: what the parent finds is passed on."""
    code = f"import sys; sys.path.append({str(ROOT)!r}); from service.child import python_module as p; print(p('x'))"

    said = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout

    assert str(ROOT) in said


def test_arguments_reach_the_module_as_they_are(tmp_path: Path) -> None:
    command = python_module("json.tool", "--no-ensure-ascii", str(tmp_path / 'it\'s "odd".json'))
    (tmp_path / 'it\'s "odd".json').write_text('{"a": "é"}')

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == '{\n    "a": "é"\n}\n'


def test_demo_starts_the_service_by_the_same_command() -> None:
    source = (ROOT / "training" / "run" / "demo.py").read_text()

    assert "python_module(" in source
    assert "sys.executable" not in source


def test_no_command_of_ours_says_minus_m() -> None:
    said = [path for folder in ("service", "training") for path in (ROOT / folder).rglob("*.py")
            if '"-m"' in path.read_text()]  # fmt: skip

    assert said == []
