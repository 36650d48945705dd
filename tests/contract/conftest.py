"""A service of its own for each module of this folder: strangers that are let loose here change items and rules."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.running import Running


@pytest.fixture(scope="module")
def shared_service(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for a module."""
    with Running(toy_bundle, tmp_path_factory.mktemp("data")) as running:
        yield running
