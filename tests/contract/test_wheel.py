"""The wheel, installed elsewhere: it holds every module, serves a bundle, and trains one.

An editable install hides a package that setuptools does not find. So the wheel is installed into an environment of its
own, which takes the dependencies from this one but not the editable package, and is used from another directory.
"""

import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from service.bundle import open_bundle
from tests.contract.build_context import ROOT, copy_context
from tests.service.running import Running, clean_environment
from tests.training.world import tiny_settings

LEAST_SETUPTOOLS = 77  # pyproject.toml asks for it


def run(*command: object, cwd: Path) -> str:
    """Run a command to its end, which must be a good one; return its output."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=clean_environment({}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_setuptools() -> bool:
    """Whether the setuptools of this environment can build the wheel; else pip gets one into a place of its own."""
    try:
        return int(version("setuptools").partition(".")[0]) >= LEAST_SETUPTOOLS
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that is not the repository, for commands that must find the installed package."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("PYTHONPATH", raising=False)
        yield tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def wheel(elsewhere: Path) -> Path:
    """The wheel, built from what a build may see."""
    context = elsewhere / "context"
    context.mkdir()
    copy_context(context)
    isolation = ["--no-build-isolation"] if has_setuptools() else []
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", *isolation, "--wheel-dir", "dist", context, cwd=elsewhere)
    (built,) = (elsewhere / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, elsewhere: Path) -> Path:
    """The interpreter of an environment that has the wheel, and the dependencies of this one."""
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=elsewhere)
    python = elsewhere / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=elsewhere)
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=elsewhere).strip()
    # A path that a .pth file names is searched last, and .pth files in it, such as an editable package's, do not count.
    (Path(own) / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return python


def test_wheel_holds_every_module_and_template_and_no_test(wheel: Path) -> None:
    kinds = ("*.py", "*.j2")
    expected = {
        str(path.relative_to(ROOT))
        for package in ("service", "training")
        for kind in kinds
        for path in (ROOT / package).rglob(kind)
    } | {
        str(path.relative_to(ROOT))
        for folder in ("edge", "page")
        for path in (ROOT / "service" / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    names = set(zipfile.ZipFile(wheel).namelist())

    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {Path(name).suffix for name in expected} >= {".j2", ".js", ".html"}


def test_installed_package_is_the_wheels_and_has_its_commands(python: Path, elsewhere: Path) -> None:
    code = "import service.app, training.run.pipeline; print(service.app.__file__, training.run.pipeline.__file__)"

    for path in run(python, "-c", code, cwd=elsewhere).split():
        assert Path(path).is_relative_to(elsewhere / "venv")
    for name in ("retort", "retort-train"):
        assert "COMMAND" in run(python.parent / name, "--help", cwd=elsewhere)


def test_installed_package_serves_a_bundle(python: Path, elsewhere: Path, toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path / "data", python=python, cwd=elsewhere) as running:
        answer = running.recommend(history=["i1", "i2"], k=3)

    assert answer["quality"] == {"level": "full", "reasons": []}
    assert len(answer["items"]) == 3


def test_installed_package_trains_a_bundle_and_reports(
    python: Path, elsewhere: Path, chain_world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    run(python, "-m", "training", "run", "--interactions", chain_world, "--out", out, *tiny_settings(), cwd=elsewhere)

    assert "<html" in (out / "report.html").read_text()
    assert open_bundle(out / "bundle").manifest.n_items > 0
