"""A catalogue large enough to be searched through codes, and that search."""

from pathlib import Path

import pytest

from service.bundle import Bundle
from service.model.student import Student
from service.search.approximate import Approximate
from service.search.choice import open_search
from tests.service.toy import write_toy


@pytest.fixture(scope="session")
def large_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy(tmp_path_factory.mktemp("large") / "bundle", n_items=5000)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the codes of the large bundle are kept. Look, do not touch."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def search(large_bundle: Bundle, directory: Path) -> Approximate:
    return open_approximate(large_bundle, directory)


def open_approximate(bundle: Bundle, directory: Path) -> Approximate:
    found = open_search(bundle, Student(bundle).encode, kind="approximate", directory=directory, warn=refuse_warning)
    assert isinstance(found, Approximate)
    return found


def refuse_warning(message: str) -> None:
    raise AssertionError(message)
