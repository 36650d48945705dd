"""What training looks for before it imports anything large: the packages of its extra."""

import subprocess
import sys
import tomllib

import pytest

from tests.contract.build_context import ROOT
from training.machine import PACKAGES, find_lack, forget_peak, keep_freed_memory, peak_bytes, return_freed_memory


def test_packages_are_those_of_the_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert list(PACKAGES) == sorted(requirement.partition(">=")[0] for requirement in extras["train"])
    assert find_lack() is None


@pytest.mark.parametrize(
    "command", [["-m", "training", "--help"], ["-c", "from training.__main__ import main; main()", "run"]]
)
def test_without_the_extra_a_line_says_which_to_install(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-S", *command],  # without site-packages
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "polars" in done.stderr
    assert "pip install 'retort[train]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_and_a_mistyped_option_need_nothing_large() -> None:
    code = (
        "import sys; from training.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'torch', 'matplotlib', 'onnx'} & set(sys.modules))"
    )
    for words in (["run", "--help"], ["run", "--nonsense"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.stdout.endswith("set()\n")
        assert "usage: retort-train run" in done.stdout + done.stderr


def test_peak_is_that_since_it_was_forgotten() -> None:
    held = b"x" * 300_000_000
    high = peak_bytes()
    del held
    forget_peak()
    low = peak_bytes()

    assert high is not None and low is not None
    assert high - low > 250_000_000


def test_freed_memory_that_lies_in_pieces_is_kept_until_it_is_returned() -> None:
    keep_freed_memory()
    held = [b"x" * 1_000_000 for _ in range(300)]
    held = held[::10]  # what is held keeps the rest from being one piece
    forget_peak()
    kept = peak_bytes()
    return_freed_memory()
    forget_peak()
    returned = peak_bytes()

    assert kept is not None and returned is not None
    assert kept - returned > 200_000_000
    assert len(held) == 30
