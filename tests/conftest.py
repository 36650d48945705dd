"""Fixtures that more than one folder uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.running import Running
from tests.service.toy import write_toy


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle that needs no torch."""
    return write_toy(tmp_path_factory.mktemp("toy") / "bundle").path


@pytest.fixture(scope="session")
def shared_service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for the tests that do it no harm; each uses users of its own."""
    with Running(toy_bundle, tmp_path_factory.mktemp("data")) as running:
        yield running
