"""The versions of Python that the package says it was tried with."""

import re
import sys
import tomllib

from tests.contract.build_context import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMED = [
    tuple(map(int, found[1].split(".")))
    for text in PYPROJECT["project"]["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text))
]


def test_this_python_is_named() -> None:
    assert sys.version_info[:2] in NAMED


def test_oldest_that_is_named_is_the_oldest_that_is_let_in() -> None:
    oldest = ".".join(map(str, min(NAMED)))

    assert PYPROJECT["project"]["requires-python"] == f">={oldest}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_versions_are_named_without_a_gap() -> None:
    assert [(3, minor) for minor in range(min(NAMED)[1], max(NAMED)[1] + 1)] == NAMED
